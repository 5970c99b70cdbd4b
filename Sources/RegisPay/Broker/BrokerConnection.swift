import LogStore
import NIOSSL

/// A connection to a broker. Used by one thread, which it holds no longer than the limits that it was given, and not after
/// ``WakeUp/cut()``.
///
/// What is published or settled is sent by ``flush()``, several messages at once.
struct BrokerConnection: ~Copyable {
  typealias Failure = AMQPFailure
  typealias Delivery = AMQPSession.Delivery

  /// How the connection is called at the broker.
  private static let name = "regispay"

  private let connection: AMQPConnection

  /// Connects and logs in.
  static func open(_ url: BrokerURL, _ options: BrokerOptions, _ wakeup: WakeUp) throws(Failure) -> BrokerConnection {
    let target = AMQPTransport.Target(
      host: url.host, port: url.port, tls: url.isTLS ? try tls(options.roots) : nil,
      lookUps: options.lookUps[url.host] ?? LookUpShare(), timeLimit: options.waitLimit)
    let login = AMQPSession.Login(
      user: url.user, password: options.password, vhost: url.vhost, name: name, version: LogStore.version,
      heartbeatSeconds: options.heartbeatSeconds)
    do throws(Failure) {
      return BrokerConnection(try AMQPConnection.open(target, login, wakeup))
    } catch {
      // A broker may repeat what it was sent, and the reason goes into log lines.
      if !options.password.isEmpty, error.reason.contains(options.password) {
        throw Failure(code: error.code, reason: error.reason.replacing(options.password, with: "…"))
      }
      guard url.isTLS, error.reason.hasPrefix(TLSFailure.untrustedPrefix(url.host)) else { throw error }
      throw Failure(reason: error.reason + " (--broker-roots names whom RegisPay trusts)")
    }
  }

  /// Read for each connection: the file may have been renewed.
  private static func tls(_ roots: String) throws(Failure) -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    // RFC 8996: earlier versions must not be used.
    configuration.minimumTLSVersion = .tlsv12
    do throws(TLSFilesError) {
      configuration.trustRoots = .certificates(try PEMFile(roots).certificates())
    } catch {
      throw Failure(reason: "--broker-roots: \(error)")
    }
    do {
      return try NIOSSLContext(configuration: configuration)
    } catch {
      throw Failure(reason: "TLS can't be set up: \(TLSFailure.reason(error, host: "the broker") ?? "\(error)")")
    }
  }

  init(_ connection: AMQPConnection) { self.connection = connection }

  /// Closes it, and tells the broker first.
  consuming func close() { connection.close() }

  /// Declares a durable fanout exchange, and that others get its messages too.
  ///
  /// - Returns: why the broker refuses, if it does.
  /// - Throws: when the connection is lost.
  func declare(_ exchange: String, boundTo others: [String]) throws(Failure) -> Failure? {
    for name in [exchange] + others {
      if let refusal = try declare("a declaration", { $0.declareExchange(name, type: "fanout") }).refusal {
        return refusal
      }
    }
    for name in others {
      if let refusal = try declare("a binding", { $0.bindExchange(name, to: exchange) }).refusal { return refusal }
    }
    return nil
  }

  /// Makes a request on the channel of declarations, which is opened if it is not open.
  private func declare(
    _ what: String, _ write: (inout AMQPSession) -> Void
  ) throws(Failure) -> AMQPConnection.Answer {
    if !connection.isOpen(AMQPSession.declaring) { try openChannel(AMQPSession.declaring) }
    return try connection.request(what, write)
  }

  private func openChannel(_ channel: UInt16) throws(Failure) {
    if let refusal = try connection.request("the opening of a channel", { $0.openChannel(channel) }).refusal {
      throw refusal
    }
  }

  /// Whether it takes more messages now. If not, the thread's ``WakeUp`` is signalled when it does.
  var isWritable: Bool { connection.isWritable }

  /// Sends what was published and settled.
  func flush() { connection.flush() }

  /// Call it when the connection is writable, and ``flush()`` after the last message.
  ///
  /// - Returns: the message's tag.
  func publish(_ message: AMQPMessage) throws(Failure) -> UInt64 { try connection.publish(message) }

  /// The next thing that has arrived; nil if nothing has.
  ///
  /// - Throws: when the connection has ended.
  func next() throws(Failure) -> AMQPSession.Event? { try connection.next() }
}

extension AMQPConnection.Answer {
  fileprivate var refusal: AMQPFailure? { if case .refused(let failure) = self { failure } else { nil } }
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
    // What is given up goes to the other queue, which has to confirm it first; that needs the overflow.
    var arguments: AMQPTable = [
      ("x-queue-type", .text("quorum")), ("x-dead-letter-exchange", .text("")),
      ("x-dead-letter-routing-key", .text(deadLetters)), ("x-dead-letter-strategy", .text("at-least-once")),
      ("x-overflow", .text("reject-publish")),
    ]
    if let deliveryLimit { arguments.append(("x-delivery-limit", .integer(Int32(deliveryLimit)))) }
    return try declare("a declaration") { $0.declareQueue(name, arguments) }.refusal
  }

  /// - Returns: why the broker refuses, if it does.
  func bind(queue: String, to exchange: String) throws(Failure) -> Failure? {
    try declare("a binding") { $0.bindQueue(queue, to: exchange) }.refusal
  }

  /// - Returns: nil if there is no such queue.
  func counts(of queue: String) throws(Failure) -> QueueCounts? {
    switch try declare("a question for a queue", { $0.countQueue(queue) }) {
    case .given(.queueDeclareOK(let messages, let consumers)):
      return QueueCounts(messages: Int(messages), consumers: Int(consumers))
    case .refused(let refusal) where refusal.code == 404: return nil
    case .refused(let refusal): throw refusal
    case .given: throw .broken("another answer than the one that was asked for")
    }
  }

  /// Has the broker deliver the queue's messages, as many at once as `prefetch` says. Ends the connection if there is no such queue. The
  /// first prefetch holds until ``stopConsuming()``.
  ///
  /// - Returns: why the broker refuses, if it does; then nothing is delivered any more.
  func consume(_ queue: String, as consumer: String, prefetch: Int) throws(Failure) -> Failure? {
    if !connection.isOpen(AMQPSession.consuming) {
      try openChannel(AMQPSession.consuming)
      let count = UInt16(clamping: prefetch)
      if let refusal = try connection.request("a limit of deliveries", { $0.setPrefetch(count) }).refusal {
        return refusal
      }
    }
    // No request that waits: a queue that delivers already may send much before its answer.
    try connection.consume(queue, as: consumer)
    return nil
  }

  /// Call it when the connection is writable, and ``flush()`` after the last one.
  func settle(_ tag: UInt64, _ settlement: Settlement) throws(Failure) {
    switch settlement {
    case .acknowledge: try connection.settle(tag, requeues: nil)
    case .giveBack: try connection.settle(tag, requeues: true)
    case .reject: try connection.settle(tag, requeues: false)
    }
  }

  /// Ends all deliveries; what is not settled is given back.
  func stopConsuming() throws(Failure) {
    guard connection.isOpen(AMQPSession.consuming) else { return }
    _ = try connection.request("the end of deliveries") { $0.closeChannel(AMQPSession.consuming) }
    connection.dropDeliveries()
  }
}
