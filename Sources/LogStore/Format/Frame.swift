import CChecksum

// Frames and records of docs/FORMAT.md: bytes ↔ values, no I/O, no state. What makes a header or a record sound is
// decided in one place, CFrame.h, for single ones here and for whole runs in ``FrameReader``.

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

  init(
    checksum: UInt32, byteCount: Int, firstOffset: UInt64, timestamp: UInt64, eventCount: Int, recordCount: Int,
    syncedPosition: Int, chain: UInt32, bodyChecksum: UInt32, flags: UInt32
  ) {
    self.checksum = checksum
    self.byteCount = byteCount
    self.firstOffset = firstOffset
    self.timestamp = timestamp
    self.eventCount = eventCount
    self.recordCount = recordCount
    self.syncedPosition = syncedPosition
    self.chain = chain
    self.bodyChecksum = bodyChecksum
    self.flags = flags
  }

  var endOffset: UInt64 { firstOffset &+ UInt64(eventCount) }
  var isSnapshot: Bool { flags & Self.snapshotFlag != 0 }

  /// Reads a header and checks it by itself: its checksum, and that the frame lies in `bytes` (the whole segment).
  /// Says nothing about the records.
  init?(in bytes: UnsafeRawBufferPointer, at position: Int, place: ChecksumSeed) {
    guard position >= SegmentHeader.byteCount,
      cframe_is_header(
        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(bytes.count), UInt64(position),
        place.baseOffset, place.register) != 0
    else { return nil }
    self.init(trusted: bytes, at: position)
  }

  /// Reads a header that was checked.
  init(trusted bytes: UnsafeRawBufferPointer, at position: Int) {
    checksum = bytes.integer(at: position)
    byteCount = Int(bytes.integer(at: position + 4, as: UInt32.self))
    firstOffset = bytes.integer(at: position + 8)
    timestamp = bytes.integer(at: position + 16)
    eventCount = Int(bytes.integer(at: position + 24, as: UInt32.self))
    recordCount = Int(bytes.integer(at: position + 28, as: UInt32.self))
    syncedPosition = Int(bytes.integer(at: position + 32, as: UInt32.self))
    chain = bytes.integer(at: position + 36)
    bodyChecksum = bytes.integer(at: position + 40)
    flags = bytes.integer(at: position + 44)
  }

  /// Finishes a frame whose records stand in `frame` from byte 48 on with their checksums in place: writes the header
  /// and returns its checksum.
  static func finish(
    _ frame: UnsafeMutableRawBufferPointer, at position: Int, place: ChecksumSeed, firstOffset: UInt64,
    timestamp: UInt64,
    eventCount: Int, recordCount: Int, syncedPosition: Int, chain: UInt32, bodyChecksum: UInt32, isSnapshot: Bool
  ) -> UInt32 {
    frame.set(UInt32(frame.count), at: 4)
    frame.set(firstOffset, at: 8)
    frame.set(timestamp, at: 16)
    frame.set(UInt32(eventCount), at: 24)
    frame.set(UInt32(recordCount), at: 28)
    frame.set(UInt32(syncedPosition), at: 32)
    frame.set(chain, at: 36)
    frame.set(bodyChecksum, at: 40)
    frame.set(isSnapshot ? snapshotFlag : 0, at: 44)
    let checksum = place.checksum(of: UnsafeRawBufferPointer(frame).part(4, byteCount - 4), at: position)
    frame.set(checksum, at: 0)
    return checksum
  }
}

enum RecordKind: UInt8, Sendable {
  case event = 1
  case cursor = 2
  case cursorReset = 3
  /// What is known of a stream that lost its last events in the gap before the segment: see ``LostStream``.
  case lostStream = 4
}

/// The fixed part of a record and where its other parts are. Holds no memory: positions are relative to the segment.
///
/// ```
///  0 checksum u32   8 kind u8   10 name length u8   12 metadata length u32   24 relative offset u32
///  4 length   u32   9 flags u8  11 type length u8   16 version or place u64  28 distance from the frame's start u32
///                                                                           32 [id] name type metadata payload
/// ```
struct Record: Sendable {
  static let byteCount = 32
  static let idFlag: UInt8 = 1
  static let idByteCount = 16

  var position: Int
  var checksum: UInt32
  var byteCount: Int
  var kind: RecordKind
  var hasID: Bool
  var nameLength: Int
  var typeLength: Int
  var metadataLength: Int
  /// An event's version, or a cursor's place.
  var version: UInt64
  var relativeOffset: UInt32
  /// Where the frame begins that the record is part of.
  var framePosition: Int

  @inline(__always) var namePosition: Int { position + Self.byteCount + (hasID ? Self.idByteCount : 0) }
  @inline(__always) var typePosition: Int { namePosition + nameLength }
  @inline(__always) var metadataPosition: Int { typePosition + typeLength }
  @inline(__always) var payloadPosition: Int { metadataPosition + metadataLength }
  @inline(__always) var payloadLength: Int { position + byteCount - payloadPosition }
  @inline(__always) var end: Int { position + byteCount }

  /// Reads and fully checks the record at a position, which must end at or before `limit`; nil if it isn't sound.
  init?(in bytes: UnsafeRawBufferPointer, at position: Int, limit: Int, place: ChecksumSeed) {
    guard position >= 0, limit <= bytes.count,
      cframe_is_record(
        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(clamping: limit), UInt64(position),
        place.register) != 0
    else { return nil }
    self.init(trusted: bytes, at: position)
    let distance = position - framePosition
    guard distance >= FrameHeader.byteCount, distance <= position else { return nil }
  }

  /// Makes a cursor's record one that sets the cursor, before its checksum is made.
  static func makeReset(_ record: UnsafeMutableRawBufferPointer) { record[8] = RecordKind.cursorReset.rawValue }

  /// Reads a record that was checked, or that this process has just written.
  init(trusted bytes: UnsafeRawBufferPointer, at position: Int) {
    self.position = position
    checksum = bytes.integer(at: position)
    byteCount = Int(bytes.integer(at: position + 4, as: UInt32.self))
    // It was found to be one of the four, or written from one of them. Another one it is only if its page has become zeros
    // since, which whoever asked looks for before he uses any of it.
    kind = RecordKind(rawValue: bytes[position + 8]) ?? .cursor
    hasID = bytes[position + 9] & Self.idFlag != 0
    nameLength = Int(bytes[position + 10])
    typeLength = Int(bytes[position + 11])
    metadataLength = Int(bytes.integer(at: position + 12, as: UInt32.self))
    version = bytes.integer(at: position + 16)
    relativeOffset = bytes.integer(at: position + 24)
    framePosition = position - Int(bytes.integer(at: position + 28, as: UInt32.self))
  }

  /// The stored id, or the one made of the event's place.
  func id(in bytes: UnsafeRawBufferPointer, place: ChecksumSeed) -> EventID {
    guard hasID else {
      return EventID(
        high: place.storeID.first.byteSwapped, low: place.baseOffset &+ UInt64(relativeOffset))
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
  /// The id that a whole record has with it.
  static func storedID(in bytes: UnsafeRawBufferPointer, at position: Int) -> EventID? {
    guard bytes[position + 9] & idFlag != 0 else { return nil }
    return EventID(
      high: bytes.integer(at: position + byteCount, as: UInt64.self).byteSwapped,
      low: bytes.integer(at: position + byteCount + 8, as: UInt64.self).byteSwapped)
  }

  /// Writes the header of a record whose other parts stand in `record` already; what only its place decides stays zero
  /// until it is placed.
  @inline(__always)
  static func begin(
    _ record: UnsafeMutableRawBufferPointer, _ kind: RecordKind, nameLength: Int, typeLength: Int, metadataLength: Int,
    payloadLength: Int, id: EventID?
  ) {
    let idByteCount = id == nil ? 0 : Self.idByteCount
    record.set(UInt32(0), at: 0)
    record.set(UInt32(byteCount + idByteCount + nameLength + typeLength + metadataLength + payloadLength), at: 4)
    record[8] = kind.rawValue
    record[9] = id == nil ? 0 : idFlag
    record[10] = UInt8(nameLength)
    record[11] = UInt8(typeLength)
    record.set(UInt32(metadataLength), at: 12)
    record.set(UInt64(0), at: 16)
    record.set(UInt64(0), at: 24)
    if let id {
      record.set(id.high.byteSwapped, at: byteCount)
      record.set(id.low.byteSwapped, at: byteCount + 8)
    }
  }
}

extension Record {
  /// Sets what only a record's place decides, but for its checksum.
  @inline(__always)
  static func place(
    _ record: UnsafeMutableRawBufferPointer, at position: Int, framePosition: Int, version: UInt64,
    relativeOffset: UInt32
  ) {
    record.set(version, at: 16)
    record.set(relativeOffset, at: 24)
    record.set(UInt32(position - framePosition), at: 28)
  }
}

extension ChecksumSeed {
  /// Writes the checksums of records that stand one after the other and are complete but for them.
  ///
  /// - Parameter count: how many they are; their lengths must add up to the buffer's.
  /// - Parameter position: where the first is to stand in the segment.
  /// - Parameter body: goes on with theirs.
  func finish(
    _ records: UnsafeMutableRawBufferPointer, count: Int, at position: Int, body: inout RunningChecksum
  ) {
    // Proof: the caller has made the records in this buffer, and with them the lengths by which they are walked.
    guard let start = records.baseAddress else { return }
    body.register = cframe_finish_records(
      start.assumingMemoryBound(to: UInt8.self), UInt32(count), UInt64(position), register, body.register)
  }
}
