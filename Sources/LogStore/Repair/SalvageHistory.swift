/// Decides which of the files that claim to be this store's segments are of one history.
///
/// Two copies of a store that were both written to have the same store id, and all checks pass in both. What distinguishes
/// them is how files follow each other: each header names the segment before it, the offset where that ends, and the
/// checksum of its last frame; an index file names the last frame of each segment that it was built from. Files that
/// contradict each other are never both taken. `clean` and `tail`, which name this directory's last segment, or the
/// operator decide which history is this directory's (``SalvageAnchors``). Files that contradict that history are left out.
/// Where files contradict each other and nothing tells which are this store's, there are alternatives.
struct SalvageHistory {
  /// A file that is left out, and why.
  struct LeftOut {
    var file: SegmentEvidence
    var reason: String
    /// The doubt about a taken file that may be of the same history as this one: empty, or the end of a sentence.
    var doubt = ""
  }

  /// One choice of files that do not contradict each other.
  struct Alternative {
    var files: [SegmentEvidence]
    /// The file to name to keep this choice.
    var keeping: SegmentEvidence
  }

  struct Choice {
    /// In order.
    var taken: [SegmentEvidence]
    var leftOut: [LeftOut]
    /// More than one if nothing decides; ``taken`` is the first.
    var alternatives: [Alternative]
    /// The mark that denies that the log ends as the taken files do, if no mark confirms it.
    var denial: String?

    /// The histories to choose from; empty if it is decided.
    var histories: [RepairHistory] {
      if alternatives.isEmpty {
        guard let denial, let last = taken.last else { return [] }
        let all = RepairHistory(
          files: taken.map(\.part.path), events: taken.reduce(0) { $0 + $1.events }, endOffset: last.endOffset,
          keeping: last.part.path)
        return [all, RepairHistory(files: [], events: 0, endOffset: nil, keeping: denial)]
      }
      return alternatives.map { way in
        let others = alternatives.filter { $0.files.map(\.part.path) != way.files.map(\.part.path) }
        let own = way.files.filter { file in
          others.contains { !$0.files.contains { $0.part.path == file.part.path } }
        }
        return RepairHistory(
          files: own.map(\.part.path), events: way.files.reduce(0) { $0 + $1.events },
          endOffset: way.files.last?.endOffset, keeping: way.keeping.part.path)
      }
    }
  }

  private enum Vote { case confirmed, denied, none }

  static let alternativesMax = 8

  let anchors: SalvageAnchors
  private var links: SalvageLinks { anchors.links }
  private var files: [SegmentEvidence] { links.files }
  private var clean: CleanEnd? { anchors.clean }
  private var notice: TailNotice? { anchors.notice }
  private let votes: [Vote]
  /// The bonus for an end that `clean`, or `tail`, names: as much as all events.
  private let endBonus: Int

  init(_ anchors: SalvageAnchors) {
    self.anchors = anchors
    let links = anchors.links
    votes = links.files.map { Self.vote(of: links.indexes, on: $0) }
    endBonus = 4 * links.files.reduce(0) { $0 + Self.weight($1) }
  }

  /// The files that are taken, and all others. Quadratic in the number of files.
  func choose() -> Choice {
    let candidates = files.indices.filter { anchors.foreign[$0] == nil }
    let taken = bestWay(among: candidates)
    let chosen = Set(taken)
    var ways = [taken]
    for number in candidates where !chosen.contains(number) {
      let way = bestWay(among: fitting(number, candidates), through: number)
      if way.contains(number), !ways.contains(way), ways.count < Self.alternativesMax { ways.append(way) }
    }
    for (earlier, later) in zip(taken, taken.dropFirst()) where isDoubtful(earlier, later) {
      let way = bestWay(among: candidates.filter { $0 != earlier }, through: later)
      if !ways.contains(way), ways.count < Self.alternativesMax { ways.append(way) }
    }
    return Choice(
      taken: taken.map { files[$0] }, leftOut: leftOut(taken),
      alternatives: ways.count > 1 ? ways.map { alternative($0, of: ways) } : [], denial: anchors.denial(of: taken))
  }

  /// The files that contradict neither a file nor what is proven to come before it. Naming the file leaves out the others,
  /// so no choice through it has one of them.
  private func fitting(_ number: Int, _ candidates: [Int]) -> [Int] {
    let own = SalvageAnchors.closure([number], links)
    return candidates.filter { !SalvageAnchors.contradict(own, [$0], links) }
  }

  private func alternative(_ way: [Int], of ways: [[Int]]) -> Alternative {
    let others = ways.filter { $0 != way }
    let own = way.filter { number in !others.contains { $0.contains(number) } }
    let partly = way.filter { number in others.contains { !$0.contains(number) } }
    // If the others have all of its files and more: the next file after the first one that only they have.
    let more = others.flatMap { $0 }.filter { !way.contains($0) }.min() ?? 0
    let keeping = own.last ?? partly.last ?? way.first { $0 > more } ?? way[way.count - 1]
    return Alternative(files: way.map { files[$0] }, keeping: files[keeping])
  }

  /// The choice of files with the most proof.
  private func bestWay(among candidates: [Int], through wanted: Int? = nil) -> [Int] {
    // The best choice that ends with each file: its worth, and the candidate before.
    var ways: [(worth: Int, before: Int?)] = []
    for (index, later) in candidates.enumerated() {
      var best: (worth: Int, before: Int?) = (0, nil)
      // The nearest first: among choices of equal worth, the one without a hole.
      for earlier in candidates.indices[..<index].reversed() {
        guard let worth = worth(of: candidates[earlier], then: later).map({ $0 + ways[earlier].worth }) else {
          continue
        }
        if worth > best.worth { best = (worth, earlier) }
      }
      ways.append((best.worth + worth(of: later) + (later == wanted ? 16 * endBonus : 0), best.before))
    }
    var way: [Int] = []
    var next = ways.indices.max { ways[$0].worth < ways[$1].worth }
    while let number = next {
      way.append(candidates[number])
      next = ways[number].before
    }
    return way.reversed()
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
    if anchors.kept.contains(number) { worth += 4 * endBonus }
    return worth
  }

  /// The worth that a file adds by directly following another; nil if it can't follow it.
  private func worth(of earlier: Int, then later: Int) -> Int? {
    switch links[earlier, later] {
    case .contradiction: return nil
    case .proven: return Self.weight(files[earlier]) + Self.weight(files[later])
    case .doubtful where !anchors.kept.isEmpty && !anchors.isKept(earlier, later): return nil
    case .possible, .doubtful: break
    }
    // Nothing comes behind the end that `clean` or `tail` names, unless there is so much that the mark must be older than
    // the log.
    let ends = [clean.map(files[earlier].isEnd) ?? false, notice.map { isLast(earlier, by: $0) } ?? false]
    return -endBonus * ends.count { $0 }
  }

  /// Whether the log ended with this file, according to `tail`. An open writer publishes its end again and again, but `tail`
  /// is never synced: where frames behind that end may be lost, it only says that the log came at least so far.
  private func isLast(_ number: Int, by notice: TailNotice) -> Bool {
    files[number].isEnd(notice) && (notice.state == .closed || files[number].endChain != nil)
  }

  private func isDoubtful(_ earlier: Int, _ later: Int) -> Bool {
    if case .doubtful = links[earlier, later] { !anchors.isKept(earlier, later) } else { false }
  }

  /// What the index files say about a file: each names the last frame of each segment that it was built from.
  private static func vote(of indexes: [IndexFile], on file: SegmentEvidence) -> Vote {
    var vote = Vote.none
    for index in indexes where (index.baseOffset..<index.endOffset).contains(file.baseOffset) {
      guard let segment = index.header.segments.first(where: { $0.baseOffset == file.baseOffset }) else {
        vote = .denied
        continue
      }
      if file.contradicting.contains(index.path) { vote = .denied }
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
      if let reason = anchors.foreign[number] {
        let shared = taken.last { earlier in
          if case .proven = links[earlier, number], !anchors.own.contains(earlier) { true } else { false }
        }
        // Nothing tells whether the copies had already diverged there.
        let doubt = shared.map { "; \(fileName(of: files[$0].part.path)) before it, which is kept, may be, too" } ?? ""
        return LeftOut(file: files[number], reason: reason, doubt: doubt)
      }
      let before = taken.last { files[$0].baseOffset <= files[number].baseOffset }
      let after = taken.first { files[$0].baseOffset > files[number].baseOffset }
      if let before, case .contradiction(let reason) = links[before, number] {
        return LeftOut(file: files[number], reason: reason)
      }
      if let after, case .contradiction = links[number, after] {
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
