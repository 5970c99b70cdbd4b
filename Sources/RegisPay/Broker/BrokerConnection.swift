import CRabbitMQ
import LogStore

/// A connection to a broker. Used by one thread, which it may hold for the limits that it was given.
struct BrokerConnection: ~Copyable {
  /// Why the broker, or the way to it, can't be used.
  struct Failure: Error, Sendable, Hashable {
    /// AMQP's reply code, if the broker gave one.
    var code: Int?
    var reason: String
  }

  enum Arrival: Sendable, Hashable {
    case acknowledged(tag: UInt64, multiple: Bool)
    case refused(tag: UInt64, multiple: Bool)
    /// No queue got the message with this id.
    case returned(id: String, reason: String)
    case blocked(reason: String)
    case unblocked
    case delivered(Delivery)
    /// A part of a message: more follows.
    case part
    case ended(Failure)
  }

  /// A message from a queue.
  struct Delivery: Sendable, Hashable {
    /// For ``settle(_:_:)``.
    var tag: UInt64
    /// That the broker was given for the queue.
    var consumer: String
    /// Nil if it is longer than any that means something here.
    var body: [UInt8]?
  }

  /// How the connection is called at the broker.
  private static let name = "regispay"

  private let connection: OpaquePointer
  private let callGuard: CallGuard
  /// The tag of the last message.
  private(set) var lastTag: UInt64 = 0
  private var isPolite = false

  var descriptor: Int32 { crabbit_descriptor(connection) }

  /// Connects and logs in.
  static func open(
    _ url: BrokerURL, _ options: BrokerOptions, _ callGuard: CallGuard
  ) throws(Failure) -> BrokerConnection {
    var event = crabbit_event()
    let limit = Int32(options.waitLimit / .milliseconds(1))
    let opened = callGuard.guarding {
      crabbit_open(url.host, Int32(url.port), url.isTLS ? options.roots : nil, limit, &event)
    }
    guard let opened else { throw Failure(event) }
    callGuard.use(crabbit_descriptor(opened))
    // If the log-in fails, its end closes it.
    let connection = BrokerConnection(opened, callGuard)
    let result = callGuard.guarding {
      crabbit_login(
        opened, url.vhost, url.user, options.password, name, LogStore.version, options.heartbeatSeconds, &event)
    }
    guard result == 0 else { throw Failure(event) }
    return connection
  }

  private init(_ connection: OpaquePointer, _ callGuard: CallGuard) {
    (self.connection, self.callGuard) = (connection, callGuard)
  }

  deinit {
    callGuard.guarding { crabbit_close(connection, isPolite ? 1 : 0) }
    callGuard.use(nil)
  }

  /// Closes it, and tells the broker first.
  consuming func close() { isPolite = true }

  /// Declares a durable fanout exchange, and that others get its messages too.
  ///
  /// - Returns: why the broker refuses, if it does.
  /// - Throws: when the connection is lost.
  func declare(_ exchange: String, boundTo others: [String]) throws(Failure) -> Failure? {
    var event = crabbit_event()
    for name in [exchange] + others {
      switch callGuard.guarding({ crabbit_declare(connection, name, &event) }) {
      case 0: continue
      case 1: return Failure(event)
      default: throw Failure(event)
      }
    }
    for name in others {
      switch callGuard.guarding({ crabbit_bind(connection, exchange, name, &event) }) {
      case 0: continue
      case 1: return Failure(event)
      default: throw Failure(event)
      }
    }
    return nil
  }

  /// Call it when the socket is writable.
  ///
  /// - Returns: the message's tag.
  mutating func publish(_ message: BrokerMessage) throws(Failure) -> UInt64 {
    var event = crabbit_event()
    let result = message.body.withUnsafeBytes { body in
      message.exchange.withCString { exchange in
        message.contentType.withCString { contentType in
          message.id.withCString { id in
            message.correlationID.withCString { correlationID in
              Self.withHeaders(message.headers) { headers in
                var parts = crabbit_message(
                  exchange: exchange, content_type: contentType, message_id: id, correlation_id: correlationID,
                  headers: headers.baseAddress, header_count: headers.count, body: body.baseAddress,
                  body_bytes: body.count)
                return callGuard.guarding { crabbit_publish(connection, &parts, &event) }
              }
            }
          }
        }
      }
    }
    guard result == 0 else { throw Failure(event) }
    lastTag += 1
    return lastTag
  }

  private static func withHeaders<Value>(
    _ headers: [BrokerMessage.Header], _ body: (UnsafeBufferPointer<crabbit_header>) -> Value
  ) -> Value {
    // All names and values, one behind the other, each with its zero.
    var text: [CChar] = []
    var places: [(name: Int, value: Int)] = []
    for header in headers {
      let name = text.count
      text += header.name.utf8CString
      places.append((name, text.count))
      text += header.value.utf8CString
    }
    return text.withUnsafeBufferPointer { text in
      let parts = places.map { place in
        crabbit_header(
          name: text.baseAddress?.advanced(by: place.name), value: text.baseAddress?.advanced(by: place.value))
      }
      return parts.withUnsafeBufferPointer(body)
    }
  }

  /// The next thing that has arrived; nil if nothing has. Sends a heartbeat if one is due, so call it more often than those.
  func next() -> Arrival? {
    var event = crabbit_event()
    callGuard.guarding { crabbit_next(connection, &event) }
    switch event.kind {
    case CRABBIT_NOTHING: return nil
    case CRABBIT_ACK, CRABBIT_NACK:
      guard event.tag > 0, event.tag <= lastTag else {
        return .ended(Failure(reason: "it confirms messages that were not sent"))
      }
      return event.kind == CRABBIT_ACK
        ? .acknowledged(tag: event.tag, multiple: event.multiple != 0)
        : .refused(tag: event.tag, multiple: event.multiple != 0)
    case CRABBIT_RETURN:
      return .returned(id: Failure.text(of: event.message_id), reason: Failure.text(of: event.text))
    case CRABBIT_BLOCKED: return .blocked(reason: Failure.text(of: event.text))
    case CRABBIT_UNBLOCKED: return .unblocked
    case CRABBIT_DELIVERY:
      var count = 0
      // The bytes are valid until the next call.
      let body = crabbit_body(connection, &count).map { Array(UnsafeRawBufferPointer(start: $0, count: count)) }
      return .delivered(
        Delivery(tag: event.tag, consumer: Failure.text(of: event.text), body: event.is_long == 0 ? body : nil))
    case CRABBIT_PART: return .part
    default: return .ended(Failure(event))
    }
  }
}

// MARK: - Queues

extension BrokerConnection {
  /// What becomes of a delivery.
  enum Settlement: Sendable, Hashable {
    case acknowledge
    /// The broker delivers it again, and counts that.
    case giveBack
    /// To the dead letters.
    case reject
  }

  struct QueueCounts: Sendable, Hashable {
    /// Messages that are not delivered.
    var messages: Int
    var consumers: Int
  }

  /// Declares a durable quorum queue.
  ///
  /// - Parameters:
  ///   - deadLetters: the queue that gets what is rejected or was delivered too often.
  ///   - deliveryLimit: nil for the broker's own.
  /// - Returns: why the broker refuses, if it does.
  func declareQueue(_ name: String, deadLetters: String, deliveryLimit: Int?) throws(Failure) -> Failure? {
    try refusal { crabbit_declare_queue(connection, name, deadLetters, Int32(deliveryLimit ?? 0), &$0) }
  }

  /// - Returns: why the broker refuses, if it does.
  func bind(queue: String, to exchange: String) throws(Failure) -> Failure? {
    try refusal { crabbit_bind_queue(connection, queue, exchange, &$0) }
  }

  /// - Returns: nil if there is no such queue.
  func counts(of queue: String) throws(Failure) -> QueueCounts? {
    var (messages, consumers): (UInt32, UInt32) = (0, 0)
    let refusal = try refusal { crabbit_look_at_queue(connection, queue, &messages, &consumers, &$0) }
    guard let refusal else { return QueueCounts(messages: Int(messages), consumers: Int(consumers)) }
    guard refusal.code == 404 else { throw refusal }
    return nil
  }

  /// Has the broker deliver the queue's messages, as many at once as `prefetch` says. Ends the connection if there is no such queue.
  ///
  /// - Returns: why the broker refuses, if it does; then nothing is delivered any more.
  func consume(_ queue: String, as consumer: String, prefetch: Int) throws(Failure) -> Failure? {
    try refusal { crabbit_consume(connection, queue, consumer, Int32(prefetch), &$0) }
  }

  /// Call it when the socket is writable.
  func settle(_ tag: UInt64, _ settlement: Settlement) throws(Failure) {
    let kind =
      switch settlement {
      case .acknowledge: CRABBIT_ACKNOWLEDGE
      case .giveBack: CRABBIT_GIVE_BACK
      case .reject: CRABBIT_REJECT
      }
    _ = try refusal { crabbit_settle(connection, tag, kind, &$0) }
  }

  /// Ends all deliveries; what is not settled is given back.
  func stopConsuming() throws(Failure) { _ = try refusal { crabbit_stop_consuming(connection, &$0) } }

  private func refusal(_ call: (inout crabbit_event) -> Int32) throws(Failure) -> Failure? {
    var event = crabbit_event()
    switch callGuard.guarding({ call(&event) }) {
    case 0: return nil
    case 1: return Failure(event)
    default: throw Failure(event)
    }
  }
}

extension BrokerConnection.Failure {
  fileprivate init(_ event: crabbit_event) {
    self.init(code: event.code == 0 ? nil : Int(event.code), reason: Self.text(of: event.text))
  }

  /// A broker's text may have any bytes, and goes into log lines.
  fileprivate static func text(of field: some Any) -> String {
    withUnsafeBytes(of: field) { bytes in
      let text = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      return String(
        String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }))
    }
  }
}
