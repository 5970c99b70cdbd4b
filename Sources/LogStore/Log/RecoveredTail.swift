/// The end of the log, as recovery has found it.
struct RecoveredTail: Sendable {
  var index: ActiveIndex
  var scan: RecoveryScan
  /// An unfinished write behind the end, which opening cuts off.
  var torn: Damage?

  var segment: Segment { index.segment }
  var end: DurableEnd {
    scan.end(in: segment)
  }
  /// The bytes of the segment that are not proven to be on disk.
  var unproven: Range<Int> { scan.provenPosition..<scan.next.position }

  /// Writes the unproven bytes again, unchanged, so that a sync makes them durable.
  func rewriteUnproven(in file: any File) throws(LogStoreError) {
    // From a copy: the zeros that stand for unreadable bytes must not be written over them.
    try segment.forEachPiece(of: unproven) { (piece, position) throws(LogStoreError) in
      try file.write(piece, at: UInt64(position))
    }
  }
}

extension RecoveredTail {
  /// Reads the last segment and decides where the log ends, by the rules of docs/FORMAT.md. Changes nothing.
  static func find(in segment: Segment, clean: CleanEnd?, cleanPath: String) throws(LogStoreError) -> RecoveredTail {
    guard let clean else { return try findUnclean(in: segment) }
    return try find(in: segment, closedAt: clean, cleanPath: cleanPath)
  }

  /// After a clean close: the end that the file `clean` tells.
  private static func find(
    in segment: Segment, closedAt clean: CleanEnd, cleanPath: String
  ) throws(LogStoreError) -> RecoveredTail {
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    guard clean.baseOffset == segment.baseOffset else {
      throw .damaged(
        Damage(
          file: cleanPath, position: UInt64(CleanEnd.Field.baseOffset),
          reason: "the log was closed in the segment of offset \(clean.baseOffset), but the last segment there is"
            + " begins with \(segment.baseOffset)"))
    }
    if let fault = scan.go(to: .position(Int(clamping: clean.endPosition)), in: segment, adding: index) {
      throw segment.damage(
        Fault(
          position: fault.position,
          reason:
            "\(fault.reason); the log was closed cleanly at byte \(clean.endPosition), offset \(clean.endOffset)"))
    }
    guard scan.next.offset == clean.endOffset, scan.next.chain == clean.chain,
      UInt64(scan.next.position) == clean.endPosition
    else {
      throw segment.damage(
        Fault(
          position: scan.next.position,
          reason: scan.next.offset != clean.endOffset
            ? "the log ends with offset \(scan.next.offset) here, but was closed at offset \(clean.endOffset)"
            : UInt64(scan.next.position) != clean.endPosition
              ? "the log ends at byte \(scan.next.position), but was closed at byte \(clean.endPosition)"
              : "the log's last frame is not the one with which it was closed, though offset and byte are the same"))
    }
    if FrameHeader(in: segment.bytes, at: scan.next.position, checksumSeed: segment.checksumSeed) != nil {
      throw segment.damage(
        Fault(position: scan.next.position, reason: "a frame behind the end at which the log was closed cleanly"))
    }
    return RecoveredTail(index: index, scan: scan, torn: nil)
  }

  /// After an unclean end: the first invalid frame, unless something proves that it had been on disk.
  private static func findUnclean(in segment: Segment) throws(LogStoreError) -> RecoveredTail {
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    // Without a recorded end the scan always stops at a fault.
    guard let fault = scan.go(to: .firstInvalid, in: segment, adding: index) else {
      preconditionFailure("a scan without an end ended without a fault")
    }
    let end = scan.next.position
    // This reads everything behind the end. If some of it can't be read, the end of the log is unknown, since those bytes
    // may be anything.
    let proof = segment.proofThatSynced(end)
    let behind = segment.bytes.part(end, segment.bytes.count - end).countWithoutTrailingZeros
    try segment.checkReadable(end..<segment.bytes.count, since: .max)
    if end == SegmentHeader.byteCount {
      throw segment.damage(
        Fault(
          position: fault.position, reason: "\(fault.reason); this frame was synced before the segment got its name"))
    }
    if let proof {
      throw segment.damage(
        Fault(
          position: fault.position,
          reason: "\(fault.reason); the frame at byte \(proof) was written after this one had been synced"))
    }
    let missing = Int(segment.header.fileByteCount) - segment.bytes.count
    var torn: Damage?
    if behind > 0 || missing > 0 {
      torn = Damage(
        file: segment.path, position: UInt64(end),
        reason: missing > 0
          ? "an unfinished write ends the log here, and the file is \(missing) bytes short (\(fault.reason));"
            + " nothing acknowledged was in it"
          : "an unfinished write of \(behind) bytes ends the log here (\(fault.reason)); nothing acknowledged was in it"
      )
    }
    return RecoveredTail(index: index, scan: scan, torn: torn)
  }
}
