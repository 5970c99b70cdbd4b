/// A record where it stands in memory, after it was checked (CFrame.h): its fields are read when they are asked for.
///
/// Holds no memory: whoever has one holds what it lies in. Even so no part of it reaches beyond its end, since each is
/// checked again when it is formed.
@usableFromInline
struct SoundRecord {
  @usableFromInline let start: UnsafeRawPointer
  @usableFromInline let byteCount: Int

  /// - Parameter start: a record that was found sound, all of which may be read.
  @inlinable
  @inline(__always)
  init(checked start: UnsafeRawPointer) {
    self.start = start
    byteCount = Int(UInt32(littleEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
  }

  /// A record that was read from these bytes, and checked then.
  init(_ record: Record, in bytes: UnsafeRawBufferPointer) {
    let whole = bytes.part(record.position, record.byteCount)
    // Proof: a record has at least 32 bytes.
    start = whole.baseAddress.unsafelyUnwrapped
    byteCount = whole.count
  }

  // The fixed part: 32 bytes, which every sound record has.

  @inlinable var isEvent: Bool { start.load(fromByteOffset: 8, as: UInt8.self) == 1 }
  @inlinable var hasID: Bool { start.load(fromByteOffset: 9, as: UInt8.self) & 1 != 0 }
  @inlinable var nameLength: Int { Int(start.load(fromByteOffset: 10, as: UInt8.self)) }
  @inlinable var typeLength: Int { Int(start.load(fromByteOffset: 11, as: UInt8.self)) }
  @inlinable var metadataLength: Int {
    Int(UInt32(littleEndian: start.loadUnaligned(fromByteOffset: 12, as: UInt32.self)))
  }
  @inlinable var version: UInt64 { UInt64(littleEndian: start.loadUnaligned(fromByteOffset: 16, as: UInt64.self)) }
  @inlinable var relativeOffset: UInt32 {
    UInt32(littleEndian: start.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
  }

  // Where the other parts begin, from the record's start.

  @inlinable var namePosition: Int { hasID ? 48 : 32 }
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
    let bytes = part(32, 16)
    return EventID(
      high: bytes.integer(at: 0, as: UInt64.self).byteSwapped, low: bytes.integer(at: 8, as: UInt64.self).byteSwapped)
  }

  /// Nothing outside the record: where the lengths don't fit it, its page has become zeros since it was checked, as the disk
  /// could not read it again, and whoever lent it will say so.
  @inlinable
  @inline(__always)
  func part(_ position: Int, _ count: Int) -> UnsafeRawBufferPointer {
    guard count >= 0, position <= byteCount - count else { return UnsafeRawBufferPointer(start: start, count: 0) }
    return UnsafeRawBufferPointer(start: start + position, count: count)
  }
}
