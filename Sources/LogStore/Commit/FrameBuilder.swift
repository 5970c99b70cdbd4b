/// Builds one frame: space for the header, then records. The memory is reused for the next frame.
struct FrameBuilder: ~Copyable {
  private var buffer = FrameBuffer()
  /// Of the records' checksums.
  private var bodyChecksum = RunningChecksum()
  /// Events among the records.
  var eventCount = 0
  private(set) var recordCount = 0

  var isEmpty: Bool { recordCount == 0 }
  /// Bytes of the frame so far, its header included.
  var byteCount: Int { buffer.count }
  var bytes: UnsafeMutableRawBufferPointer { buffer.bytes }

  /// Copies encoded records. Returns the position of the copy in the frame. ``finishRecords(from:count:at:_:)`` is next.
  mutating func append(_ records: UnsafeRawBufferPointer) -> Int { buffer.append(records) }

  /// Computes the checksums of the last records, which are complete except for them.
  ///
  /// - Parameter start: the records' position in the frame.
  /// - Parameter framePosition: the frame's position in the segment.
  mutating func finishRecords(from start: Int, count: Int, at framePosition: Int, _ checksumSeed: ChecksumSeed) {
    checksumSeed.finish(
      UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start...]), count: count, at: framePosition + start,
      body: &bodyChecksum)
    recordCount += count
  }

  /// Adds one record, complete.
  ///
  /// - Parameter framePosition: the frame's position in the segment.
  /// - Parameter makesReset: the record of a cursor becomes that of a reset.
  mutating func add(
    _ record: UnsafeRawBufferPointer, version: UInt64, relativeOffset: UInt32 = 0, at framePosition: Int,
    _ checksumSeed: ChecksumSeed, makesReset: Bool = false
  ) {
    finishRecord(
      from: buffer.append(record), version: version, relativeOffset: relativeOffset, at: framePosition, checksumSeed,
      makesReset: makesReset)
  }

  mutating func add(
    _ record: [UInt8], version: UInt64, relativeOffset: UInt32 = 0, at framePosition: Int, _ checksumSeed: ChecksumSeed
  ) {
    // A pointer into an array must not leave its closure; the copy may.
    let start = record.withUnsafeBytes { buffer.append($0) }
    finishRecord(
      from: start, version: version, relativeOffset: relativeOffset, at: framePosition, checksumSeed, makesReset: false)
  }

  private mutating func finishRecord(
    from start: Int, version: UInt64, relativeOffset: UInt32, at framePosition: Int, _ checksumSeed: ChecksumSeed,
    makesReset: Bool
  ) {
    let copy = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start...])
    if makesReset { Record.makeReset(copy) }
    Record.setAssignedFields(
      copy, at: framePosition + start, framePosition: framePosition, version: version, relativeOffset: relativeOffset)
    finishRecords(from: start, count: 1, at: framePosition, checksumSeed)
  }

  /// Pads the frame and writes its header. The bytes are then ready to be written at the position.
  mutating func finish(
    at position: Int, _ checksumSeed: ChecksumSeed, firstOffset: UInt64, timestamp: UInt64, syncedPosition: Int,
    chain: UInt32, isSnapshot: Bool
  ) -> FrameHeader {
    bodyChecksum.add(UnsafeRawBufferPointer(buffer.pad(to: 8)))
    var header = FrameHeader(
      firstOffset: firstOffset, timestamp: timestamp, eventCount: eventCount, recordCount: recordCount,
      syncedPosition: syncedPosition, chain: chain, bodyChecksum: bodyChecksum.value, isSnapshot: isSnapshot)
    header.encode(into: buffer.bytes, at: position, checksumSeed: checksumSeed)
    return header
  }

  /// Begins the next frame.
  mutating func reset() {
    buffer.reset()
    bodyChecksum = RunningChecksum()
    eventCount = 0
    recordCount = 0
  }
}

/// Memory for one frame, reused for the next. The first bytes are reserved for the header.
private struct FrameBuffer: ~Copyable {
  /// Bytes that are kept between frames. Memory beyond that, from a larger frame, is released.
  private static let keptByteCount = 8 << 20

  private var memory: UnsafeMutableRawBufferPointer
  private(set) var count = FrameHeader.byteCount

  init() {
    memory = .allocate(byteCount: 64 << 10, alignment: 4096)
  }

  deinit {
    memory.deallocate()
  }

  var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(rebasing: memory[..<count]) }

  /// Returns where in the buffer the copy begins.
  mutating func append(_ bytes: UnsafeRawBufferPointer) -> Int {
    reserve(bytes.count + 8)
    let start = count
    UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + bytes.count]).copyMemory(from: bytes)
    count += bytes.count
    return start
  }

  /// Adds zeros up to a multiple of `unit`, at most 8; returns them.
  mutating func pad(to unit: Int) -> UnsafeMutableRawBufferPointer {
    let padded = count.roundedUp(to: unit)
    reserve(padded - count)
    let padding = UnsafeMutableRawBufferPointer(rebasing: memory[count..<padded])
    for index in padding.indices { padding[index] = 0 }
    count = padded
    return padding
  }

  mutating func reset() {
    count = FrameHeader.byteCount
    if memory.count > Self.keptByteCount {
      memory.deallocate()
      memory = .allocate(byteCount: 64 << 10, alignment: 4096)
    }
  }

  private mutating func reserve(_ more: Int) {
    guard count + more > memory.count else { return }
    let larger = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(memory.count * 2, (count + more).roundedUp(to: 4096)), alignment: 4096)
    larger.copyMemory(from: UnsafeRawBufferPointer(bytes))
    memory.deallocate()
    memory = larger
  }
}
