import NIOCore

/// Cuts the bytes of a broker into frames. Pure.
///
/// A frame is a type (1 byte), a channel (2), the size of its payload (4), the payload, and an end octet: AMQP 0-9-1, 2.3.5. The
/// first seven bytes decide whether the rest is waited for, so nothing is kept of a frame that is too large.
struct AMQPFrameDecoder: Sendable {
  enum Kind: UInt8, Sendable {
    case method = 1
    case header = 2
    case body = 3
    case heartbeat = 8
  }

  struct Frame: Sendable, Hashable {
    var kind: Kind
    var channel: UInt16
    var payload: ByteBuffer
  }

  /// Bytes around a payload.
  static let overhead = 8
  static let end: UInt8 = 0xCE
  private static let headBytes = 7

  /// The largest frame, with what is around its payload.
  var frameLimit: Int
  private var bytes = ByteBuffer()

  init(frameLimit: Int) { self.frameLimit = frameLimit }

  /// Bytes that have arrived and are in no frame yet.
  var waitingBytes: Int { bytes.readableBytes }

  mutating func append(_ more: ByteBuffer) {
    if bytes.readableBytes == 0 {
      bytes = more
    } else {
      bytes.discardReadBytes()
      bytes.writeImmutableBuffer(more)
    }
  }

  /// - Returns: nil if more bytes are needed.
  mutating func next() throws(AMQPFailure) -> Frame? {
    let start = bytes.readerIndex
    guard let type: UInt8 = bytes.getInteger(at: start) else { return nil }
    guard let kind = Kind(rawValue: type) else {
      // A broker that does not speak this version responds with the header of one that it speaks.
      if type == UInt8(ascii: "A") {
        guard let text = bytes.getString(at: start, length: 4) else { return nil }
        if text == "AMQP" { throw AMQPFailure(reason: "it speaks another version of AMQP than 0-9-1") }
      }
      throw .broken("a frame of the unknown type \(type)")
    }
    guard let channel: UInt16 = bytes.getInteger(at: start + 1), let size: UInt32 = bytes.getInteger(at: start + 3)
    else { return nil }
    guard Int(size) <= frameLimit - Self.overhead else {
      throw .broken("a frame of \(UInt64(size) + UInt64(Self.overhead)) bytes, where \(frameLimit) are the limit")
    }
    guard let end: UInt8 = bytes.getInteger(at: start + Self.headBytes + Int(size)) else { return nil }
    guard end == Self.end, let payload = bytes.getSlice(at: start + Self.headBytes, length: Int(size)) else {
      throw .broken("a frame does not end where its size says")
    }
    bytes.moveReaderIndex(forwardBy: Self.overhead + Int(size))
    return Frame(kind: kind, channel: channel, payload: payload)
  }
}
