/// Which of the files that say they are this store's segments are of one history.
///
/// Two copies of a store that both were written to have the same store id, and all checks pass in both. What tells them
/// apart is how files follow one another: each header names the segment before it, the offset where that ends, and the
/// checksum of its last frame; an index file names the last frame of each segment that it was made of; `clean` and `tail` name
/// the last segment. Files that contradict one another are never both taken. Of all ways to take files that do not, the one
/// with the most proof counts.
struct SalvageHistory {
  /// A file that is left out, and why.
  struct LeftOut {
    var file: SegmentEvidence
    var reason: String
  }

  private enum Link {
    /// The later file's header has the checksum of the earlier one's last frame.
    case proven
    /// Nothing speaks for it or against it: damage, or a missing segment, lies between.
    case possible
    case contradiction(String)
  }

  /// A disk loses no less.
  private static let sectorByteCount = 512

  private enum Vote { case confirmed, denied, none }

  /// In order of base offsets.
  private let files: [SegmentEvidence]
  private let indexes: [SealedIndex]
  private let clean: CleanEnd?
  private let notice: TailNotice?
  private let votes: [Vote]
  /// Counts for an end that `clean`, or `tail`, names: as much as all events.
  private let endBonus: Int

  init(_ found: [SegmentEvidence], indexes: [SealedIndex], clean: CleanEnd?, notice: TailNotice?) {
    let files = found.sorted { $0.baseOffset < $1.baseOffset }
    self.files = files
    self.indexes = indexes
    self.clean = clean
    self.notice = notice
    votes = files.map { Self.vote(of: indexes, on: $0) }
    endBonus = 4 * files.reduce(0) { $0 + Self.weight($1) }
  }

  /// The files that are taken, in order, and all others. Quadratic in the number of files.
  func choose() -> (taken: [SegmentEvidence], leftOut: [LeftOut]) {
    // The best way that ends with each file: its worth, and the file before.
    var ways: [(worth: Int, before: Int?)] = []
    for later in files.indices {
      var best: (worth: Int, before: Int?) = (0, nil)
      // The nearest first: of ways of the same worth the one without a hole.
      for earlier in files.indices[..<later].reversed() {
        guard let worth = worth(of: earlier, then: later).map({ $0 + ways[earlier].worth }) else { continue }
        if worth > best.worth { best = (worth, earlier) }
      }
      ways.append((best.worth + worth(of: later), best.before))
    }
    var taken: [Int] = []
    var place = ways.indices.max { ways[$0].worth < ways[$1].worth }
    while let number = place {
      taken.append(number)
      place = ways[number].before
    }
    taken.reverse()
    return (taken.map { files[$0] }, leftOut(taken))
  }

  // MARK: - Proof

  /// At least one, so that a segment without events counts.
  private static func weight(_ file: SegmentEvidence) -> Int { Int(clamping: min(file.events, 1 << 40)) + 1 }

  private func worth(of number: Int) -> Int {
    let file = files[number]
    var worth = 4 * Self.weight(file) + (file.isNamedSo ? 1 : 0)
    switch votes[number] {
    case .confirmed: worth += 2 * Self.weight(file)
    // Taken only if other files prove that it is one of theirs.
    case .denied: worth = -1
    case .none: break
    }
    if let clean, file.isEnd(clean) { worth += endBonus }
    if let notice, file.isOpen(notice) { worth += endBonus }
    return worth
  }

  /// What one file adds that directly follows another; nil if it can't.
  private func worth(of earlier: Int, then later: Int) -> Int? {
    switch link(files[earlier], files[later]) {
    case .contradiction: return nil
    case .proven: return Self.weight(files[earlier]) + Self.weight(files[later])
    case .possible: break
    }
    // Behind the end that `clean` or `tail` names there is nothing, unless there is so much that what names it must be older
    // than the log.
    let ends = [clean.map(files[earlier].isEnd) ?? false, notice.map(files[earlier].isEnd) ?? false]
    return -endBonus * ends.count { $0 }
  }

  private func link(_ earlier: SegmentEvidence, _ later: SegmentEvidence) -> Link {
    let name = FileName.segment(earlier.baseOffset)
    guard earlier.baseOffset < later.baseOffset else {
      return .contradiction("another file with more proof is this segment")
    }
    guard earlier.endOffset <= later.part.previousEndOffset else {
      return .contradiction(
        "it begins with offset \(later.baseOffset), and \(name) has events up to \(earlier.endOffset - 1)")
    }
    guard let header = later.part.header else { return .possible }
    guard header.previousBaseOffset != SegmentHeader.noPrevious else {
      return .contradiction("it says that it is the first segment, and \(name) is before it")
    }
    guard header.previousBaseOffset >= earlier.baseOffset else {
      return .contradiction("it follows the segment of offset \(header.previousBaseOffset), and not \(name)")
    }
    guard header.previousBaseOffset == earlier.baseOffset else {
      return earlier.endOffset <= header.previousBaseOffset
        ? .possible
        : .contradiction(
          "it follows a segment that begins with offset \(header.previousBaseOffset), and \(name) has that event")
    }
    guard let chain = earlier.endChain, earlier.endOffset == header.previousEndOffset else { return .possible }
    if chain == header.chain { return .proven }
    // Sectors at the end of the earlier one may be lost, in which frames with cursors alone stood.
    let indexed = indexes.flatMap(\.header.segments).filter { $0.baseOffset == earlier.baseOffset }
    if earlier.endPosition % Self.sectorByteCount == 0, !indexed.contains(where: { $0.chain == chain }),
      indexed.isEmpty || indexed.contains(where: { $0.endPosition > earlier.endPosition })
    {
      return .possible
    }
    return .contradiction("the last frame of \(name) is not the one that it follows")
  }

  /// What index files say of a file: each names the last frame of each segment that it was made of.
  private static func vote(of indexes: [SealedIndex], on file: SegmentEvidence) -> Vote {
    var vote = Vote.none
    for index in indexes where (index.baseOffset..<index.endOffset).contains(file.baseOffset) {
      guard let segment = index.header.segments.first(where: { $0.baseOffset == file.baseOffset }) else {
        vote = .denied
        continue
      }
      guard let chain = file.endChain else { continue }
      if chain == segment.chain { return .confirmed }
      if file.endPosition >= Int(segment.endPosition) { vote = .denied }
    }
    return vote
  }

  // MARK: - What is left out

  private func leftOut(_ taken: [Int]) -> [LeftOut] {
    let chosen = Set(taken)
    return files.indices.filter { !chosen.contains($0) }.map { number in
      let before = taken.last { files[$0].baseOffset <= files[number].baseOffset }
      let after = taken.first { files[$0].baseOffset > files[number].baseOffset }
      if let before, case .contradiction(let reason) = link(files[before], files[number]) {
        return LeftOut(file: files[number], reason: reason)
      }
      if let after, case .contradiction = link(files[number], files[after]) {
        return LeftOut(
          file: files[number], reason: "it does not go on with \(FileName.segment(files[after].baseOffset))")
      }
      return LeftOut(
        file: files[number],
        reason: votes[number] == .denied
          ? "an index file of the segments there knows another one" : "it lies behind the end of the log")
    }
  }
}
