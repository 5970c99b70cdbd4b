/// Which files are of this directory's history for certain, and which are not.
///
/// `clean` and `tail` name the segment in which the last writer of the directory was; the operator may name a
/// file instead. From such a file proof goes backwards alone: its header names the last frame of the segment before it, and
/// an index file that was made of it names those of all before. Nothing goes forwards, since two copies may follow on from
/// one segment. A file that contradicts one of these is of another history, and so is what follows on from it.
struct SalvageAnchors {
  let links: SalvageLinks
  /// As far as it is to be believed.
  let clean: CleanEnd?
  let notice: TailNotice?
  /// Named by the operator (`--keep`).
  let kept: Set<Int>
  /// Files of this history.
  private(set) var own: Set<Int> = []
  /// Files of another one, and why.
  private(set) var foreign: [Int: String] = [:]

  private var files: [SegmentEvidence] { links.files }

  init(_ links: SalvageLinks, clean: CleanEnd?, notice: TailNotice?, keeping wanted: Keeping = Keeping()) {
    self.links = links
    let files = links.files
    kept = Set(files.indices.filter { wanted.paths.contains(files[$0].part.path) })
    let byClean = clean.map { clean in files.indices.filter { files[$0].testimony(on: clean) == .names } } ?? []
    let byNotice = notice.map { notice in files.indices.filter { files[$0].testimony(on: notice) == .names } } ?? []
    var closures = [Self.closure(kept, links)]
    // What names two files tells nothing.
    closures.append(byClean.count == 1 && !wanted.tail ? Self.closure(Set(byClean), links) : [])
    closures.append(byNotice.count == 1 && !wanted.clean ? Self.closure(Set(byNotice), links) : [])
    // One that contradicts what was asked for is not to be believed, and neither are two that contradict one another.
    var isBelieved = [true, true, true]
    if Self.contradict(closures[1], closures[2], links) { isBelieved = [true, false, false] }
    for number in 1...2 where Self.contradict(closures[0], closures[number], links) { isBelieved[number] = false }
    self.clean = isBelieved[1] && !wanted.tail ? clean : nil
    self.notice = isBelieved[2] && !wanted.clean ? notice : nil
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

  /// The files, and all that are proven to be before them.
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

  /// The place in an index file of the segment that a file is, or follows by its header; all before it there are before the
  /// file, too. nil if the index was made of others.
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
    // What follows on from a file of another history is of that one, too.
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
    if isCleanBelieved, let clean, file.baseOffset > clean.baseOffset { return "it lies behind the end of the log" }
    // One that was closed, too, goes on only with what follows by its last frame.
    if let notice, notice.state == .closed,
      let end = own.first(where: { files[$0].isEnd(notice) && files[$0].endChain != nil && $0 < number })
    {
      if case .proven = links[end, number] { return nil }
      return "it lies behind the end of the log"
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
      if let chain = file.endChain, chain != segment.chain, file.endPosition >= Int(segment.endPosition) {
        return "an index file of the segments there knows another one"
      }
    }
    return nil
  }

  /// A file in the place of the one that the log ended in, as `clean` and `tail` say, when none is that one: it is none of
  /// this history if it does not follow on from the file before it either.
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

  /// What denies that the log ends as files do, if nothing names one of them.
  func denial(of taken: [Int]) -> String? {
    guard kept.isEmpty else { return nil }
    var denying: [String] = []
    if let clean {
      let said = taken.map { files[$0].testimony(on: clean) }
      if said.contains(.names) { return nil }
      if said.contains(.denies) { denying.append(FileName.clean) }
    }
    if let notice {
      let said = taken.map { files[$0].testimony(on: notice) }
      if said.contains(.names) { return nil }
      if said.contains(.denies) { denying.append(FileName.tail) }
    }
    return denying.first
  }
}
