extension SegmentHeader {
  /// The first frame of a segment at whose beginning there is no cursor, and its header checksum.
  var emptySnapshot: (frame: [UInt8], chain: UInt32) {
    var frame = [UInt8](repeating: 0, count: FrameHeader.byteCount)
    var snapshot = FrameHeader(
      firstOffset: baseOffset, timestamp: createdMicroseconds, eventCount: 0, recordCount: 0,
      syncedPosition: Self.byteCount, chain: chain, bodyChecksum: RunningChecksum().value, isSnapshot: true)
    frame.withUnsafeMutableBytes { frame in
      snapshot.encode(
        into: frame, at: Self.byteCount, checksumSeed: ChecksumSeed(storeID: storeID, baseOffset: baseOffset))
    }
    return (frame, snapshot.checksum)
  }
}
