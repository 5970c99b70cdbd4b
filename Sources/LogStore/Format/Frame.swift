import CChecksum

// Frames and records of docs/FORMAT.md: bytes ↔ values, no I/O, no state. CFrame.h owns the byte positions of the fields and
// decides what is sound: for single headers and records here, for whole runs in ``FrameReader``.

/// Byte positions of the fields of a frame's header, from the start of the frame.
enum FrameField {
  static var checksum: Int { Int(CFRAME_CHECKSUM_AT) }
  static var byteCount: Int { Int(CFRAME_BYTE_COUNT_AT) }
  static var firstOffset: Int { Int(CFRAME_FIRST_OFFSET_AT) }
  static var timestamp: Int { Int(CFRAME_TIMESTAMP_AT) }
  static var eventCount: Int { Int(CFRAME_EVENT_COUNT_AT) }
  static var recordCount: Int { Int(CFRAME_RECORD_COUNT_AT) }
  static var syncedPosition: Int { Int(CFRAME_SYNCED_POSITION_AT) }
  static var chain: Int { Int(CFRAME_CHAIN_AT) }
  static var bodyChecksum: Int { Int(CFRAME_BODY_CHECKSUM_AT) }
  static var flags: Int { Int(CFRAME_FLAGS_AT) }
}

/// Byte positions of the fields of a record's fixed part, from the start of the record.
@usableFromInline
enum RecordField {
  @inlinable static var checksum: Int { Int(CRECORD_CHECKSUM_AT) }
  @inlinable static var byteCount: Int { Int(CRECORD_BYTE_COUNT_AT) }
  @inlinable static var kind: Int { Int(CRECORD_KIND_AT) }
  @inlinable static var flags: Int { Int(CRECORD_FLAGS_AT) }
  @inlinable static var nameLength: Int { Int(CRECORD_NAME_LENGTH_AT) }
  @inlinable static var typeLength: Int { Int(CRECORD_TYPE_LENGTH_AT) }
  @inlinable static var metadataLength: Int { Int(CRECORD_METADATA_LENGTH_AT) }
  @inlinable static var version: Int { Int(CRECORD_VERSION_AT) }
  @inlinable static var relativeOffset: Int { Int(CRECORD_RELATIVE_OFFSET_AT) }
  @inlinable static var frameDistance: Int { Int(CRECORD_FRAME_DISTANCE_AT) }
  /// The end of the fixed part: the id, if there is one, or the name.
  @inlinable static var fixedEnd: Int { Int(CRECORD_FIXED_BYTE_COUNT) }
  /// The end of the id: the name of a record with an id.
  @inlinable static var idEnd: Int { fixedEnd + 16 }
}

/// The first 48 bytes of a frame.
///
/// ```
///  0 header checksum  u32     8 first offset  u64    24 events   u32    36 chain          u32
///  4 frame length     u32    16 timestamp     u64    28 records  u32    40 body checksum  u32
///                                                    32 synced   u32    44 flags          u32
/// ```
struct FrameHeader: Equatable, Sendable {
  static let byteCount = 48
  static let snapshotFlag: UInt32 = 1

  var checksum: UInt32
  var byteCount: Int
  var firstOffset: UInt64
  var timestamp: UInt64
  var eventCount: Int
  var recordCount: Int
  var syncedPosition: Int
  var chain: UInt32
  var bodyChecksum: UInt32
  var flags: UInt32

  /// A header to be written: ``encode(into:at:checksumSeed:)`` sets its length and checksum.
  init(
    firstOffset: UInt64, timestamp: UInt64, eventCount: Int, recordCount: Int, syncedPosition: Int, chain: UInt32,
    bodyChecksum: UInt32, isSnapshot: Bool
  ) {
    checksum = 0
    byteCount = 0
    self.firstOffset = firstOffset
    self.timestamp = timestamp
    self.eventCount = eventCount
    self.recordCount = recordCount
    self.syncedPosition = syncedPosition
    self.chain = chain
    self.bodyChecksum = bodyChecksum
    flags = isSnapshot ? Self.snapshotFlag : 0
  }

  var endOffset: UInt64 { firstOffset &+ UInt64(eventCount) }
  var isSnapshot: Bool { flags & Self.snapshotFlag != 0 }

  /// Reads a header and checks it alone: its checksum, its fields, and that the frame lies in `bytes`, the whole segment.
  /// The frame's records are not checked.
  init?(in bytes: UnsafeRawBufferPointer, at position: Int, checksumSeed: ChecksumSeed) {
    guard position >= SegmentHeader.byteCount,
      cframe_is_header(
        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(bytes.count), UInt64(position),
        checksumSeed.baseOffset, checksumSeed.register) != 0
    else { return nil }
    self.init(trusted: bytes, at: position)
  }

  /// Reads a header that was checked.
  init(trusted bytes: UnsafeRawBufferPointer, at position: Int) {
    checksum = bytes.integer(at: position + FrameField.checksum)
    byteCount = Int(bytes.integer(at: position + FrameField.byteCount, as: UInt32.self))
    firstOffset = bytes.integer(at: position + FrameField.firstOffset)
    timestamp = bytes.integer(at: position + FrameField.timestamp)
    eventCount = Int(bytes.integer(at: position + FrameField.eventCount, as: UInt32.self))
    recordCount = Int(bytes.integer(at: position + FrameField.recordCount, as: UInt32.self))
    syncedPosition = Int(bytes.integer(at: position + FrameField.syncedPosition, as: UInt32.self))
    chain = bytes.integer(at: position + FrameField.chain)
    bodyChecksum = bytes.integer(at: position + FrameField.bodyChecksum)
    flags = bytes.integer(at: position + FrameField.flags)
  }

  /// Writes the header in front of the frame's records, and sets its length and checksum.
  ///
  /// - Parameter frame: all of the frame; the records stand in it from byte 48 on, with their checksums.
  /// - Parameter position: the frame's position in the segment.
  mutating func encode(into frame: UnsafeMutableRawBufferPointer, at position: Int, checksumSeed: ChecksumSeed) {
    byteCount = frame.count
    frame.set(UInt32(byteCount), at: FrameField.byteCount)
    frame.set(firstOffset, at: FrameField.firstOffset)
    frame.set(timestamp, at: FrameField.timestamp)
    frame.set(UInt32(eventCount), at: FrameField.eventCount)
    frame.set(UInt32(recordCount), at: FrameField.recordCount)
    frame.set(UInt32(syncedPosition), at: FrameField.syncedPosition)
    frame.set(chain, at: FrameField.chain)
    frame.set(bodyChecksum, at: FrameField.bodyChecksum)
    frame.set(flags, at: FrameField.flags)
    let start = FrameField.byteCount
    checksum = checksumSeed.checksum(
      of: UnsafeRawBufferPointer(frame).part(start, Self.byteCount - start), at: position)
    frame.set(checksum, at: FrameField.checksum)
  }
}

enum RecordKind: UInt8, Sendable {
  case event = 1
  case cursor = 2
  case cursorReset = 3
  /// The last version of a stream that lost its last events in the gap before the segment: see ``LostStream``.
  case lostStream = 4
}

/// The fixed part of a record and the positions of its other parts, relative to the segment. Holds no memory.
///
/// ```
///  0 checksum u32   8 kind u8   10 name length u8   12 metadata length u32   24 relative offset u32
///  4 length   u32   9 flags u8  11 type length u8   16 version or checkpoint u64  28 distance from the frame's start u32
///                                                                           32 [id] name type metadata payload
/// ```
struct Record: Sendable {
  static let byteCount = 32
  static let idFlag: UInt8 = 1
  @inline(__always) static var idByteCount: Int { RecordField.idEnd - RecordField.fixedEnd }

  var position: Int
  var checksum: UInt32
  var byteCount: Int
  var kind: RecordKind
  var hasID: Bool
  var nameLength: Int
  var typeLength: Int
  var metadataLength: Int
  /// An event's version, or a cursor's checkpoint.
  var version: UInt64
  var relativeOffset: UInt32
  /// The position of the record's frame.
  var framePosition: Int

  @inline(__always) var namePosition: Int { position + Self.byteCount + (hasID ? Self.idByteCount : 0) }
  @inline(__always) var typePosition: Int { namePosition + nameLength }
  @inline(__always) var metadataPosition: Int { typePosition + typeLength }
  @inline(__always) var payloadPosition: Int { metadataPosition + metadataLength }
  @inline(__always) var payloadLength: Int { position + byteCount - payloadPosition }
  @inline(__always) var end: Int { position + byteCount }

  /// Reads and fully checks the record at a position, which must end at or before `limit`. Returns nil if it isn't sound.
  init?(in bytes: UnsafeRawBufferPointer, at position: Int, limit: Int, checksumSeed: ChecksumSeed) {
    guard position >= 0, limit <= bytes.count,
      cframe_is_record(
        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(clamping: limit), UInt64(position),
        checksumSeed.register) != 0
    else { return nil }
    self.init(trusted: bytes, at: position)
    let distance = position - framePosition
    guard distance >= FrameHeader.byteCount, distance <= position else { return nil }
  }

  /// Turns a cursor's record into a reset, before its checksum is computed.
  static func makeReset(_ record: UnsafeMutableRawBufferPointer) {
    record[RecordField.kind] = RecordKind.cursorReset.rawValue
  }

  /// Reads a record that was checked, or that this process has just written.
  init(trusted bytes: UnsafeRawBufferPointer, at position: Int) {
    self.position = position
    checksum = bytes.integer(at: position + RecordField.checksum)
    byteCount = Int(bytes.integer(at: position + RecordField.byteCount, as: UInt32.self))
    // The check found one of the four kinds. Another value means that the page has become zeros since, which the caller
    // tests before it uses the record.
    kind = RecordKind(rawValue: bytes[position + RecordField.kind]) ?? .cursor
    hasID = bytes[position + RecordField.flags] & Self.idFlag != 0
    nameLength = Int(bytes[position + RecordField.nameLength])
    typeLength = Int(bytes[position + RecordField.typeLength])
    metadataLength = Int(bytes.integer(at: position + RecordField.metadataLength, as: UInt32.self))
    version = bytes.integer(at: position + RecordField.version)
    relativeOffset = bytes.integer(at: position + RecordField.relativeOffset)
    framePosition = position - Int(bytes.integer(at: position + RecordField.frameDistance, as: UInt32.self))
  }

  /// The stored id, or the one derived from the store's id and the event's offset.
  func id(in bytes: UnsafeRawBufferPointer, checksumSeed: ChecksumSeed) -> EventID {
    guard hasID else {
      return EventID(
        high: checksumSeed.storeID.first.byteSwapped, low: checksumSeed.baseOffset &+ UInt64(relativeOffset))
    }
    let start = position + Self.byteCount
    return EventID(
      high: bytes.integer(at: start, as: UInt64.self).byteSwapped,
      low: bytes.integer(at: start + 8, as: UInt64.self).byteSwapped)
  }

  @inline(__always)
  func name(in bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer { bytes.part(namePosition, nameLength) }
}

extension Record {
  /// The byte count of the record at a position.
  @inline(__always)
  static func byteCount(in bytes: UnsafeRawBufferPointer, at position: Int) -> Int {
    Int(bytes.integer(at: position + RecordField.byteCount, as: UInt32.self))
  }

  /// The distance from its frame's start that the record at a position says.
  @inline(__always)
  static func frameDistance(in bytes: UnsafeRawBufferPointer, at position: Int) -> Int {
    Int(bytes.integer(at: position + RecordField.frameDistance, as: UInt32.self))
  }

  /// The name of the record at a position.
  @inline(__always)
  static func name(in bytes: UnsafeRawBufferPointer, at position: Int) -> UnsafeRawBufferPointer {
    let hasID = bytes[position + RecordField.flags] & idFlag != 0
    return bytes.part(
      position + byteCount + (hasID ? idByteCount : 0), Int(bytes[position + RecordField.nameLength]))
  }

  /// The id stored in the record at a position.
  static func storedID(in bytes: UnsafeRawBufferPointer, at position: Int) -> EventID? {
    guard bytes[position + RecordField.flags] & idFlag != 0 else { return nil }
    return EventID(
      high: bytes.integer(at: position + byteCount, as: UInt64.self).byteSwapped,
      low: bytes.integer(at: position + byteCount + 8, as: UInt64.self).byteSwapped)
  }

  /// Writes the fixed part and the id of a record whose other parts already stand in `record`. Fields that depend on the
  /// record's position stay zero until ``setAssignedFields(_:at:framePosition:version:relativeOffset:)``.
  @inline(__always)
  static func begin(
    _ record: UnsafeMutableRawBufferPointer, _ kind: RecordKind, nameLength: Int, typeLength: Int, metadataLength: Int,
    payloadLength: Int, id: EventID?
  ) {
    let idByteCount = id == nil ? 0 : Self.idByteCount
    let total = byteCount + idByteCount + nameLength + typeLength + metadataLength + payloadLength
    record.set(UInt32(0), at: RecordField.checksum)
    record.set(UInt32(total), at: RecordField.byteCount)
    record[RecordField.kind] = kind.rawValue
    record[RecordField.flags] = id == nil ? 0 : idFlag
    record[RecordField.nameLength] = UInt8(nameLength)
    record[RecordField.typeLength] = UInt8(typeLength)
    record.set(UInt32(metadataLength), at: RecordField.metadataLength)
    record.set(UInt64(0), at: RecordField.version)
    record.set(UInt32(0), at: RecordField.relativeOffset)
    record.set(UInt32(0), at: RecordField.frameDistance)
    if let id {
      record.set(id.high.byteSwapped, at: byteCount)
      record.set(id.low.byteSwapped, at: byteCount + 8)
    }
  }

  /// Sets the fields that a record gets together with its position, except its checksum.
  @inline(__always)
  static func setAssignedFields(
    _ record: UnsafeMutableRawBufferPointer, at position: Int, framePosition: Int, version: UInt64,
    relativeOffset: UInt32
  ) {
    record.set(version, at: RecordField.version)
    record.set(relativeOffset, at: RecordField.relativeOffset)
    record.set(UInt32(position - framePosition), at: RecordField.frameDistance)
  }
}

extension ChecksumSeed {
  /// Writes the checksums of records that stand back to back and are complete except for them.
  ///
  /// - Parameter count: the number of records; their lengths must add up to the buffer's.
  /// - Parameter position: the position of the first record in the segment.
  /// - Parameter body: the running body checksum; the records' checksums are added to it.
  func finish(
    _ records: UnsafeMutableRawBufferPointer, count: Int, at position: Int, body: inout RunningChecksum
  ) {
    // Proof: the caller has written the records in this buffer, and with them the lengths that the loop adds up.
    guard let start = records.baseAddress else { return }
    body.register = cframe_finish_records(
      start.assumingMemoryBound(to: UInt8.self), UInt32(count), UInt64(position), register, body.register)
  }
}
