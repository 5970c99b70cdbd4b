/// Reads consecutive varints and never reads past the end.
struct VarintReader {
  private var next: UnsafePointer<UInt8>?
  private let end: UnsafePointer<UInt8>?

  init(_ bytes: UnsafeRawBufferPointer) {
    // Proof: `bytes` outlives the reader, which exists only while a closure over `bytes` runs.
    let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    next = start
    end = start.map { $0 + bytes.count }
  }

  var isAtEnd: Bool { next == end }

  /// Returns nil at the end, or where a number does not end within 64 bits.
  @inline(__always)
  mutating func read() -> UInt64? {
    guard var at = next, let end, at < end else { return nil }
    var byte = at.pointee
    at += 1
    var value = UInt64(byte & 0x7F)
    var shift: UInt64 = 7
    while byte >= 0x80 {
      guard at < end, shift < 64 else { return nil }
      byte = at.pointee
      at += 1
      value |= UInt64(byte & 0x7F) &<< shift
      shift &+= 7
    }
    next = at
    return value
  }

  /// Skips varints. Returns false if there are fewer.
  mutating func skip(_ count: Int) -> Bool {
    guard count > 0 else { return true }
    guard var at = next, let end else { return false }
    var left = count
    // A varint ends with its first byte below 128, so eight bytes' ends are counted at once.
    while left >= 8, end - at >= 8 {
      let word = UnsafeRawPointer(at).loadUnaligned(as: UInt64.self)
      left -= (~word & 0x8080_8080_8080_8080).nonzeroBitCount
      at += 8
    }
    while left > 0 {
      guard at < end else { return false }
      if at.pointee < 0x80 { left -= 1 }
      at += 1
    }
    next = at
    return true
  }
}
