/// A reader of segments, written from docs/FORMAT.md alone, without LogStore's code: the bytes on disk must be what the
/// document says, not only what LogStore reads back.
struct FormatCheck {
  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : value >> 1 ^ 0x82F6_3B78 }
    return value
  }

  /// CRC-32C without the inversions at its ends.
  private static func register(_ start: UInt32, _ bytes: some Sequence<UInt8>) -> UInt32 {
    var value = start
    for byte in bytes { value = value >> 8 ^ table[Int((value ^ UInt32(byte)) & 0xFF)] }
    return value
  }

  struct Frame {
    var position: Int
    var byteCount: Int
    var firstOffset: UInt64
    var events: Int
    var records: Int
    var synced: Int
    var chain: UInt32
    var checksum: UInt32
    var timestamp: UInt64
    var isSnapshot: Bool
  }

  let bytes: [UInt8]
  private let checksumSeed: UInt32

  /// - Parameter segment: the content of a segment's file.
  init(segment: [UInt8]) {
    bytes = segment
    checksumSeed = Self.register(~0, segment[16..<40])
  }

  private func integer(_ position: Int, _ count: Int) -> UInt64 {
    var value: UInt64 = 0
    for index in (0..<count).reversed() { value = value << 8 | UInt64(bytes[position + index]) }
    return value
  }

  private func positionedChecksum(_ position: Int, _ range: Range<Int>) -> UInt32 {
    let at = (0..<8).map { UInt8(truncatingIfNeeded: position >> ($0 * 8)) }
    return ~Self.register(Self.register(checksumSeed, at), bytes[range])
  }

  var baseOffset: UInt64 { integer(32, 8) }
  var chain: UInt32 { UInt32(integer(64, 4)) }

  /// The frame at a position, if its header is sound.
  func frame(at position: Int) -> Frame? {
    guard position + 48 <= bytes.count else { return nil }
    let byteCount = Int(integer(position + 4, 4))
    guard byteCount % 8 == 0, position + byteCount <= bytes.count,
      48 + 33 * Int(integer(position + 28, 4)) <= byteCount,
      integer(position + 24, 4) <= integer(position + 28, 4), integer(position + 44, 4) <= 1,
      UInt32(integer(position, 4)) == positionedChecksum(position, position + 4..<position + 48)
    else { return nil }
    return Frame(
      position: position, byteCount: byteCount, firstOffset: integer(position + 8, 8),
      events: Int(integer(position + 24, 4)), records: Int(integer(position + 28, 4)),
      synced: Int(integer(position + 32, 4)), chain: UInt32(integer(position + 36, 4)),
      checksum: UInt32(integer(position, 4)), timestamp: integer(position + 16, 8),
      isSnapshot: integer(position + 44, 4) & 1 != 0)
  }

  /// Every frame from the first one to the first that is not sound.
  func frames() -> [Frame] {
    var frames: [Frame] = []
    var position = 4096
    while let frame = frame(at: position) {
      frames.append(frame)
      position += frame.byteCount
    }
    return frames
  }

  /// What differs from the document; nil if nothing does.
  func fault() -> String? {
    guard Array(bytes[..<8]) == Array("LSSEGMNT".utf8),
      UInt32(integer(4092, 4)) == ~Self.register(~0, bytes[..<4092])
    else { return "the header of a segment is not as docs/FORMAT.md says" }
    var chain = chain
    var offset = baseOffset
    var timestamp: UInt64 = 0
    for frame in frames() {
      guard frame.chain == chain, frame.firstOffset == offset, frame.timestamp >= timestamp,
        frame.synced <= frame.position, frame.isSnapshot == (frame.position == 4096)
      else { return "the frame at byte \(frame.position) does not follow on from the one before it" }
      var at = frame.position + 48
      var events = 0
      var body: UInt32 = ~0
      for _ in 0..<frame.records {
        let length = Int(integer(at + 4, 4))
        guard length >= 32, at + length <= frame.position + frame.byteCount,
          UInt32(integer(at, 4)) == positionedChecksum(at, at + 4..<at + length),
          integer(at + 28, 4) == UInt64(at - frame.position)
        else { return "the record at byte \(at) is not as docs/FORMAT.md says" }
        if bytes[at + 8] == 1 {
          guard baseOffset + integer(at + 24, 4) == offset + UInt64(events) else {
            return "the record at byte \(at) has another offset"
          }
          events += 1
        }
        body = Self.register(body, bytes[at..<at + 4])
        at += length
      }
      body = Self.register(body, bytes[at..<frame.position + frame.byteCount])
      guard events == frame.events, UInt32(integer(frame.position + 40, 4)) == ~body else {
        return "the body of the frame at byte \(frame.position) is not as docs/FORMAT.md says"
      }
      chain = frame.checksum
      offset += UInt64(events)
      timestamp = frame.timestamp
    }
    return nil
  }
}
