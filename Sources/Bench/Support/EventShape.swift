import CChecksum
import LogStore

/// The measured events, and their size on disk (docs/FORMAT.md), so that the limit gets the same bytes.
struct EventShape: Sendable {
  var payloadBytes: Int
  static let type = "Measured"
  static let streamBytes = 12

  /// Twelve bytes: `s` and the number.
  static func stream(_ number: Int) -> String {
    let digits = String(number)
    return "s" + String(repeating: "0", count: max(0, streamBytes - 1 - digits.count)) + digits
  }

  func event(_ number: Int, stream: Int) -> NewEvent {
    NewEvent(stream: Self.stream(stream), type: Self.type, payload: payload(number))
  }

  func payload(_ number: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number &* 31), count: payloadBytes)
    for index in 0..<min(8, payloadBytes) { bytes[index] = UInt8(truncatingIfNeeded: number >> (8 * index)) }
    return bytes
  }

  static let frameHeaderBytes = 48
  private static let recordHeaderBytes = 32

  var recordBytes: Int { Self.recordHeaderBytes + Self.streamBytes + Self.type.utf8.count + payloadBytes }

  /// Bytes of a frame with this many events.
  func frameBytes(_ events: Int) -> Int { (Self.frameHeaderBytes + events * recordBytes + 7) & ~7 }

  /// A frame as the limit reads it: header and records with their lengths and checksums where LogStore has them.
  func frame(_ events: Int, first: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: frameBytes(events))
    put(UInt32(bytes.count), in: &bytes, at: 4)
    put(UInt32(events), in: &bytes, at: 24)
    for index in 0..<events {
      let at = Self.frameHeaderBytes + index * recordBytes
      put(UInt32(recordBytes), in: &bytes, at: at + 4)
      for byte in 8..<recordBytes { bytes[at + byte] = UInt8(truncatingIfNeeded: first &+ index &+ byte &* 7) }
      let checksum = bytes.withUnsafeBytes { crc32c($0, at + 4, recordBytes - 4) }
      put(checksum, in: &bytes, at: at)
    }
    let checksum = bytes.withUnsafeBytes { crc32c($0, 4, Self.frameHeaderBytes - 4) }
    put(checksum, in: &bytes, at: 0)
    return bytes
  }

  private func put(_ number: UInt32, in bytes: inout [UInt8], at position: Int) {
    for index in 0..<4 { bytes[position + index] = UInt8(truncatingIfNeeded: number >> UInt32(8 * index)) }
  }
}

/// The checksum of `count` bytes from `position` on, which the caller knows to be inside.
@inline(__always)
func crc32c(_ bytes: UnsafeRawBufferPointer, _ position: Int, _ count: Int) -> UInt32 {
  ~cchecksum_crc32c_instruction(.max, bytes.baseAddress?.advanced(by: position), count)
}
