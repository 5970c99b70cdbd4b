// Checks that a finished segment is the one that the segment after it continues.

extension SegmentSet {
  /// The header of a segment, without mapping the segment.
  func header(of baseOffset: UInt64) throws(LogStoreError) -> SegmentHeader {
    let snapshot = present
    if let ordinal = snapshot.ordinal(of: baseOffset), let known = snapshot.slot(ordinal).mapped {
      if !known.hasOwnHeader, let error = known.fileError { throw error }
      return known.header
    }
    let file = try disk.open(join(directory, FileName.segment(baseOffset)), .read)
    return try Segment.readHeader(of: file, baseOffset: baseOffset, storeID: storeID)
  }

  /// Refuses a finished segment that the segment after it does not continue, before anything of it is served. The frames of
  /// a segment from a copy of the store that was written to separately are sound by themselves.
  ///
  /// With an index it reads only the last frames; without one, the headers of all frames.
  func checkEnd(of segment: Segment) throws(LogStoreError) {
    // Readers of the next segment, or of its index, report what is wrong with those.
    guard let end = try? end(of: segment.baseOffset) else { return }
    // Uses the index files that are known already: a reindex opens segments before it lists any index file.
    if let position = lastListedFrame(of: segment, before: end.offset, in: present),
      segment.ending(from: position, at: end.offset, chain: end.chain) == .expected
    {
      return
    }
    // Bytes that can't be read may look like an end. Their reader reports that.
    guard case .other(let fault) = segment.ending(from: SegmentHeader.byteCount, at: end.offset, chain: end.chain),
      !segment.mayHaveBeenUnreadable(0..<segment.bytes.count)
    else { return }
    throw segment.damage(fault)
  }

  /// The position of the last frame of a finished segment that an index lists.
  private func lastListedFrame(of segment: Segment, before end: UInt64, in snapshot: Snapshot) -> Int? {
    guard end > segment.baseOffset, let ordinal = snapshot.ordinal(of: segment.baseOffset) else { return nil }
    let source = snapshot.source(of: ordinal)
    switch source.kind {
    case .open, .missing: return nil
    case .unsealed:
      return snapshot.unsealed[source.index].framePosition(atOrBefore: UInt32(clamping: end - 1 - segment.baseOffset))
    case .file:
      let file = snapshot.files[source.index]
      return try? file.framePosition(atOrBefore: end - 1, segment: ordinal - source.ordinal)
    }
  }
}
