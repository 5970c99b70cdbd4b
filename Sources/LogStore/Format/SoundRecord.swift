import CChecksum

/// A record in memory that was checked (CFrame.h). Each field is read when it is asked for.
///
/// Holds no memory: the owner of a record keeps alive the memory that it lies in. No part of the record reaches beyond the
/// record's end, since every part is checked again when it is formed.
@usableFromInline
struct SoundRecord {
  @usableFromInline let start: UnsafeRawPointer
  @usableFromInline let byteCount: Int

  /// - Parameter start: a record that was found sound; all of it may be read.
  @inlinable
  @inline(__always)
  init(checked start: UnsafeRawPointer) {
    self.start = start
    byteCount = Int(UInt32(littleEndian: start.loadUnaligned(fromByteOffset: RecordField.byteCount, as: UInt32.self)))
  }

  /// A record that was read from these bytes and checked.
  init(_ record: Record, in bytes: UnsafeRawBufferPointer) {
    let whole = bytes.part(record.position, record.byteCount)
    // Proof: a record has at least 32 bytes.
    start = whole.baseAddress.unsafelyUnwrapped
    byteCount = whole.count
  }

  // The fixed part: 32 bytes, which every sound record has.

  @inlinable var isEvent: Bool { start.load(fromByteOffset: RecordField.kind, as: UInt8.self) == 1 }
  @inlinable var hasID: Bool { start.load(fromByteOffset: RecordField.flags, as: UInt8.self) & 1 != 0 }
  @inlinable var nameLength: Int { Int(start.load(fromByteOffset: RecordField.nameLength, as: UInt8.self)) }
  @inlinable var typeLength: Int { Int(start.load(fromByteOffset: RecordField.typeLength, as: UInt8.self)) }
  @inlinable var metadataLength: Int {
    Int(UInt32(littleEndian: start.loadUnaligned(fromByteOffset: RecordField.metadataLength, as: UInt32.self)))
  }
  @inlinable var version: UInt64 {
    UInt64(littleEndian: start.loadUnaligned(fromByteOffset: RecordField.version, as: UInt64.self))
  }
  @inlinable var relativeOffset: UInt32 {
    UInt32(littleEndian: start.loadUnaligned(fromByteOffset: RecordField.relativeOffset, as: UInt32.self))
  }

  // Positions of the other parts, from the record's start.

  @inlinable var namePosition: Int { hasID ? RecordField.idEnd : RecordField.fixedEnd }
  @inlinable var typePosition: Int { namePosition + nameLength }
  @inlinable var metadataPosition: Int { typePosition + typeLength }
  @inlinable var payloadPosition: Int { metadataPosition + metadataLength }

  @inlinable var name: UnsafeRawBufferPointer { part(namePosition, nameLength) }
  @inlinable var type: UnsafeRawBufferPointer { part(typePosition, typeLength) }
  @inlinable var metadata: UnsafeRawBufferPointer { part(metadataPosition, metadataLength) }
  @inlinable var payload: UnsafeRawBufferPointer { part(payloadPosition, byteCount - payloadPosition) }

  /// The stored id.
  var id: EventID? {
    guard hasID else { return nil }
    let bytes = part(RecordField.fixedEnd, Record.idByteCount)
    return EventID(
      high: bytes.integer(at: 0, as: UInt64.self).byteSwapped, low: bytes.integer(at: 8, as: UInt64.self).byteSwapped)
  }

  /// A part of the record; empty where the lengths don't fit the record. Then the record's page has become zeros since the
  /// check, because the disk could not read it again, and the record's owner reports that.
  @inlinable
  @inline(__always)
  func part(_ position: Int, _ count: Int) -> UnsafeRawBufferPointer {
    guard count >= 0, position <= byteCount - count else { return UnsafeRawBufferPointer(start: start, count: 0) }
    return UnsafeRawBufferPointer(start: start + position, count: count)
  }
}
