// The keys and filters of index files (docs/FORMAT.md).

/// The keys by which sections are sorted: the upper 48 bits of a hash. Different streams may share a key.
enum IndexKey {
  static let greatest: UInt64 = 1 << 48 - 1

  @inline(__always)
  static func stream(hash: UInt64) -> UInt64 { hash >> 16 }

  @inline(__always)
  static func eventID(_ id: EventID) -> UInt64 { hash(id) >> 16 }

  /// The hash of an id. Its upper part is the key.
  @inline(__always)
  static func hash(_ id: EventID) -> UInt64 {
    // Mixed, because ids may be consecutive numbers, and UUIDs have fixed bits.
    mixed(id.low ^ id.high &* 0xC2B2_AE3D_27D4_EB4F)
  }
}

/// A blocked Bloom filter: one block is a cache line with its own checksum (F. Putze, P. Sanders, J. Singler, 2007), so a
/// probe touches one line and checks what it touched. With 13 bits a key and six probes, less than one absent key in a
/// hundred passes. Lines ascend with the keys, so the filter is written in one pass over sorted keys. A line also says in
/// which block its keys begin, which avoids most cache misses of the search in the table.
enum IndexFilter {
  static let lineByteCount = 64
  static let bitsByteCount = 52
  static let blockNumberPosition = 52
  /// The block's position in the file, in units of ``positionUnit``.
  static let blockPositionPosition = 56
  static let positionUnit = 16
  /// The bytes that the checksum covers; the checksum follows them.
  static let checkedByteCount = 60
  static let keysPerLine = 32
  static let probes = 6

  static func lineCount(keyCount: Int) -> Int {
    (keyCount + keysPerLine - 1) / keysPerLine
  }

  @inline(__always)
  static func line(_ key: UInt64, lineCount: Int) -> Int {
    Int(truncatingIfNeeded: ((key >> 16) &* UInt64(truncatingIfNeeded: lineCount)) >> 32)
  }

  /// Bit number `probe` of a key in its line, 0..<416.
  @inline(__always)
  static func bit(_ key: UInt64, _ probe: Int) -> Int {
    let mixed = key &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: ((mixed >> UInt64(truncatingIfNeeded: 55 - 9 * probe) & 511) &* 13) >> 4)
  }

  @inline(__always)
  static func insert(_ key: UInt64, into line: UnsafeMutablePointer<UInt8>) {
    for probe in 0..<probes {
      let bit = bit(key, probe)
      line[bit >> 3] |= 1 << UInt8(truncatingIfNeeded: bit & 7)
    }
  }

  /// - Parameter line: must have all of its ``lineByteCount`` bytes.
  @inline(__always)
  static func mayContain(_ key: UInt64, in line: UnsafePointer<UInt8>) -> Bool {
    var all: UInt8 = 1
    for probe in 0..<probes {
      let bit = bit(key, probe)
      all &= line[bit >> 3] >> UInt8(truncatingIfNeeded: bit & 7)
    }
    return all & 1 != 0
  }
}
