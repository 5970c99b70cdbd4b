import NIOCore

/// What an AMQP client says and hears on one connection: the log-in, its channels, and one request at a time. Pure: bytes go in with
/// ``receive(_:)`` and come out in ``output``.
///
/// Messages and confirms go on one channel, declarations on another: the broker closes a channel after a declaration that it refuses.
/// Deliveries come on a third channel. When that one is closed, the broker delivers again what was not settled.
struct AMQPSession: Sendable {
  struct Login: Sendable {
    var user: String
    var password: String
    var vhost: String
    /// How the connection is called at the broker.
    var name: String
    var version: String
    var heartbeatSeconds: UInt16
  }

  enum Event: Sendable, Hashable {
    /// The log-in is complete.
    case opened
    /// The answer to the request.
    case answered(AMQPMethod)
    /// The broker has refused the request, and closed its channel.
    case refused(AMQPFailure)
    /// The broker has taken the message with this tag, and all before it if `multiple`.
    case acknowledged(tag: UInt64, multiple: Bool)
    case rejected(tag: UInt64, multiple: Bool)
    /// No queue got the message with this id. Its confirm follows.
    case returned(id: String, reason: String)
    case blocked(reason: String)
    case unblocked
    case delivered(Delivery)
    /// A frame that says nothing by itself.
    case part
  }

  /// A message from a queue.
  struct Delivery: Sendable, Hashable {
    var tag: UInt64
    /// That the broker was given for the queue.
    var consumer: String
    /// Nil if it is longer than ``bodyLimit``.
    var body: [UInt8]?
  }

  /// The largest frame, in bytes, before and after the log-in; larger messages are sent in several. A broker's first frame has some
  /// hundred bytes, and the protocol's smallest limit is 4,096.
  static let frameLimit = 16 << 10
  private static let leastFrameLimit: UInt32 = 4_096
  /// The most bytes of the body of a delivery that is handed out; of a longer one nothing is kept. No message that is sent is longer.
  static let bodyLimit = 64 << 10

  static let publishing: UInt16 = 1
  static let declaring: UInt16 = 2
  static let consuming: UInt16 = 3

  private enum Phase: Sendable, Hashable {
    case start, tune, open, channel, confirms, ready, closing, closed
  }

  private enum ChannelState: Sendable, Hashable {
    case closed
    case open
    /// What still comes is left out until the broker has closed it too.
    case closing
  }

  /// A message that is not complete yet.
  private enum Content: Sendable {
    case none
    case returnedHeader(reason: String)
    case returnedBody(id: String, reason: String, left: UInt64)
    case deliveredHeader(Delivery)
    case deliveredBody(Delivery, left: UInt64)

    var isNone: Bool { if case .none = self { true } else { false } }
  }

  private let login: Login
  private var decoder = AMQPFrameDecoder(frameLimit: frameLimit)
  private var phase = Phase.start
  private var states: [ChannelState] = [.open, .closed, .closed, .closed]
  private var contents: [Content] = [.none, .none, .none, .none]
  /// The request that is not answered yet.
  private var awaited: (channel: UInt16, answer: UInt32)?
  /// Of messages that are sent.
  private var sentFrameLimit = frameLimit

  /// What is to be sent.
  private(set) var output = ByteBuffer()
  /// As agreed; 0 before, and for none.
  private(set) var heartbeatSeconds: UInt16 = 0
  /// The tag of the last message.
  private(set) var lastTag: UInt64 = 0

  init(_ login: Login) {
    self.login = login
    output.writeAMQPHeader()
  }

  /// Bytes that have arrived and mean nothing yet.
  var waitingBytes: Int { decoder.waitingBytes }

  mutating func takeOutput() -> ByteBuffer? {
    guard output.readableBytes > 0 else { return nil }
    defer { output = ByteBuffer() }
    return output
  }

  // MARK: - What arrives

  mutating func receive(_ bytes: ByteBuffer) { decoder.append(bytes) }

  /// Takes the next frame.
  ///
  /// - Returns: nil if more bytes are needed.
  /// - Throws: when the broker ends the connection, or sends what it must not. Then ``output`` may hold a last word, and nothing else
  ///   is to be received.
  mutating func next() throws(AMQPFailure) -> Event? {
    guard let frame = try decoder.next() else { return nil }
    if frame.kind == .heartbeat {
      guard frame.channel == 0 else { throw .broken("a heartbeat on a channel") }
      return .part
    }
    let channel = Int(frame.channel)
    guard channel < states.count, states[channel] != .closed else {
      throw .broken("a frame on channel \(channel), which is not open")
    }
    guard frame.kind == .method else {
      if states[channel] == .closing { return .part }
      return frame.kind == .header
        ? try takeHeader(frame.payload, channel) : try takeBody(frame.payload, channel)
    }
    let method = try AMQPMethod(frame.payload)
    if states[channel] == .closing { return try takeWhileClosing(method, frame.channel) }
    guard contents[channel].isNone else { throw .broken("a method in the middle of a message") }
    return channel == 0 ? try takeOnConnection(method) : try takeOnChannel(method, frame.channel)
  }

  private func unexpected(_ method: AMQPMethod) -> AMQPFailure {
    .broken("a method that is not due (class \(method.id >> 16), method \(method.id & 0xFFFF))")
  }

  private mutating func takeOnConnection(_ method: AMQPMethod) throws(AMQPFailure) -> Event {
    if case .close(let failure) = method {
      phase = .closed
      output.writeMethod(AMQPMethodID.closeOK, on: 0)
      throw failure
    }
    switch (phase, method) {
    case (.start, .start(let major, let minor, let mechanisms)):
      guard major == 0, minor == 9 else { throw AMQPFailure(reason: "it speaks AMQP \(major)-\(minor), not 0-9-1") }
      guard mechanisms.contains("PLAIN") else {
        throw AMQPFailure(reason: "it takes no log-in by a password (the mechanism PLAIN)")
      }
      logIn()
      phase = .tune
    case (.tune, .tune(let channels, let frame, let seconds)):
      try agree(channels, frame, seconds)
      phase = .open
    case (.open, .plain(AMQPMethodID.openOK)):
      openChannel(Self.publishing)
      awaited = nil
      phase = .channel
    case (.closing, .plain(AMQPMethodID.closeOK)):
      phase = .closed
      return .answered(method)
    case (.closing, _): break
    case (.ready, .blocked(let reason)): return .blocked(reason: reason)
    case (.ready, .plain(AMQPMethodID.unblocked)): return .unblocked
    default: throw unexpected(method)
    }
    return .part
  }

  private mutating func logIn() {
    let capabilities: AMQPTable = [
      "authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify",
      "exchange_exchange_bindings", "publisher_confirms",
    ].map { ($0, .boolean(true)) }
    let properties: AMQPTable = [
      ("capabilities", .table(capabilities)), ("connection_name", .text(login.name)), ("product", .text(login.name)),
      ("version", .text(login.version)),
    ]
    output.writeMethod(AMQPMethodID.startOK, on: 0) { [login] buffer in
      buffer.writeTable(properties)
      buffer.writeShort("PLAIN")
      // RFC 4616: no other identity, the user, the password.
      buffer.writeLong("\0\(login.user)\0\(login.password)")
      buffer.writeShort("en_US")
    }
  }

  /// Agrees on the lower limits, where 0 stands for none.
  private mutating func agree(_ channels: UInt16, _ frame: UInt32, _ seconds: UInt16) throws(AMQPFailure) {
    guard channels == 0 || channels >= Self.consuming else {
      throw AMQPFailure(reason: "it allows \(channels) channels, and \(Self.consuming) are needed (channel_max)")
    }
    guard frame == 0 || frame >= Self.leastFrameLimit else {
      throw .broken("frames of at most \(frame) bytes, where \(Self.leastFrameLimit) must be possible")
    }
    let limit = frame == 0 ? Self.frameLimit : min(Self.frameLimit, Int(frame))
    (sentFrameLimit, decoder.frameLimit) = (limit, limit)
    let ours = login.heartbeatSeconds
    heartbeatSeconds = seconds == 0 || ours == 0 ? max(seconds, ours) : min(seconds, ours)
    output.writeMethod(AMQPMethodID.tuneOK, on: 0) { [heartbeatSeconds] buffer in
      buffer.writeInteger(Self.consuming)
      buffer.writeInteger(UInt32(limit))
      buffer.writeInteger(heartbeatSeconds)
    }
    output.writeMethod(AMQPMethodID.open, on: 0) { [login] buffer in
      buffer.writeShort(login.vhost)
      // Two arguments of an earlier version.
      buffer.writeShort("")
      buffer.writeInteger(UInt8(0))
    }
  }

  private mutating func takeOnChannel(_ method: AMQPMethod, _ channel: UInt16) throws(AMQPFailure) -> Event {
    if case .channelClose(let failure) = method { return try takeClose(failure, channel) }
    switch (phase, channel, method.id) {
    case (.channel, Self.publishing, AMQPMethodID.channelOpenOK):
      output.writeMethod(AMQPMethodID.confirmSelect, on: channel) { $0.writeInteger(UInt8(0)) }
      phase = .confirms
      return .part
    case (.confirms, Self.publishing, AMQPMethodID.confirmSelectOK):
      phase = .ready
      return .opened
    case (.ready, _, _), (.closing, _, _): break
    default: throw unexpected(method)
    }
    if let awaited, awaited == (channel, method.id) {
      self.awaited = nil
      return .answered(method)
    }
    switch (channel, method) {
    case (Self.publishing, .ack(let tag, let multiple)):
      return .acknowledged(tag: try checked(tag, multiple), multiple: multiple)
    case (Self.publishing, .nack(let tag, let multiple)):
      return .rejected(tag: try checked(tag, multiple), multiple: multiple)
    case (Self.publishing, .returned(let reason)): contents[Int(channel)] = .returnedHeader(reason: reason)
    case (Self.consuming, .deliver(let consumer, let tag)):
      contents[Int(channel)] = .deliveredHeader(Delivery(tag: tag, consumer: consumer, body: []))
    case (Self.consuming, .cancel): throw AMQPFailure(reason: "a queue was deleted, or its leader was lost")
    default: throw unexpected(method)
    }
    return .part
  }

  private func checked(_ tag: UInt64, _ multiple: Bool) throws(AMQPFailure) -> UInt64 {
    // The protocol has the tag 0 for all messages so far; RabbitMQ does not send it.
    if tag == 0, multiple, lastTag > 0 { return lastTag }
    guard tag > 0, tag <= lastTag else { throw AMQPFailure(reason: "it confirms messages that were not sent") }
    return tag
  }

  private mutating func takeClose(_ failure: AMQPFailure, _ channel: UInt16) throws(AMQPFailure) -> Event {
    states[Int(channel)] = .closed
    output.writeMethod(AMQPMethodID.channelCloseOK, on: channel)
    // A refusal in the log-in, and the end of what is published or consumed, are the end of the connection's use.
    guard let awaited, awaited.channel == channel else { throw failure }
    self.awaited = nil
    return .refused(failure)
  }

  private mutating func takeWhileClosing(_ method: AMQPMethod, _ channel: UInt16) throws(AMQPFailure) -> Event {
    switch method {
    case .channelClose:
      // Both sides close it.
      output.writeMethod(AMQPMethodID.channelCloseOK, on: channel)
      return .part
    case .plain(AMQPMethodID.channelCloseOK):
      states[Int(channel)] = .closed
      awaited = nil
      return .answered(method)
    default: return .part
    }
  }

  // MARK: - Messages that arrive

  private mutating func takeHeader(_ payload: ByteBuffer, _ channel: Int) throws(AMQPFailure) -> Event {
    switch contents[channel] {
    case .returnedHeader(let reason):
      let header = try AMQPContentHeader(payload)
      guard header.bodyBytes <= UInt64(Self.bodyLimit) else {
        throw .broken("a returned message of \(header.bodyBytes) bytes, and none of that size was sent")
      }
      contents[channel] = .returnedBody(id: header.messageID ?? "", reason: reason, left: header.bodyBytes)
      return header.bodyBytes == 0 ? end(channel) : .part
    case .deliveredHeader(var delivery):
      let header = try AMQPContentHeader(payload)
      if header.bodyBytes > UInt64(Self.bodyLimit) { delivery.body = nil }
      contents[channel] = .deliveredBody(delivery, left: header.bodyBytes)
      return header.bodyBytes == 0 ? end(channel) : .part
    default: throw .broken("the header of a message that there is not")
    }
  }

  private mutating func takeBody(_ payload: ByteBuffer, _ channel: Int) throws(AMQPFailure) -> Event {
    let count = UInt64(payload.readableBytes)
    switch contents[channel] {
    case .returnedBody(let id, let reason, let left) where count <= left:
      contents[channel] = .returnedBody(id: id, reason: reason, left: left - count)
      return count == left ? end(channel) : .part
    case .deliveredBody(var delivery, let left) where count <= left:
      contents[channel] = .none
      // All parts together are at most what the header says, which is within the limit.
      delivery.body?.append(contentsOf: payload.readableBytesView)
      contents[channel] = .deliveredBody(delivery, left: left - count)
      return count == left ? end(channel) : .part
    case .returnedBody, .deliveredBody: throw .broken("a message that is longer than its header says")
    default: throw .broken("the body of a message that there is not")
    }
  }

  private mutating func end(_ channel: Int) -> Event {
    defer { contents[channel] = .none }
    switch contents[channel] {
    case .returnedBody(let id, let reason, _): return .returned(id: id, reason: reason)
    case .deliveredBody(let delivery, _): return .delivered(delivery)
    default: return .part
    }
  }
}

// MARK: - Requests

/// Each asks for one answer, ``Event/answered(_:)`` or ``Event/refused(_:)``, before the next one is made.
extension AMQPSession {
  func isOpen(_ channel: UInt16) -> Bool { states[Int(channel)] == .open }

  mutating func openChannel(_ channel: UInt16) {
    states[Int(channel)] = .open
    contents[Int(channel)] = .none
    awaited = (channel, AMQPMethodID.channelOpenOK)
    output.writeMethod(AMQPMethodID.channelOpen, on: channel) { $0.writeShort("") }
  }

  /// What still comes on it is left out.
  mutating func closeChannel(_ channel: UInt16) {
    states[Int(channel)] = .closing
    contents[Int(channel)] = .none
    awaited = (channel, AMQPMethodID.channelCloseOK)
    output.writeMethod(AMQPMethodID.channelClose, on: channel) { $0.writeClosing() }
  }

  mutating func close() {
    phase = .closing
    awaited = (0, AMQPMethodID.closeOK)
    output.writeMethod(AMQPMethodID.close, on: 0) { $0.writeClosing() }
  }

  /// A durable exchange.
  mutating func declareExchange(_ name: String, type: String) {
    awaited = (Self.declaring, AMQPMethodID.exchangeDeclareOK)
    output.writeMethod(AMQPMethodID.exchangeDeclare, on: Self.declaring) { buffer in
      buffer.writeInteger(UInt16(0))
      buffer.writeShort(name)
      buffer.writeShort(type)
      let durable: UInt8 = 1 << 1
      buffer.writeInteger(durable)
      buffer.writeTable([])
    }
  }

  /// Has `destination` get what `source` gets.
  mutating func bindExchange(_ destination: String, to source: String) {
    awaited = (Self.declaring, AMQPMethodID.exchangeBindOK)
    output.writeMethod(AMQPMethodID.exchangeBind, on: Self.declaring) { $0.writeBinding(destination, source) }
  }

  /// A durable queue.
  mutating func declareQueue(_ name: String, _ arguments: AMQPTable) {
    let durable: UInt8 = 1 << 1
    declareQueue(name, bits: durable, arguments)
  }

  /// Asks for the counts of a queue that is there.
  mutating func countQueue(_ name: String) {
    let passive: UInt8 = 1
    declareQueue(name, bits: passive, [])
  }

  private mutating func declareQueue(_ name: String, bits: UInt8, _ arguments: AMQPTable) {
    awaited = (Self.declaring, AMQPMethodID.queueDeclareOK)
    output.writeMethod(AMQPMethodID.queueDeclare, on: Self.declaring) { buffer in
      buffer.writeInteger(UInt16(0))
      buffer.writeShort(name)
      buffer.writeInteger(bits)
      buffer.writeTable(arguments)
    }
  }

  mutating func bindQueue(_ queue: String, to exchange: String) {
    awaited = (Self.declaring, AMQPMethodID.queueBindOK)
    output.writeMethod(AMQPMethodID.queueBind, on: Self.declaring) { $0.writeBinding(queue, exchange) }
  }

  /// Has the broker deliver so many messages at most that are not settled, to each consumer that follows.
  mutating func setPrefetch(_ count: UInt16) {
    awaited = (Self.consuming, AMQPMethodID.qosOK)
    output.writeMethod(AMQPMethodID.qos, on: Self.consuming) { buffer in
      let anySize: UInt32 = 0
      buffer.writeInteger(anySize)
      buffer.writeInteger(count)
      let forChannel: UInt8 = 0
      buffer.writeInteger(forChannel)
    }
  }

  // MARK: - What has no answer

  /// The broker closes the channel if there is no such queue.
  mutating func consume(_ queue: String, as consumer: String) {
    output.writeMethod(AMQPMethodID.consume, on: Self.consuming) { buffer in
      buffer.writeInteger(UInt16(0))
      buffer.writeShort(queue)
      buffer.writeShort(consumer)
      let noAnswer: UInt8 = 1 << 3
      buffer.writeInteger(noAnswer)
      buffer.writeTable([])
    }
  }

  /// - Parameter requeues: if it is not taken: nil if it is.
  mutating func settle(_ tag: UInt64, requeues: Bool?) {
    output.writeMethod(requeues == nil ? AMQPMethodID.ack : AMQPMethodID.nack, on: Self.consuming) { buffer in
      buffer.writeInteger(tag)
      let requeue: UInt8 = 1 << 1
      buffer.writeInteger(requeues == true ? requeue : 0)
    }
  }

  /// - Returns: the message's tag: the first has 1, and each one the next number.
  mutating func publish(_ message: AMQPMessage) -> UInt64 {
    output.writePublish(message, on: Self.publishing, frameLimit: sentFrameLimit)
    lastTag += 1
    return lastTag
  }
}

extension ByteBuffer {
  /// The arguments of `close`: that nothing is wrong.
  fileprivate mutating func writeClosing() {
    let success: UInt16 = 200
    writeInteger(success)
    writeShort("")
    writeInteger(UInt32(0))
  }

  fileprivate mutating func writeBinding(_ destination: String, _ source: String) {
    writeInteger(UInt16(0))
    writeShort(destination)
    writeShort(source)
    let routingKey = ""
    writeShort(routingKey)
    let noWait: UInt8 = 0
    writeInteger(noWait)
    writeTable([])
  }
}
