// Whether a finished segment is the one that the segment after it follows on from.

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

  /// Refuses a finished segment that is another than the one after it follows on from, before anything of it is served:
  /// one that was put there from a copy of the store that has gone another way has frames that are sound by themselves.
  ///
  /// With an index at hand it looks at the last frames alone; without, at the headers of all.
  func checkEnd(of segment: Segment) throws(LogStoreError) {
    // What is wrong with the segment after this one, or with its index, is said when that is read.
    guard let end = try? end(of: segment.baseOffset) else { return }
    // As it is: a reindex opens segments before it takes up any index file.
    if let position = lastListedFrame(of: segment, before: end.offset, in: present),
      segment.ending(from: position, at: end.offset, chain: end.chain) == .expected
    {
      return
    }
    // What can't be read may look like an end; that is said when it is read.
    guard case .other(let fault) = segment.ending(from: SegmentHeader.byteCount, at: end.offset, chain: end.chain),
      !segment.mayHaveBeenUnreadable(0..<segment.bytes.count)
    else { return }
    throw segment.damage(fault)
  }

  /// Where the last frame of a finished segment is that an index lists.
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
