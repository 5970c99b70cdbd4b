/// A store at one moment, up to its durable end: what a backup copies. It is opened as any reader, so it neither waits for
/// a writer nor delays one. What is appended meanwhile lies behind the end.
struct LogImage {
  let store: StoreHeader
  let end: DurableEnd
  let recovery: RecoveryReport
  private let segments: SegmentSet

  /// Ascending; never empty.
  var bases: [UInt64] { segments.bases }

  static func open(_ directory: String, disk: any Disk) throws(LogStoreError) -> LogImage {
    let opened = try Follower.open(directory, disk: disk, follows: false)
    let path = join(directory, FileName.store)
    let header = try decode(try disk.contents(path, limit: StoreHeader.byteCount + 1) ?? [], of: path, StoreHeader.init)
    return LogImage(
      store: header, end: opened.commitPoint.end, recovery: opened.recovery, segments: opened.commitPoint.segments)
  }

  /// The size of a segment's file.
  func fileByteCount(_ baseOffset: UInt64) throws(LogStoreError) -> UInt64 {
    try segments.segment(baseOffset).header.fileByteCount
  }

  /// The size of all segment files together.
  func fileByteCount() throws(LogStoreError) -> UInt64 {
    var sum: UInt64 = 0
    for base in bases { sum += try fileByteCount(base) }
    return sum
  }

  /// Where a finished segment ends, and with which chain value; nil for the last segment.
  func finish(of baseOffset: UInt64) throws(LogStoreError) -> (offset: UInt64, chain: UInt32)? {
    try segments.end(of: baseOffset)
  }

  /// Reads a segment and checks every frame, record and chain value in it, up to its end or the log's end.
  func read(_ baseOffset: UInt64) throws(LogStoreError) -> (segment: Segment, part: BackupPart) {
    // For the last segment this is the file that was found when the image was made: a segment without events may have been
    // replaced by another of the same name since.
    let segment = try segments.segmentToScan(baseOffset)
    let faults = segment.mapping.faultCount
    let finish = try finish(of: baseOffset)
    var scan = RecoveryScan(segment)
    let goal: RecoveryScan.End =
      if let finish { .successor(endOffset: finish.offset, chain: finish.chain) } else { .position(end.position) }
    if let fault = scan.go(to: goal, in: segment, adding: ActiveIndex(segment)) { throw segment.damage(fault) }
    let content = segment.bytes.part(0, scan.next.position)
    let sum = checksum(content)
    try segment.checkReadable(0..<content.count, since: faults)
    return (
      segment,
      BackupPart(
        baseOffset: baseOffset, endOffset: scan.next.offset, contentByteCount: UInt64(content.count), checksum: sum,
        chain: scan.next.chain)
    )
  }
}

extension BackupReport {
  init(_ image: LogImage) {
    self.init(
      endOffset: image.end.offset, segments: image.bases.count, segmentsKept: 0, bytesCopied: 0,
      tornTail: image.recovery.tornTail)
  }
}
