/// Which files certainly belong to this directory's history, and which don't.
///
/// `clean` and `tail` name the segment that the directory's last writer was in; the operator may name a file instead. Proof
/// goes only backwards from such a file: its header names the last frame of the segment before it, and an index file that
/// was built from it names those of all segments before. Nothing is proven forwards, since two copies may continue from one
/// segment. A file that contradicts a proven one belongs to another history, and so does everything that follows it.
struct SalvageAnchors {
  let links: SalvageLinks
  /// nil if it is not to be believed.
  let clean: CleanEnd?
  let notice: TailNotice?
  /// Files that the operator named (`--keep`).
  let kept: Set<Int>
  /// Files of this history.
  private(set) var own: Set<Int> = []
  /// Files of another history, and why.
  private(set) var foreign: [Int: String] = [:]
  /// Where the log ended, if that is certain whatever is left of the segment that it ended in.
  let closedEnd: DurableEnd?

  var files: [SegmentEvidence] { links.files }

  init(_ links: SalvageLinks, clean: CleanEnd?, notice: TailNotice?, keeping wanted: Keeping = Keeping()) {
    self.links = links
    let files = links.files
    kept = Set(files.indices.filter { wanted.paths.contains(files[$0].part.path) })
    let byClean = clean.map { clean in files.indices.filter { files[$0].testimony(on: clean) == .names } } ?? []
    let byNotice = notice.map { notice in files.indices.filter { files[$0].testimony(on: notice) == .names } } ?? []
    var closures = [Self.closure(kept, links)]
    // A mark that names two files proves nothing.
    closures.append(byClean.count == 1 && !wanted.tail ? Self.closure(Set(byClean), links) : [])
    closures.append(byNotice.count == 1 && !wanted.clean ? Self.closure(Set(byNotice), links) : [])
    // A mark that contradicts the operator's choice is not believed, and neither are two that contradict each other.
    var isBelieved = [true, true, true]
    if Self.contradict(closures[1], closures[2], links) { isBelieved = [true, false, false] }
    let ends = [nil, clean?.end, notice?.closedEnd]
    for number in 1...2 {
      let isPassed = ends[number].map { end in closures[0].contains { files[$0].baseOffset > end.baseOffset } } ?? false
      if isPassed || Self.contradict(closures[0], closures[number], links) { isBelieved[number] = false }
    }
    self.clean = isBelieved[1] && !wanted.tail ? clean : nil
    self.notice = isBelieved[2] && !wanted.clean ? notice : nil
    closedEnd = Self.closedEnd(self.clean, self.notice, files, keeping: wanted)
    own = closures[0]
    for number in 1...2 where isBelieved[number] { own.formUnion(closures[number]) }
    findForeign(isCleanBelieved: isBelieved[1] && byClean.count == 1, trusts: wanted)
  }

  /// What the operator wants to keep.
  struct Keeping {
    var paths: Set<String> = []
    var clean = false
    var tail = false
  }

  func isKept(_ earlier: Int, _ later: Int) -> Bool {
    (kept.contains(earlier) || kept.contains(later)) && own.contains(earlier) && own.contains(later)
  }

  /// The files, and all files that are proven to come before them.
  static func closure(_ seeds: Set<Int>, _ links: SalvageLinks) -> Set<Int> {
    guard !seeds.isEmpty else { return [] }
    let files = links.files
    let numbers = Dictionary(grouping: files.indices) { files[$0].baseOffset }
    var own = seeds
    var open = Array(seeds)
    func add(_ number: Int) {
      if own.insert(number).inserted { open.append(number) }
    }
    while let number = open.popLast() {
      let file = files[number]
      if let previous = file.part.header?.previousBaseOffset {
        for earlier in numbers[previous] ?? [] {
          if case .proven = links[earlier, number] { add(earlier) }
        }
      }
      for index in links.indexes {
        guard let known = lastKnown(of: index, by: file) else { continue }
        for segment in index.header.segments[...known] {
          for earlier in numbers[segment.baseOffset] ?? [] where files[earlier].endChain == segment.chain {
            add(earlier)
          }
        }
      }
    }
    return own
  }

  /// The index in an index file's segments of the segment that a file holds, or that it follows according to its header.
  /// All segments before that index come before the file, too. nil if the index was built from other files.
  private static func lastKnown(of index: IndexFile, by file: SegmentEvidence) -> Int? {
    let segments = index.header.segments
    return segments.lastIndex { segment in
      segment.baseOffset == file.baseOffset
        ? file.endChain == segment.chain
        : file.part.header.map { $0.previousBaseOffset == segment.baseOffset && $0.chain == segment.chain } ?? false
    }
  }

  static func contradict(_ some: Set<Int>, _ others: Set<Int>, _ links: SalvageLinks) -> Bool {
    for one in some.subtracting(others) {
      for other in others.subtracting(some) {
        if case .contradiction = links[min(one, other), max(one, other)] { return true }
      }
    }
    return false
  }

  private mutating func findForeign(isCleanBelieved: Bool, trusts wanted: Keeping) {
    for number in files.indices where !own.contains(number) {
      if let reason = contradiction(of: number, isCleanBelieved: isCleanBelieved) ?? denial(of: number, wanted) {
        foreign[number] = reason
      }
    }
    // A file that follows a file of another history belongs to that history, too.
    for later in files.indices where !own.contains(later) && foreign[later] == nil {
      for earlier in files.indices[..<later] where foreign[earlier] != nil {
        if case .proven = links[earlier, later] {
          foreign[later] = "it follows on from \(fileName(of: files[earlier].part.path)), which is left out"
          break
        }
      }
    }
  }

  private func contradiction(of number: Int, isCleanBelieved: Bool) -> String? {
    let file = files[number]
    for other in own.sorted() {
      if other < number, case .contradiction(let reason) = links[other, number] { return reason }
      if number < other, case .contradiction = links[number, other] {
        return files[other].baseOffset == file.baseOffset
          ? "another file is this segment" : "it does not go on with \(files[other].name)"
      }
    }
    if let closedEnd, file.baseOffset > closedEnd.baseOffset { return "it lies behind the end of the log" }
    if isCleanBelieved, let clean, file.baseOffset > clean.baseOffset { return "it lies behind the end of the log" }
    // After a clean close, too, only files that follow by their last frames continue the log. `tail` is never synced, so after a
    // power cut any number of segments may have been begun since that close.
    if let notice, notice.state == .closed,
      let end = own.first(where: { files[$0].isEnd(notice) && files[$0].endChain != nil && $0 < number })
    {
      return follows(number, end) ? nil : "it lies behind the end of the log"
    }
    for index in links.indexes {
      guard let known = own.compactMap({ Self.lastKnown(of: index, by: files[$0]) }).max() else { continue }
      let segments = index.header.segments[...known]
      guard let first = segments.first, let last = segments.last, first.baseOffset <= file.baseOffset,
        file.baseOffset <= last.baseOffset
      else { continue }
      guard let segment = segments.first(where: { $0.baseOffset == file.baseOffset }) else {
        return "an index file of the segments there knows another one"
      }
      let isLater = file.endChain.map { $0 != segment.chain && file.endPosition >= Int(segment.endPosition) } ?? false
      if isLater || file.contradicting.contains(index.path) {
        return "an index file of the segments there knows another one"
      }
    }
    return nil
  }

  /// Whether a file is proven to follow another one, directly or by way of the files between them.
  private func follows(_ number: Int, _ end: Int) -> Bool {
    var number = number
    while number > end {
      let previous = files[number].part.header?.previousBaseOffset
      let before = files.indices[end..<number].last { earlier in
        guard files[earlier].baseOffset == previous, case .proven = links[earlier, number] else { return false }
        return true
      }
      guard let before else { return false }
      number = before
    }
    return true
  }

  /// Why a file is foreign that takes the position of the segment in which the log ended, according to `clean` and `tail`,
  /// when no file is that segment. It is foreign if it does not follow the file before it either.
  private func denial(of number: Int, _ wanted: Keeping) -> String? {
    let file = files[number]
    let said = [clean.map(file.testimony(on:)), notice.map(file.testimony(on:))].compactMap { $0 }
    let others = files.indices.filter { $0 != number }
    let isNamed = others.contains { other in
      clean.map { files[other].testimony(on: $0) == .names } ?? false
        || notice.map { files[other].testimony(on: $0) == .names } ?? false
    }
    guard !said.isEmpty, said.allSatisfy({ $0 == .denies }), !isNamed else { return nil }
    if wanted.clean || wanted.tail {
      return "the log ended in another file, as \(wanted.clean ? "clean" : "tail") says"
    }
    let before = files.indices[..<number].filter { files[$0].baseOffset == file.part.header?.previousBaseOffset }
    let isContradicted = before.contains { earlier in
      if case .contradiction = links[earlier, number] { true } else { false }
    }
    let isFollowing = before.contains { earlier in
      if case .proven = links[earlier, number] { true } else { false }
    }
    return isContradicted && !isFollowing ? "the log ended in another file, as clean and tail say" : nil
  }
}
