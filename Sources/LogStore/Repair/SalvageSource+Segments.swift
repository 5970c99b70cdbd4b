// Which files are the store's segments, and of which history.

extension SalvageSource {
  mutating func addParts(
    _ names: [String], _ headers: [String: SegmentHeader], _ notice: TailNotice?
  ) throws(LogStoreError) {
    var candidates: [(part: Part, isNamedSo: Bool)] = []
    let bases = Set(
      names.compactMap { FileName.baseOffset($0, suffix: ".log") }
        + headers.values.flatMap { [$0.baseOffset, $0.previousBaseOffset] }
    ).sorted()
    for name in names {
      let path = join(directory, name)
      let header = headers[name]
      let named = FileName.baseOffset(name, suffix: ".log")
      guard try disk.kind(path) == .file,
        let base = header?.baseOffset ?? frameBase(path, named, bases) ?? named,
        base <= durableEnd?.baseOffset ?? .max
      else { continue }
      if header == nil, named == nil {
        note(name, 0, "the file holds frames of a segment, and its header is damaged")
      }
      if let header, header.storeID != store.storeID {
        note(name, 16, "the segment belongs to another store")
        leftOut.append(
          RepairReport.LeftOut(
            file: path, offsets: header.baseOffset..<header.baseOffset, events: 0,
            reason: "the segment belongs to another store"))
        continue
      }
      guard base < SegmentHeader.baseOffsetLimit else {
        note(name, 32, "a segment that begins with offset \(base) is not possible")
        continue
      }
      if base != named {
        note(
          name, 32,
          "the segment begins with offset \(base)" + (named.map { ", its name says \($0)" } ?? ", and is not named so"))
      }
      candidates.append(
        (
          Part(path: path, baseOffset: base, header: header, fileByteCount: try disk.open(path, .read).byteCount()),
          base == named
        ))
    }
    candidates.sort { $0.part.baseOffset < $1.part.baseOffset }
    parts = candidates.map(\.part)
    try refuseOtherWanted()
    if checksHistory || isDoubtful(notice) { try chooseHistory(candidates, notice) }
    noteMissing()
  }

  /// Refuses to keep a file that is no segment of this store: it decides nothing, and ignoring it would look as if it had.
  private func refuseOtherWanted() throws(LogStoreError) {
    guard let other = wanted.paths.subtracting(parts.map(\.path)).min() else { return }
    throw .repairRefused(
      path: other,
      reason: "this is no segment file of the store, and tells of no history; to keep one name a segment file of it, or"
        + " `clean` or `tail`")
  }

  /// Whether the headers alone show that not all of the files can be of one history, that a segment is missing, or that
  /// files lie behind the segment in which the log was closed.
  private func isDoubtful(_ notice: TailNotice?) -> Bool {
    let ends = [clean?.end, notice?.closedEnd].compactMap { $0 }
    if let last = parts.last, ends.contains(where: { $0.baseOffset < last.baseOffset }) { return true }
    return zip(parts, parts.dropFirst()).contains { before, part in
      part.baseOffset == before.baseOffset
        || part.header.map { $0.previousBaseOffset != before.baseOffset } ?? false
    } || findBases().count != parts.count
  }

  /// Keeps the files of one history. Reads all of them.
  private mutating func chooseHistory(
    _ candidates: [(part: Part, isNamedSo: Bool)], _ notice: TailNotice?
  ) throws(LogStoreError) {
    var files: [SegmentEvidence] = []
    for (part, isNamedSo) in candidates {
      let (segment, unreadable) = try load(part)
      var file = SegmentEvidence(
        part, isNamedSo: isNamedSo, in: segment, unreadableEnd: unreadable.last?.range.upperBound, clean: clean,
        notice: notice)
      file.compare(with: indexes, in: segment)
      files.append(file)
    }
    let links = SalvageLinks(try withoutOlderCopies(files, notice), indexes: indexes)
    let anchors = SalvageAnchors(links, clean: clean, notice: notice, keeping: wanted)
    let choice = SalvageHistory(anchors).choose()
    if checksHistory {
      let histories = choice.histories
      guard histories.isEmpty else { throw .repairUndecided(path: directory, histories: histories) }
    }
    parts = choice.taken.map(\.part)
    evidence = choice.taken
    if let end = anchors.closedEnd { dropIndexes(behind: end.baseOffset) }
    dropIndexesOfOthers()
    for other in choice.leftOut {
      leaveOut(
        other.file.part.path, offsets: other.file.baseOffset..<other.file.endOffset, events: other.file.events,
        reason: "\(other.reason): it is of another history of this store, and is left out\(other.doubt)")
    }
  }

  /// All files except those whose frames are the first frames of another file, and those that were never a segment of the
  /// log.
  private func withoutOlderCopies(
    _ files: [SegmentEvidence], _ notice: TailNotice?
  ) throws(LogStoreError) -> [SegmentEvidence] {
    var kept: [SegmentEvidence] = []
    for base in Set(files.map(\.baseOffset)) {
      var newer: [SegmentEvidence] = []
      let same = files.filter { $0.baseOffset == base }
        .sorted { ($0.endPosition, $0.isNamedSo ? 1 : 0) > ($1.endPosition, $1.isNamedSo ? 1 : 0) }
      let named = same.first { $0.isNamedSo }
      for file in same {
        var isDropped = named.map { isUnfinished(file, beside: $0, notice) } ?? false
        for other in newer where !isDropped { isDropped = try isBeginning(file, of: other) }
        if !isDropped { newer.append(file) }
      }
      kept += newer
    }
    return kept
  }

  /// Whether a file was written to replace a segment without events, and the power failed before it was renamed. It holds
  /// no event, and the segment has all its cursors, so nothing is lost with it. False for a file that the operator wants to
  /// keep, or that a mark of the log's end names: then the files have each other's names.
  private func isUnfinished(_ file: SegmentEvidence, beside named: SegmentEvidence, _ notice: TailNotice?) -> Bool {
    guard !file.isNamedSo, file.events == 0, file.endChain != nil, !wanted.paths.contains(file.part.path),
      let header = file.part.header, let other = named.part.header,
      header.previousBaseOffset == other.previousBaseOffset, header.chain == other.chain
    else { return false }
    if let notice, notice.segment == file.headerChecksum { return false }
    return !(clean.map(file.isEnd) ?? false)
  }

  /// Whether a file is an older copy of another: its last frame is in the other too, and so, by its chain, are all frames
  /// before it.
  private func isBeginning(_ older: SegmentEvidence, of newer: SegmentEvidence) throws(LogStoreError) -> Bool {
    guard let last = older.last else { return true }
    let segment = try load(newer.part).segment
    return FrameHeader(in: segment.bytes, at: last.position, checksumSeed: segment.checksumSeed)?.checksum
      == last.checksum
  }

  private mutating func leaveOut(_ path: String, offsets: Range<UInt64>, events: UInt64, reason: String) {
    leftOut.append(RepairReport.LeftOut(file: path, offsets: offsets, events: events, reason: reason))
    findings.append(Damage(file: path, position: UInt64(SegmentHeader.Field.baseOffset), reason: reason))
  }

  private mutating func noteMissing() {
    var before: Part?
    for part in parts {
      if let previous = part.header?.previousBaseOffset,
        previous != before?.baseOffset ?? SegmentHeader.noPrevious
      {
        if previous == SegmentHeader.noPrevious {
          findings.append(
            Damage(
              file: part.path, position: UInt64(SegmentHeader.Field.previousBaseOffset),
              reason: "a first segment behind another segment"))
        } else {
          note(
            FileName.segment(previous), 0,
            "the segment is missing or out of order: the segment of offset \(part.baseOffset) follows it")
        }
      } else if before == nil, part.baseOffset > 0 {
        note(FileName.segment(0), 0, "the segment is missing")
      }
      before = part
    }
  }
}
