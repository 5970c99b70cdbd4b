import DequeModule
import NIOCore

/// A connection to a broker that speaks AMQP 0-9-1, for one thread. The thread waits only in ``WakeUp``, and no longer than a request's
/// limit, whatever the broker does.
///
/// What is to be sent is collected until ``flush()``, a request, or until nothing more has arrived, and then goes out in one go.
final class AMQPConnection {
  typealias Event = AMQPSession.Event

  enum Answer: Sendable, Hashable {
    case given(AMQPMethod)
    /// The broker has closed the channel.
    case refused(AMQPFailure)
  }

  /// What may arrive before the answer to a request: more than a broker has to say about all that is in flight.
  private static let pendingLimit = 4_096
  private static let pendingByteLimit = 4 << 20
  private static let goodbyeLimit = Duration.milliseconds(500)

  private let transport: AMQPTransport
  private let wakeup: WakeUp
  private let timeLimit: Duration
  private var session: AMQPSession
  /// What arrived before the answer to a request.
  private var pending: Deque<Event> = []
  private var pendingBytes = 0
  private var failure: AMQPFailure?

  /// Connects and logs in.
  ///
  /// - Throws: after the target's limit twice, once for the connection and once for the log-in.
  static func open(
    _ target: AMQPTransport.Target, _ login: AMQPSession.Login, _ wakeup: WakeUp
  ) throws(AMQPFailure) -> AMQPConnection {
    // If the log-in fails, its end closes it.
    let connection = AMQPConnection(
      try AMQPTransport.connect(target, wakeup), login, timeLimit: target.timeLimit, wakeup)
    try connection.logIn()
    return connection
  }

  init(_ transport: AMQPTransport, _ login: AMQPSession.Login, timeLimit: Duration, _ wakeup: WakeUp) {
    (self.transport, self.timeLimit, self.wakeup) = (transport, timeLimit, wakeup)
    session = AMQPSession(login)
  }

  deinit { transport.close() }

  func logIn() throws(AMQPFailure) {
    _ = try waitFor("the log-in", timeLimit) { $0 == .opened ? true : nil }
    transport.beginHeartbeats(seconds: session.heartbeatSeconds)
  }

  // MARK: - What arrives

  /// The next thing that has arrived; nil if nothing has.
  ///
  /// - Throws: when the connection has ended; then always.
  func next() throws(AMQPFailure) -> Event? {
    if let event = pending.popFirst() {
      pendingBytes -= event.byteCount
      return event
    }
    return try receive()
  }

  private func receive() throws(AMQPFailure) -> Event? {
    if let failure { throw failure }
    do throws(AMQPFailure) {
      while true {
        if let event = try session.next() { return event }
        // Looked at first: nothing arrives after it is set.
        let ended = transport.inbox.failure
        guard let bytes = transport.take() else {
          if let ended { throw ended }
          flush()
          return nil
        }
        session.receive(bytes)
      }
    } catch {
      failure = error
      flush()
      transport.close()
      throw error
    }
  }

  /// Waits for something, and keeps all else for ``next()``.
  private func waitFor<Value>(
    _ what: String, _ limit: Duration, _ isIt: (Event) -> Value?
  ) throws(AMQPFailure) -> Value {
    flush()
    let end = ContinuousClock.now + limit
    while true {
      while let event = try receive() {
        if let value = isIt(event) { return value }
        if event != .part { try keep(event) }
        // A broker that sends other things without end must not hold the thread.
        if ContinuousClock.now >= end || wakeup.isCut { break }
      }
      guard !wakeup.isCut else { throw lost("the wait for \(what) was cut off") }
      guard ContinuousClock.now < end else { throw lost("no response to \(what) within \(limit)") }
      wakeup.wait(until: end)
    }
  }

  private func keep(_ event: Event) throws(AMQPFailure) {
    pending.append(event)
    pendingBytes += event.byteCount
    guard pending.count <= Self.pendingLimit, pendingBytes <= Self.pendingByteLimit else {
      throw lost("it sends other things without end in place of a response")
    }
  }

  /// The connection can't be used any more: a response may come when none is waited for.
  private func lost(_ reason: String) -> AMQPFailure {
    let new = AMQPFailure(reason: reason)
    failure = new
    transport.close()
    return new
  }

  // MARK: - What is sent

  /// Whether more may be sent now; ``WakeUp`` is signalled when that is so again.
  var isWritable: Bool {
    transport.inbox.unsentBytes + session.output.readableBytes < AMQPInbox.unsentLimit
  }

  func flush() { if let output = session.takeOutput() { transport.send(output) } }

  /// - Parameter what: for the reason of a failure.
  func request(_ what: String, _ write: (inout AMQPSession) -> Void) throws(AMQPFailure) -> Answer {
    if let failure { throw failure }
    write(&session)
    return try waitFor(what, timeLimit) { event in
      switch event {
      case .answered(let method): .given(method)
      case .refused(let failure): .refused(failure)
      default: nil
      }
    }
  }

  func isOpen(_ channel: UInt16) -> Bool { session.isOpen(channel) }

  func publish(_ message: AMQPMessage) throws(AMQPFailure) -> UInt64 {
    if let failure { throw failure }
    return session.publish(message)
  }

  func consume(_ queue: String, as consumer: String) throws(AMQPFailure) {
    if let failure { throw failure }
    session.consume(queue, as: consumer)
    flush()
  }

  func settle(_ tag: UInt64, requeues: Bool?) throws(AMQPFailure) {
    if let failure { throw failure }
    session.settle(tag, requeues: requeues)
  }

  /// Forgets the deliveries that wait for ``next()``.
  func dropDeliveries() {
    pending.removeAll { if case .delivered = $0 { true } else { false } }
    pendingBytes = pending.reduce(0) { $0 + $1.byteCount }
  }

  /// Tells the broker, and waits a short time for its response.
  func close() {
    guard failure == nil else { return }
    session.close()
    // Whatever the broker says, or does not say, the connection ends.
    _ = try? waitFor("the goodbye", Self.goodbyeLimit) { event -> Bool? in
      if case .answered(.plain(AMQPMethodID.closeOK)) = event { true } else { nil }
    }
    transport.close()
  }
}

extension AMQPSession.Event {
  /// Of what it holds that can be long.
  fileprivate var byteCount: Int { if case .delivered(let delivery) = self { delivery.body?.count ?? 0 } else { 0 } }
}
