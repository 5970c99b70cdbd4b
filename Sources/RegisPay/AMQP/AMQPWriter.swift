import NIOCore

/// A table's names and values, in their order.
typealias AMQPTable = [(name: String, value: AMQPValue)]

enum AMQPValue: Sendable {
  case text(String)
  case boolean(Bool)
  case integer(Int32)
  case table(AMQPTable)
}

/// A message to an exchange that ignores the routing key.
struct AMQPMessage: Sendable, Hashable {
  var exchange: String
  var contentType: String
  var id: String
  var correlationID: String
  var headers: [Header] = []
  var body: [UInt8]

  struct Header: Sendable, Hashable {
    var name: String
    var value: String
  }
}

/// Writes frames. Names come from this program, which keeps them within the 255 bytes of a short text.
extension ByteBuffer {
  /// What a client sends first: AMQP 0-9-1, 4.2.2.
  mutating func writeAMQPHeader() {
    writeString("AMQP")
    writeBytes([0, 0, 9, 1])
  }

  /// - Parameter arguments: writes them.
  mutating func writeMethod(_ id: UInt32, on channel: UInt16, _ arguments: (inout ByteBuffer) -> Void = { _ in }) {
    writeFrame(.method, on: channel) { buffer in
      buffer.writeInteger(id)
      arguments(&buffer)
    }
  }

  mutating func writeHeartbeat() { writeFrame(.heartbeat, on: 0) { _ in } }

  private mutating func writeFrame(
    _ kind: AMQPFrameDecoder.Kind, on channel: UInt16, _ payload: (inout ByteBuffer) -> Void
  ) {
    writeInteger(kind.rawValue)
    writeInteger(channel)
    let place = writerIndex
    writeInteger(UInt32(0))
    payload(&self)
    setInteger(UInt32(writerIndex - place - MemoryLayout<UInt32>.size), at: place)
    writeInteger(AMQPFrameDecoder.end)
  }

  /// A persistent message that has to reach a queue.
  mutating func writePublish(_ message: AMQPMessage, on channel: UInt16, frameLimit: Int) {
    writeMethod(AMQPMethodID.publish, on: channel) { buffer in
      buffer.writeInteger(UInt16(0))
      buffer.writeShort(message.exchange)
      let routingKey = ""
      buffer.writeShort(routingKey)
      let mandatory: UInt8 = 1
      buffer.writeInteger(mandatory)
    }
    writeFrame(.header, on: channel) { buffer in
      buffer.writeInteger(AMQPMethodID.basicClass)
      let weight: UInt16 = 0
      buffer.writeInteger(weight)
      buffer.writeInteger(UInt64(message.body.count))
      // Content type, headers, delivery mode, correlation id, message id.
      let flags: UInt16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 7
      buffer.writeInteger(flags)
      buffer.writeShort(message.contentType)
      buffer.writeTable(message.headers.map { ($0.name, .text($0.value)) })
      let persistent: UInt8 = 2
      buffer.writeInteger(persistent)
      buffer.writeShort(message.correlationID)
      buffer.writeShort(message.id)
    }
    var start = 0
    while start < message.body.count {
      let end = min(message.body.count, start + frameLimit - AMQPFrameDecoder.overhead)
      writeFrame(.body, on: channel) { $0.writeBytes(message.body[start..<end]) }
      start = end
    }
  }

  mutating func writeShort(_ text: String) {
    let place = writerIndex
    writeInteger(UInt8(0))
    let count = writeString(text)
    precondition(count <= 255, "a short text of AMQP has at most 255 bytes")
    setInteger(UInt8(count), at: place)
  }

  mutating func writeLong(_ text: String) {
    let place = writerIndex
    writeInteger(UInt32(0))
    setInteger(UInt32(writeString(text)), at: place)
  }

  mutating func writeTable(_ table: AMQPTable) {
    let place = writerIndex
    writeInteger(UInt32(0))
    for (name, value) in table {
      writeShort(name)
      switch value {
      case .text(let text):
        writeInteger(UInt8(ascii: "S"))
        writeLong(text)
      case .boolean(let isTrue):
        writeInteger(UInt8(ascii: "t"))
        writeInteger(UInt8(isTrue ? 1 : 0))
      case .integer(let number):
        writeInteger(UInt8(ascii: "I"))
        writeInteger(number)
      case .table(let inner):
        writeInteger(UInt8(ascii: "F"))
        writeTable(inner)
      }
    }
    setInteger(UInt32(writerIndex - place - MemoryLayout<UInt32>.size), at: place)
  }
}
