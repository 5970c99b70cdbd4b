import NIOCore

/// The numbers of methods: class and method. Source: `amqp-rabbitmq-0.9.1.json` of RabbitMQ's code generator, which is the
/// specification with RabbitMQ's extensions (rabbitmq/rabbitmq-codegen).
enum AMQPMethodID {
  static let start: UInt32 = 10 << 16 | 10
  static let startOK: UInt32 = 10 << 16 | 11
  static let tune: UInt32 = 10 << 16 | 30
  static let tuneOK: UInt32 = 10 << 16 | 31
  static let open: UInt32 = 10 << 16 | 40
  static let openOK: UInt32 = 10 << 16 | 41
  static let close: UInt32 = 10 << 16 | 50
  static let closeOK: UInt32 = 10 << 16 | 51
  static let blocked: UInt32 = 10 << 16 | 60
  static let unblocked: UInt32 = 10 << 16 | 61

  static let channelOpen: UInt32 = 20 << 16 | 10
  static let channelOpenOK: UInt32 = 20 << 16 | 11
  static let channelClose: UInt32 = 20 << 16 | 40
  static let channelCloseOK: UInt32 = 20 << 16 | 41

  static let exchangeDeclare: UInt32 = 40 << 16 | 10
  static let exchangeDeclareOK: UInt32 = 40 << 16 | 11
  static let exchangeBind: UInt32 = 40 << 16 | 30
  static let exchangeBindOK: UInt32 = 40 << 16 | 31

  static let queueDeclare: UInt32 = 50 << 16 | 10
  static let queueDeclareOK: UInt32 = 50 << 16 | 11
  static let queueBind: UInt32 = 50 << 16 | 20
  static let queueBindOK: UInt32 = 50 << 16 | 21

  static let qos: UInt32 = 60 << 16 | 10
  static let qosOK: UInt32 = 60 << 16 | 11
  static let consume: UInt32 = 60 << 16 | 20
  static let cancel: UInt32 = 60 << 16 | 30
  static let publish: UInt32 = 60 << 16 | 40
  static let returned: UInt32 = 60 << 16 | 50
  static let deliver: UInt32 = 60 << 16 | 60
  static let ack: UInt32 = 60 << 16 | 80
  static let nack: UInt32 = 60 << 16 | 120

  static let confirmSelect: UInt32 = 85 << 16 | 10
  static let confirmSelectOK: UInt32 = 85 << 16 | 11

  /// The class of content.
  static let basicClass: UInt16 = 60
}

/// A method that a broker may send to this client.
enum AMQPMethod: Sendable, Hashable {
  case start(major: UInt8, minor: UInt8, mechanisms: [String])
  case tune(channelLimit: UInt16, frameLimit: UInt32, heartbeatSeconds: UInt16)
  case close(AMQPFailure)
  case channelClose(AMQPFailure)
  case blocked(reason: String)
  case queueDeclareOK(messages: UInt32, consumers: UInt32)
  case cancel(consumer: String)
  case returned(reason: String)
  case deliver(consumer: String, tag: UInt64)
  case ack(tag: UInt64, multiple: Bool)
  case nack(tag: UInt64, multiple: Bool)
  /// Of those that say nothing more, the number.
  case plain(UInt32)

  /// - Parameter payload: of a method frame.
  init(_ payload: ByteBuffer) throws(AMQPFailure) {
    var reader = AMQPReader(payload)
    guard let id = reader.long() else { throw .broken("a method without a number") }
    guard let method = Self.read(id, &reader), reader.isAtEnd else {
      throw .broken("a method that is not known, or not as it must be (class \(id >> 16), method \(id & 0xFFFF))")
    }
    self = method
  }

  var id: UInt32 {
    switch self {
    case .start: AMQPMethodID.start
    case .tune: AMQPMethodID.tune
    case .close: AMQPMethodID.close
    case .channelClose: AMQPMethodID.channelClose
    case .blocked: AMQPMethodID.blocked
    case .queueDeclareOK: AMQPMethodID.queueDeclareOK
    case .cancel: AMQPMethodID.cancel
    case .returned: AMQPMethodID.returned
    case .deliver: AMQPMethodID.deliver
    case .ack: AMQPMethodID.ack
    case .nack: AMQPMethodID.nack
    case .plain(let id): id
    }
  }

  private static func read(_ id: UInt32, _ reader: inout AMQPReader) -> AMQPMethod? {
    switch id {
    case AMQPMethodID.start:
      guard let major = reader.octet(), let minor = reader.octet(), reader.skipLong(),
        let mechanisms = reader.longText(), reader.skipLong()
      else { return nil }
      return .start(major: major, minor: minor, mechanisms: mechanisms.split(separator: " ").map(String.init))
    case AMQPMethodID.tune:
      guard let channels = reader.short(), let frame = reader.long(), let seconds = reader.short() else { return nil }
      return .tune(channelLimit: channels, frameLimit: frame, heartbeatSeconds: seconds)
    case AMQPMethodID.close: return reader.closing().map { .close($0) }
    case AMQPMethodID.channelClose: return reader.closing().map { .channelClose($0) }
    case AMQPMethodID.blocked: return reader.reason().map { .blocked(reason: $0) }
    case AMQPMethodID.openOK: return reader.skipShort() ? .plain(id) : nil
    case AMQPMethodID.channelOpenOK: return reader.skipLong() ? .plain(id) : nil
    case AMQPMethodID.closeOK, AMQPMethodID.unblocked, AMQPMethodID.channelCloseOK, AMQPMethodID.exchangeDeclareOK,
      AMQPMethodID.exchangeBindOK, AMQPMethodID.queueBindOK, AMQPMethodID.qosOK, AMQPMethodID.confirmSelectOK:
      return .plain(id)
    case AMQPMethodID.queueDeclareOK:
      guard reader.skipShort(), let messages = reader.long(), let consumers = reader.long() else { return nil }
      return .queueDeclareOK(messages: messages, consumers: consumers)
    default: return readBasic(id, &reader)
    }
  }

  private static func readBasic(_ id: UInt32, _ reader: inout AMQPReader) -> AMQPMethod? {
    switch id {
    case AMQPMethodID.cancel:
      guard let consumer = reader.shortText(), reader.octet() != nil else { return nil }
      return .cancel(consumer: consumer)
    case AMQPMethodID.returned:
      guard reader.short() != nil, let reason = reader.reason(), reader.skipShort(), reader.skipShort() else {
        return nil
      }
      return .returned(reason: reason)
    case AMQPMethodID.deliver:
      guard let consumer = reader.shortText(), let tag = reader.longLong(), reader.octet() != nil, reader.skipShort(),
        reader.skipShort()
      else { return nil }
      return .deliver(consumer: consumer, tag: tag)
    case AMQPMethodID.ack:
      guard let tag = reader.longLong(), let bits = reader.octet() else { return nil }
      return .ack(tag: tag, multiple: bits & 1 != 0)
    case AMQPMethodID.nack:
      guard let tag = reader.longLong(), let bits = reader.octet() else { return nil }
      return .nack(tag: tag, multiple: bits & 1 != 0)
    default: return nil
    }
  }
}

/// What precedes the body of a message.
struct AMQPContentHeader: Sendable, Hashable {
  var bodyBytes: UInt64
  var messageID: String?

  /// Bits of the properties before the message's id: short texts but for the headers, which are a table, and two single bytes.
  private static let contentType: UInt16 = 1 << 15
  private static let contentEncoding: UInt16 = 1 << 14
  private static let headers: UInt16 = 1 << 13
  private static let deliveryMode: UInt16 = 1 << 12
  private static let priority: UInt16 = 1 << 11
  private static let correlationID: UInt16 = 1 << 10
  private static let replyTo: UInt16 = 1 << 9
  private static let expiration: UInt16 = 1 << 8
  private static let messageID: UInt16 = 1 << 7

  /// - Parameter payload: of a header frame. What follows the message's id is not read.
  init(_ payload: ByteBuffer) throws(AMQPFailure) {
    var reader = AMQPReader(payload)
    guard reader.short() == AMQPMethodID.basicClass, reader.short() != nil, let bytes = reader.longLong(),
      let flags = reader.short()
    else { throw .broken("the header of a message is not as it must be") }
    bodyBytes = bytes
    for flag in [
      Self.contentType, Self.contentEncoding, Self.headers, Self.deliveryMode, Self.priority, Self.correlationID,
      Self.replyTo, Self.expiration,
    ] where flags & flag != 0 {
      let isRead =
        switch flag {
        case Self.headers: reader.skipLong()
        case Self.deliveryMode, Self.priority: reader.octet() != nil
        default: reader.skipShort()
        }
      guard isRead else { throw .broken("the properties of a message are not as they must be") }
    }
    guard flags & Self.messageID != 0 else { return }
    guard let text = reader.shortText() else { throw .broken("the id of a message is not as it must be") }
    messageID = text
  }
}

/// Reads the fields of a frame. Each length is checked against the frame's own bytes; a table is skipped by its length.
struct AMQPReader {
  private var bytes: ByteBuffer

  init(_ bytes: ByteBuffer) { self.bytes = bytes }

  var isAtEnd: Bool { bytes.readableBytes == 0 }

  mutating func octet() -> UInt8? { bytes.readInteger() }
  mutating func short() -> UInt16? { bytes.readInteger() }
  mutating func long() -> UInt32? { bytes.readInteger() }
  mutating func longLong() -> UInt64? { bytes.readInteger() }

  mutating func shortText() -> String? {
    octet().flatMap { bytes.readSlice(length: Int($0)) }.map { String(ofBroker: $0.readableBytesView) }
  }

  /// A text for a person, in which a broker may say nothing.
  mutating func reason() -> String? { shortText().map { $0.isEmpty ? "it says no reason" : $0 } }

  /// A long one is at most as long as its frame.
  mutating func longText() -> String? {
    long().flatMap { bytes.readSlice(length: Int($0)) }.map { String(ofBroker: $0.readableBytesView) }
  }

  /// Skips a short text.
  mutating func skipShort() -> Bool { octet().flatMap { bytes.readSlice(length: Int($0)) } != nil }

  /// Skips a long text or a table.
  mutating func skipLong() -> Bool { long().flatMap { bytes.readSlice(length: Int($0)) } != nil }

  /// Why the broker closes a channel or the connection.
  mutating func closing() -> AMQPFailure? {
    guard let code = short(), let reason = reason(), short() != nil, short() != nil else { return nil }
    return AMQPFailure(code: Int(code), reason: reason)
  }
}
