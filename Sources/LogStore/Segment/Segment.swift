import CChecksum
import CLinux
import Glibc

/// A segment file, mapped for reading. Thread-safe.
final class Segment: Sendable {
  let path: String
  let header: SegmentHeader
  let checksumSeed: ChecksumSeed
  /// The file's bytes, as many as there were when it was mapped. Shorter than the header says only where the caller allowed
  /// that.
  let mapping: Mapping
  /// Distinguishes the file from another file of the same name.
  let headerChecksum: UInt32
  /// What is wrong with the file as a whole: it is damaged, or the disk can't read its header. Usually nil. See
  /// ``openDamaged(_:baseOffset:storeID:disk:)``.
  let fileError: LogStoreError?
  /// False if the header could not be read. Then ``header`` holds what the file's name tells, and no chain.
  let hasOwnHeader: Bool

  var baseOffset: UInt64 { header.baseOffset }
  var bytes: UnsafeRawBufferPointer { mapping.bytes }
  /// The position of the first frame, and what the frame must continue.
  var start: FrameExpectation {
    FrameExpectation(
      position: SegmentHeader.byteCount, offset: header.baseOffset, chain: header.chain, timestamp: 0)
  }

  /// - Parameter header: the file's header, or what it must have been.
  init(
    path: String, header: SegmentHeader, mapping: Mapping, fileError: LogStoreError? = nil, hasOwnHeader: Bool = true
  ) {
    self.fileError = fileError
    self.hasOwnHeader = hasOwnHeader
    self.path = path
    self.header = header
    self.mapping = mapping
    // Only a segment that a repair reads can be shorter than its header.
    headerChecksum =
      mapping.bytes.count < SegmentHeader.byteCount ? 0 : mapping.bytes.integer(at: SegmentHeader.byteCount - 4)
    checksumSeed = ChecksumSeed(storeID: header.storeID, baseOffset: header.baseOffset)
  }

  /// - Parameter mayBeShort: the last segment may have lost its end together with unfinished writes in an unclean end.
  static func open(
    _ path: String, baseOffset: UInt64, storeID: StoreID, disk: any Disk, mayBeShort: Bool = false
  ) throws(LogStoreError) -> Segment {
    let file = try disk.open(path, .read)
    let header = try readHeader(of: file, baseOffset: baseOffset, storeID: storeID)
    let byteCount = try file.byteCount()
    if byteCount < header.fileByteCount, !mayBeShort {
      throw .damaged(
        Damage(
          file: path, position: byteCount,
          reason: "the file ends here, its header says after \(header.fileByteCount) bytes"))
    }
    if byteCount > header.fileByteCount {
      throw .damaged(
        Damage(
          file: path, position: header.fileByteCount,
          reason: "the file should end here, it goes on to \(byteCount) bytes"))
    }
    let segment = Segment(path: path, header: header, mapping: try file.map(byteCount: Int(byteCount)))
    // The header's checksum was read through the mapping.
    try segment.checkReadable(0..<SegmentHeader.byteCount, since: 0)
    return segment
  }

  /// Opens a finished segment's file in any state, so that readers find what is sound in it. A missing file, or something
  /// else under its name, has no bytes; a short file has the bytes that are left; where the header is damaged, the file's
  /// name counts. ``fileError`` says what is wrong.
  static func openDamaged(
    _ path: String, baseOffset: UInt64, storeID: StoreID, disk: any Disk
  ) throws(LogStoreError) -> Segment {
    func guessed(_ byteCount: UInt64) -> SegmentHeader {
      SegmentHeader(
        storeID: storeID, baseOffset: baseOffset, previousBaseOffset: SegmentHeader.noPrevious,
        fileByteCount: byteCount, createdMicroseconds: 0, chain: 0)
    }
    let file: any File
    do throws(LogStoreError) {
      file = try disk.open(path, .read)
    } catch {
      let fileError: LogStoreError
      switch error {
      case .inputOutput(_, _, ENOENT):
        fileError = .damaged(Damage(file: path, position: 0, reason: "the file is missing"))
      case .inputOutput(_, _, let code) where isUnreadable(code):
        fileError = .unreadable(Damage(file: path, position: 0, reason: unreadableReason(code)))
      default:
        guard let found = error.finding else { throw error }
        fileError = .damaged(found)
      }
      return Segment(
        path: path, header: guessed(0), mapping: Mapping(bytes: UnsafeRawBufferPointer(start: nil, count: 0)) { _ in },
        fileError: fileError, hasOwnHeader: false)
    }
    let byteCount = min(try file.byteCount(), UInt64(UInt32.max))
    var header: SegmentHeader?
    var fileError: LogStoreError?
    do throws(LogStoreError) {
      header = try readHeader(of: file, baseOffset: baseOffset, storeID: storeID)
    } catch {
      guard error.finding != nil else { throw error }
      fileError = error
    }
    if let header, byteCount < header.fileByteCount {
      fileError = .damaged(
        Damage(
          file: path, position: byteCount,
          reason: "the file ends here, its header says after \(header.fileByteCount) bytes"))
    } else if let header, byteCount > header.fileByteCount {
      fileError = .damaged(
        Damage(
          file: path, position: header.fileByteCount,
          reason: "the file should end here, it goes on to \(byteCount) bytes"))
    }
    let mapped = Int(min(byteCount, header?.fileByteCount ?? byteCount))
    return Segment(
      path: path, header: header ?? guessed(byteCount), mapping: try file.map(byteCount: mapped), fileError: fileError,
      hasOwnHeader: header != nil)
  }

  /// Reads and checks the first page.
  static func readHeader(
    of file: any File, baseOffset: UInt64, storeID: StoreID
  ) throws(LogStoreError) -> SegmentHeader {
    let header = try decode(try file.read(count: SegmentHeader.byteCount, at: 0), of: file.path, SegmentHeader.init)
    guard header.storeID == storeID else {
      throw .damaged(
        Damage(file: file.path, position: UInt64(EnvelopeField.storeID), reason: "the segment belongs to another store")
      )
    }
    guard header.baseOffset == baseOffset else {
      throw .damaged(
        Damage(
          file: file.path, position: UInt64(SegmentHeader.Field.baseOffset),
          reason: "the segment begins with offset \(header.baseOffset), its name says \(baseOffset)"))
    }
    return header
  }

  /// Prefetches the header of a record's frame, if a record can be here. Waits for the record's own memory.
  @inline(__always)
  func prefetchHeader(ofRecordAt position: Int) {
    guard position >= 0, position <= bytes.count - Record.byteCount, let start = bytes.baseAddress else { return }
    clinux_prefetch(start + max(position - Record.frameDistance(in: bytes, at: position), 0))
  }

  /// The error for a fault: damage, unless the disk could not read the bytes.
  func damage(_ fault: Fault) -> LogStoreError {
    if mapping.faultCount > 0, let error = unreadable(fault) { return error }
    return .damaged(Damage(file: path, position: UInt64(fault.position), reason: fault.reason))
  }
}

// Bytes that the disk can't read are zeros in the mapping. Where there are none, these functions compare one number.
extension Segment {
  /// Throws if some byte of a range can't be read, or could not be read at some time after the given fault count of the
  /// mapping: then what was read of the range since can't be used.
  func checkReadable(_ range: Range<Int>, since count: UInt64) throws(LogStoreError) {
    guard mapping.faultCount > 0 else { return }
    let range = range.clamped(to: 0..<bytes.count)
    if let position = mapping.unreadablePosition(in: range) { throw unreadable(at: position) }
    if mapping.wasTouched(since: count, range) { throw unreadable(at: range.lowerBound) }
  }

  /// Whether what was read of a range since the given fault count of the mapping, or ever, may have been zeros instead of
  /// the file's bytes.
  func mayHaveBeenUnreadable(_ range: Range<Int>, since count: UInt64 = 0) -> Bool {
    mapping.wasTouched(since: count, range.clamped(to: 0..<bytes.count))
  }

  func unreadable(at position: Int) -> LogStoreError {
    .unreadable(Damage(file: path, position: UInt64(position), reason: mapping.reason(at: position)))
  }

  /// The bytes that an unsound frame or record takes up: as many as its length says, but no more than a frame can have.
  func extent(at position: Int) -> Range<Int> {
    let start = min(max(position, 0), bytes.count)
    let said = start + 8 <= bytes.count ? Int(bytes.integer(at: start + FrameField.byteCount, as: UInt32.self)) : 0
    return start..<min(start + max(min(said, Limits.frameBytes), FrameHeader.byteCount), bytes.count)
  }

  /// The error if a frame or a record is unsound because it could not be read; nil if it is unsound by itself.
  private func unreadable(_ fault: Fault) -> LogStoreError? {
    let range = extent(at: fault.position)
    let start = range.lowerBound
    if let position = mapping.unreadablePosition(in: range) { return unreadable(at: position) }
    // The page may have become readable again since.
    guard mayHaveBeenUnreadable(range),
      FrameHeader(in: bytes, at: start, checksumSeed: checksumSeed) != nil
        || Record(in: bytes, at: start, limit: bytes.count, checksumSeed: checksumSeed) != nil
    else { return nil }
    return unreadable(at: start)
  }

  /// Passes a part of the segment to `body` in pieces. Each is a copy, checked to hold the file's bytes and no zeros in
  /// their stead.
  func forEachPiece(
    of range: Range<Int>, _ body: (UnsafeRawBufferPointer, _ position: Int) throws(LogStoreError) -> Void
  ) throws(LogStoreError) {
    let piece = UnsafeMutableRawBufferPointer.allocate(
      byteCount: min(max(range.count, 1), Self.pieceByteCount), alignment: 4096)
    defer { piece.deallocate() }
    var position = range.lowerBound
    while position < range.upperBound {
      let end = min(position + piece.count, range.upperBound)
      let count = mapping.faultCount
      let copy = UnsafeMutableRawBufferPointer(rebasing: piece[..<(end - position)])
      copy.copyMemory(from: bytes.part(position, end - position))
      try checkReadable(position..<end, since: count)
      try body(UnsafeRawBufferPointer(copy), position)
      position = end
    }
  }

  /// The size of a piece.
  private static let pieceByteCount = 1 << 20
}

/// Converts a header's fault into the error that names its file.
func decode<Value>(
  _ bytes: [UInt8], of path: String, _ read: (UnsafeRawBufferPointer) throws(HeaderFault) -> Value
) throws(LogStoreError) -> Value {
  let result = bytes.withUnsafeBytes { buffer in
    Result { () throws(HeaderFault) in try read(buffer) }
  }
  switch result {
  case .success(let value): return value
  case .failure(.newerVersion(let version, let supported)):
    throw .unsupportedFormat(file: path, version: version, supported: supported)
  case .failure(.fault(let fault)):
    throw .damaged(Damage(file: path, position: UInt64(fault.position), reason: fault.reason))
  }
}

/// The position of the next frame, and what the frame must continue.
struct FrameExpectation: Equatable, Sendable {
  var position: Int
  var offset: UInt64
  var chain: UInt32
  var timestamp: UInt64

  mutating func advance(past header: FrameHeader) {
    position += header.byteCount
    offset = header.endOffset
    chain = header.checksum
    timestamp = header.timestamp
  }
}

extension Segment {
  /// Checks all of the frame at the expected position, then visits its records in order.
  func checkFrame(
    _ expected: FrameExpectation, visit: (Record) throws(Fault) -> Void
  ) throws(Fault) -> FrameHeader {
    let position = expected.position
    let faults = mapping.faultCount
    var reader = cframe_reader(bytes, at: position, limit: bytes.count, checksumSeed: checksumSeed)
    do throws(Fault) {
      try reader.enter()
    } catch {
      let zeros =
        position < bytes.count && bytes.part(position, min(FrameHeader.byteCount, bytes.count - position)).isZero
      throw position >= bytes.count
        ? Fault(position: position, reason: "the file ends where a frame should begin")
        : zeros ? Fault(position: position, reason: "zeros where a frame should begin") : error
    }
    let header = FrameHeader(trusted: bytes, at: position)
    try check(header, against: expected)
    try reader.checkFrame()
    var next = position + FrameHeader.byteCount
    for _ in 0..<header.recordCount {
      let record = Record(trusted: bytes, at: next)
      let content = record.end - record.metadataPosition
      guard content <= Limits.eventBytes else {
        throw Fault(
          position: next + RecordField.byteCount,
          reason: "metadata and payload of \(content) bytes; the limit is \(Limits.eventBytes)")
      }
      try visit(record)
      next = record.end
    }
    if mayHaveBeenUnreadable(position..<Int(reader.frame_end), since: faults) {
      throw Fault(position: position, reason: "the frame could not be read again after it was checked")
    }
    return header
  }

  /// Checks that a sound header continues what was before it.
  private func check(_ header: FrameHeader, against expected: FrameExpectation) throws(Fault) {
    let position = expected.position
    guard header.firstOffset == expected.offset else {
      throw Fault(
        position: position + FrameField.firstOffset,
        reason: "the frame begins with offset \(header.firstOffset), expected \(expected.offset)")
    }
    guard header.chain == expected.chain else {
      throw Fault(
        position: position + FrameField.chain, reason: "the frame does not follow on from the frame before it")
    }
    guard header.timestamp >= expected.timestamp else {
      throw Fault(position: position + FrameField.timestamp, reason: "the frame is older than the frame before it")
    }
    guard header.syncedPosition <= position else {
      throw Fault(
        position: position + FrameField.syncedPosition,
        reason: "the frame claims that bytes behind it were synced before it")
    }
    guard header.isSnapshot == (position == SegmentHeader.byteCount) else {
      throw Fault(
        position: position + FrameField.flags,
        reason: header.isSnapshot
          ? "a cursor snapshot that is not the segment's first frame"
          : "the segment does not begin with a cursor snapshot")
    }
    // A snapshot holds all cursors and lost streams, so its size has no limit.
    guard header.byteCount <= Limits.frameBytes || header.isSnapshot else {
      throw Fault(
        position: position + FrameField.byteCount,
        reason: "a frame of \(header.byteCount) bytes; the limit is \(Limits.frameBytes)")
    }
  }

  /// How the frames from a position on end.
  enum Ending: Equatable {
    /// With the frame that the next segment continues.
    case expected
    /// With another frame, and nothing behind it.
    case other(Fault)
    /// At something that is no frame: the end of the segment is unknown.
    case unknown
  }

  /// Reads from header to header, and nothing else.
  ///
  /// - Parameter endOffset: the next segment continues the frame that ends with this offset and has this header checksum.
  func ending(from start: Int, at endOffset: UInt64, chain: UInt32) -> Ending {
    var position = start
    while let header = FrameHeader(in: bytes, at: position, checksumSeed: checksumSeed) {
      position += header.byteCount
      if header.checksum == chain, header.endOffset == endOffset { return .expected }
    }
    guard position > SegmentHeader.byteCount, bytes.part(position, bytes.count - position).isZero else {
      return .unknown
    }
    return .other(
      Fault(
        position: position, reason: "the segment ends here, with another frame than the next segment follows on from")
    )
  }

  /// Whether the segment holds an empty snapshot of cursors and zeros to its end, so that nothing was ever appended to it.
  var isUnused: Bool {
    do throws(Fault) {
      let snapshot = try checkFrame(start) { _ in }
      let end = start.position + snapshot.byteCount
      return snapshot.recordCount == 0 && bytes.part(end, bytes.count - end).isZero
    } catch {
      return false
    }
  }

  /// A position behind `torn` that proves that the bytes at `torn` had been on disk: a frame header that was written after
  /// they were known to be. Only the header is checked, so the cost is at most one checksum of 48 bytes for every 8 bytes
  /// of the segment, whatever it holds.
  func proofThatSynced(_ torn: Int) -> Int? {
    var position = torn + 8
    while position <= bytes.count - FrameHeader.byteCount {
      // Cheap tests first: most bytes are zeros or payload.
      if bytes.integer(at: position + FrameField.syncedPosition, as: UInt32.self) > UInt32(torn),
        let header = FrameHeader(in: bytes, at: position, checksumSeed: checksumSeed),
        header.syncedPosition > torn, header.syncedPosition <= position
      {
        return position
      }
      position += 8
    }
    return nil
  }
}
