import Glibc
import CChecksum

// Fixed-width little-endian fields in raw memory.
//
// Only these functions of LogStore read or write memory by position. The proof that they stay inside is the buffer's own
// bounds check: it stays on in release builds, since the whole slice is formed before it is touched.

extension UnsafeRawBufferPointer {
  /// Traps outside the buffer. Callers check lengths from files first.
  @inline(__always)
  func integer<T: FixedWidthInteger & BitwiseCopyable>(at position: Int, as type: T.Type = T.self) -> T {
    precondition(position >= 0 && position <= count - MemoryLayout<T>.size)
    // Proof: a buffer with a positive count has a base address, and the range was just checked.
    return T(littleEndian: baseAddress.unsafelyUnwrapped.loadUnaligned(fromByteOffset: position, as: T.self))
  }

  /// `byteCount` bytes of the buffer from `position` on. Traps outside the buffer.
  @inline(__always)
  func part(_ position: Int, _ byteCount: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: self[position..<position + byteCount])
  }

  /// Whether every byte is zero. Compares eight bytes at a time.
  var isZero: Bool { firstNonZero == nil }

  /// The position of the first byte that isn't zero.
  var firstNonZero: Int? {
    var position = 0
    while position + 8 <= count, integer(at: position, as: UInt64.self) == 0 { position += 8 }
    while position < count {
      if self[position] != 0 { return position }
      position += 1
    }
    return nil
  }

  /// The length without the zeros at the end.
  var countWithoutTrailingZeros: Int {
    var end = count
    while end >= 8, integer(at: end - 8, as: UInt64.self) == 0 { end -= 8 }
    while end > 0, self[end - 1] == 0 { end -= 1 }
    return end
  }
}

extension UnsafeMutableRawBufferPointer {
  @inline(__always)
  func set<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at position: Int) {
    precondition(position >= 0 && position <= count - MemoryLayout<T>.size)
    // Proof: as in `integer(at:as:)`.
    baseAddress.unsafelyUnwrapped.storeBytes(of: value.littleEndian, toByteOffset: position, as: T.self)
  }
}

extension [UInt8] {
  mutating func append<T: FixedWidthInteger>(integer value: T) {
    Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
  }
}

/// CRC-32C of some bytes.
func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
  ~cchecksum_crc32c(~0, bytes.baseAddress, bytes.count)
}

/// A CRC-32C computed piece by piece.
struct RunningChecksum {
  /// Before the final inversion.
  var register: UInt32 = ~0

  @inline(__always)
  mutating func add(_ value: UInt32) {
    withUnsafeBytes(of: value.littleEndian) { register = cchecksum_crc32c(register, $0.baseAddress, 4) }
  }

  @inline(__always)
  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    register = cchecksum_crc32c(register, bytes.baseAddress, bytes.count)
  }

  var value: UInt32 { ~register }
}

/// A store's identity, 16 random bytes.
struct StoreID: Hashable, Sendable {
  /// The first and the second 8 bytes, read as little-endian integers.
  var first: UInt64
  var second: UInt64
}

/// Every checksum in a segment starts from this, so that bytes of another store or segment never pass.
struct ChecksumSeed: Sendable {
  let storeID: StoreID
  let baseOffset: UInt64
  /// The checksum's register after the store id and the base offset.
  let register: UInt32

  init(storeID: StoreID, baseOffset: UInt64) {
    self.storeID = storeID
    self.baseOffset = baseOffset
    var prefix: [UInt8] = []
    prefix.append(integer: storeID.first)
    prefix.append(integer: storeID.second)
    prefix.append(integer: baseOffset)
    register = cchecksum_crc32c(~0, prefix, prefix.count)
  }

  /// The checksum of bytes at a position of this segment.
  @inline(__always)
  func checksum(of bytes: UnsafeRawBufferPointer, at position: Int) -> UInt32 {
    ~cchecksum_crc32c_prefixed(register, UInt64(position), bytes.baseAddress, bytes.count)
  }
}

/// The stream hash of the format: FNV-1a, then mixed, because FNV-1a's upper bits alone distribute poorly.
func streamHash(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
  var hash: UInt64 = 0xCBF2_9CE4_8422_2325
  for byte in bytes {
    hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3
  }
  return mixed(hash)
}

/// Spreads the differences between numbers over all bits.
@inline(__always)
func mixed(_ value: UInt64) -> UInt64 {
  var value = value ^ value >> 32
  value = value &* 0x9E37_79B9_7F4A_7C15
  return value ^ value >> 29
}

@inline(__always)
func equal(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
  guard left.count == right.count, let a = left.baseAddress, let b = right.baseAddress else {
    return left.count == right.count
  }
  return memcmp(a, b, left.count) == 0
}
