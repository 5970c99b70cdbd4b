import Foundation
import Logging

/// The thread that speaks to the broker. Only it waits for the broker.
///
/// Safe to use from any task.
final class PublisherThread: Sendable {
  /// How many messages are sent before the thread looks for confirms again.
  private static let burst = 64
  /// A connection that has lasted this long was a good one: the next wait is the shortest again.
  private static let goodDuration = Duration.seconds(10)
  /// Whatever comes back, an exchange is not declared more often.
  private static let shortestDeclaration = Duration.seconds(1)
  /// Without a confirm for this long, something is wrong at the broker.
  private static let confirmLimit = Duration.seconds(10)
  /// The longest wait, after which times are looked at again.
  private static let waitLimit = Duration.milliseconds(400)

  let shared: PublisherState
  private let source: String
  let wakeup = WakeUp()
  private let onRoom: @Sendable () -> Void
  let onNewQueues: @Sendable () -> Void
  private let logger: Logger

  /// - Parameters:
  ///   - source: names the log in CloudEvents.
  ///   - onRoom: called when the queue has room again.
  ///   - onNewQueues: called when queues of steps are not there. The log must be read from where they need it, before they are
  ///     declared (``PublisherState/allowNewQueues()``).
  init(
    _ shared: PublisherState, source: String, logger: Logger, onRoom: @escaping @Sendable () -> Void,
    onNewQueues: @escaping @Sendable () -> Void = {}
  ) {
    self.onNewQueues = onNewQueues
    (self.shared, self.source, self.logger, self.onRoom) = (shared, source, logger, onRoom)
  }

  /// Starts the thread, which ends after ``stop()``.
  func start(onEnd: @escaping @Sendable () -> Void) {
    let thread = Thread { [self] in
      run()
      onEnd()
    }
    thread.name = "broker"
    thread.start()
  }

  /// There are events to publish.
  func wake() { wakeup.signal() }

  /// Ends the thread when what is in flight is confirmed, or after ``BrokerOptions/stopLimit``.
  func stop() {
    shared.stop()
    wakeup.signal()
  }

  /// Ends the thread's present wait for the broker, and all that follow.
  func cut() { wakeup.cut() }

  private func run() {
    var attempts = 0
    var next = 0
    while !shared.isStopping {
      let url = shared.options.urls[next % shared.options.urls.count]
      next += 1
      let began = ContinuousClock.now
      let failure = connectAndServe(url)
      let lost = shared.withQueue { queue, _ in queue.disconnected() }.value
      if lost > 0 { shared.metrics.count(.unconfirmed, lost) }
      guard let failure, !shared.isStopping else { continue }
      report(.connecting, Self.reason(of: failure, at: url), url)
      if began.duration(to: .now) > Self.goodDuration { attempts = 0 }
      attempts += 1
      // Of several brokers the next one is tried at once, until each was tried.
      if attempts % shared.options.urls.count == 0 {
        wait(shared.options.backoff.delay(attempts: attempts / shared.options.urls.count))
      }
    }
    report(.stopped, nil, nil)
  }

  /// Waits unless the thread is to stop.
  private func wait(_ duration: Duration) {
    let end = ContinuousClock.now + duration
    while !shared.isStopping, ContinuousClock.now < end { wakeup.wait(until: end) }
  }

  private func report(_ state: BrokerStatus.State, _ reason: String?, _ url: BrokerURL?) {
    guard shared.set(state, reason: reason, address: url?.address) else { return }
    var fields: Logger.Metadata = [:]
    if let url { fields["broker"] = "\(url.address)" }
    let isForSteps = shared.options.hasStepQueues
    if let reason {
      fields["reason"] = "\(reason)"
      logger.warning(
        isForSteps ? "steps don't reach the workers" : "integration events are not published", metadata: fields)
    } else if state == .publishing {
      logger.notice(isForSteps ? "steps reach the workers" : "integration events are published", metadata: fields)
    }
  }

  // MARK: - One connection

  /// - Returns: why it ended; nil after a stop.
  private func connectAndServe(_ url: BrokerURL) -> BrokerConnection.Failure? {
    do throws(BrokerConnection.Failure) {
      var session = Session(
        connection: try BrokerConnection.open(url, shared.options, wakeup), url: url,
        writer: Writer(shared, url, source: source))
      shared.metrics.countConnection()
      try declareAll(&session)
      if shared.options.hasStepQueues { try declareQueues(&session) }
      report(.publishing, nil, url)
      try serve(&session)
      session.close()
      return nil
    } catch {
      return error
    }
  }

  struct Session: ~Copyable {
    var connection: BrokerConnection
    let url: BrokerURL
    let writer: Writer
    /// The exchanges that the broker has, as far as known.
    var declared: Set<PaymentEvent.TypeName> = []
    /// When each is declared again, also one that the broker has refused.
    var declarations: [PaymentEvent.TypeName: ContinuousClock.Instant] = [:]
    var isBlocked = false
    /// Messages that no queue got, by their ids, whose confirm is still to come.
    var returned: [String: String] = [:]
    var lastConfirm = ContinuousClock.now
    var nextLook = ContinuousClock.now
    /// A message has reached none of them.
    var areQueuesLost = false
    var queuesDeclared = ContinuousClock.now
    /// The step whose dead letters are released, and how many more.
    var release: (step: PaymentStep, left: Int, end: ContinuousClock.Instant)?

    consuming func close() { connection.close() }
  }

  struct Writer {
    private let massTransit: MassTransitEnvelope?
    private let cloudEvent: CloudEvent

    init(_ shared: PublisherState, _ url: BrokerURL, source: String) {
      massTransit =
        shared.options.format == .masstransit ? MassTransitEnvelope(topology: shared.topology, broker: url) : nil
      cloudEvent = CloudEvent(
        topology: shared.topology, source: source, isBinary: shared.options.format == .cloudeventsBinary)
    }

    func message(_ event: IntegrationEvent) -> AMQPMessage {
      massTransit?.message(event, sentMicroseconds: Clock.microseconds()) ?? cloudEvent.message(event)
    }
  }

  /// All exchanges exist before the first event, so that queues can be bound to them.
  private func declareAll(_ session: inout Session) throws(BrokerConnection.Failure) {
    for type in PaymentEvent.TypeName.allCases where shared.options.types?.contains(type) ?? true {
      guard !shared.isStopping else { return }
      if let refusal = try declare(type, &session) { hold(type, refusal, nil) }
    }
  }

  /// - Returns: why the broker refuses, if it does.
  private func declare(_ type: PaymentEvent.TypeName, _ session: inout Session) throws(BrokerConnection.Failure)
    -> String?
  {
    session.declared.remove(type)
    // After a loss of the connection all are declared anyway.
    session.declarations[type] = .now + shared.options.backoff.cap
    let common = shared.options.format == .masstransit ? shared.topology.common : []
    guard let refusal = try session.connection.declare(shared.topology.exchange(of: type), boundTo: common) else {
      session.declared.insert(type)
      session.declarations[type] = .now + shared.options.declarationLifetime
      shared.withQueue { queue, _ in queue.endIdleHold(type) }
      return nil
    }
    return Self.reason(ofDeclaration: refusal)
  }

  /// Declares the exchange again whose time has come, one at a time: an operator may have deleted it, or one that it
  /// is bound to, while other queues still get its messages, so that none comes back. Or the broker has refused it, and takes it now.
  private func declareAgain(_ session: inout Session) throws(BrokerConnection.Failure) {
    guard let next = session.declarations.min(by: { $0.value < $1.value }), next.value <= .now,
      session.connection.isWritable
    else { return }
    if let refusal = try declare(next.key, &session) { hold(next.key, refusal, nil) }
  }

  private func serve(_ session: inout Session) throws(BrokerConnection.Failure) {
    var stopEnd: ContinuousClock.Instant?
    while true {
      let hasMore = try takeArrivals(&session)
      let now = ContinuousClock.now
      if shared.isStopping {
        let end = stopEnd ?? now + shared.options.stopLimit
        stopEnd = end
        let isDone = shared.withQueue { queue, _ in queue.inFlightCount == 0 }.value
        if isDone || now >= end { return }
      }
      if stopEnd == nil, !session.isBlocked { try declareAgain(&session) }
      let isUnwritable = stopEnd == nil && !session.isBlocked ? try send(&session) : false
      reportConfirms(&session)
      // A broker that takes no messages gives no answers on this connection either.
      if shared.options.hasStepQueues, stopEnd == nil, !session.isBlocked {
        if session.areQueuesLost, session.queuesDeclared.duration(to: now) > Self.shortestDeclaration {
          session.areQueuesLost = false
          session.queuesDeclared = now
          try declareQueues(&session)
        }
        try careForQueues(&session, now)
      }
      let (next, hasNext) = shared.withQueue { queue, _ in
        (queue.nextTry, queue.inFlightCount < shared.options.inFlightLimit && queue.hasNext(now))
      }.value
      let canSend = hasNext && !isUnwritable && !session.isBlocked && stopEnd == nil
      if hasMore || canSend { continue }
      // A held exchange may be due before the usual wait is over.
      let end = min(now + Self.waitLimit, max(next ?? .now + Self.waitLimit, now + .milliseconds(10)))
      wakeup.wait(until: end)
    }
  }

  /// Takes what has arrived.
  ///
  /// - Returns: whether more may have arrived.
  private func takeArrivals(_ session: inout Session) throws(BrokerConnection.Failure) -> Bool {
    // A broker that sends without end must not keep the thread from sending and stopping.
    for _ in 0..<4 * shared.options.inFlightLimit {
      guard let arrival = try session.connection.next() else { return false }
      switch arrival {
      case .acknowledged(let tag, let multiple): confirm(tag, multiple, &session)
      case .rejected(let tag, let multiple): refuse(tag, multiple, &session)
      case .returned(let id, let reason):
        // More than are in flight can't be returned.
        if session.returned.count < shared.options.inFlightLimit { session.returned[id] = reason }
      case .blocked(let reason):
        session.isBlocked = true
        report(.blocked, Self.reason(ofBlock: reason), session.url)
      case .unblocked:
        session.isBlocked = false
        session.lastConfirm = .now
        report(.publishing, nil, session.url)
      case .delivered(let delivery): try release(delivery, &session)
      // Answers are taken where they are asked for.
      case .part, .opened, .answered, .refused: continue
      }
    }
    return true
  }

  private func confirm(_ tag: UInt64, _ multiple: Bool, _ session: inout Session) {
    let now = ContinuousClock.now
    let hadReturned = !session.returned.isEmpty
    var returned = session.returned
    var refusals: [(PaymentEvent.TypeName, String)] = []
    var ended: [PaymentEvent.TypeName] = []
    var counts = (confirmed: 0, returned: 0)
    var skipped: [IntegrationEvent] = []
    var unrouted: Set<PaymentEvent.TypeName> = []
    let (_, hasRoom) = shared.withQueue { queue, finish in
      for event in queue.take(tag, multiple: multiple) {
        if hadReturned, let reason = returned.removeValue(forKey: event.id.description) {
          counts.returned += 1
          unrouted.insert(event.type)
          guard shared.options.unroutable == .wait else {
            if queue.confirmed(event) { ended.append(event.type) }
            finish(event.offset)
            skipped.append(event)
            continue
          }
          let text = Self.reason(ofReturn: reason, hasStepQueues: shared.options.hasStepQueues)
          if queue.holds[event.type]?.reason != text { refusals.append((event.type, text)) }
          queue.refused(event, text, now)
        } else {
          if queue.confirmed(event) { ended.append(event.type) }
          finish(event.offset)
          counts.confirmed += 1
        }
      }
    }
    // One that concerns nothing in flight says nothing.
    if counts.confirmed > 0 || counts.returned > 0 { session.lastConfirm = now }
    session.returned = returned
    if counts.confirmed > 0 { shared.metrics.count(.confirmed, counts.confirmed) }
    if counts.returned > 0 { shared.metrics.count(.returned, counts.returned) }
    if !unrouted.isEmpty { session.areQueuesLost = true }
    // A binding between exchanges may have been deleted: they are declared again before the next try.
    for type in unrouted {
      let youngest = now + shared.options.declarationLifetime - Self.shortestDeclaration
      if let again = session.declarations[type], again < youngest {
        session.declared.remove(type)
      }
    }
    for event in skipped where shared.skip(event) {
      logger.notice(
        "no queue gets the messages for an exchange; they are skipped",
        metadata: ["exchange": "\(shared.topology.exchange(of: event.type))", "offset": "\(event.offset)"])
    }
    for (type, reason) in refusals { logHold(type, reason) }
    for type in ended {
      logger.notice(
        "the broker takes messages for an exchange again",
        metadata: ["exchange": "\(shared.topology.exchange(of: type))"])
    }
    if hasRoom { onRoom() }
  }

  private func refuse(_ tag: UInt64, _ multiple: Bool, _ session: inout Session) {
    let events = shared.withQueue { queue, _ in queue.take(tag, multiple: multiple) }.value
    // One that concerns nothing in flight says nothing.
    if !events.isEmpty { session.lastConfirm = .now }
    for event in events {
      shared.metrics.count(.refused)
      hold(event.type, Self.refusal, event)
    }
  }

  /// Holds an exchange, and logs it if that is new.
  private func hold(_ type: PaymentEvent.TypeName, _ reason: String, _ event: IntegrationEvent?) {
    let now = ContinuousClock.now
    let isNew = shared.withQueue { queue, _ in
      let isNew = queue.holds[type]?.reason != reason
      if let event { queue.refused(event, reason, now) } else { queue.hold(type, reason, now) }
      return isNew
    }.value
    if isNew { logHold(type, reason) }
  }

  private func logHold(_ type: PaymentEvent.TypeName, _ reason: String) {
    logger.warning(
      "the broker does not take messages for an exchange",
      metadata: ["exchange": "\(shared.topology.exchange(of: type))", "reason": "\(reason)"])
  }

  /// Sends what may be sent, in portions that go out at once.
  ///
  /// - Returns: whether the connection takes no more for now.
  private func send(_ session: inout Session) throws(BrokerConnection.Failure) -> Bool {
    let isUnwritable = try collect(&session)
    session.connection.flush()
    return isUnwritable
  }

  private func collect(_ session: inout Session) throws(BrokerConnection.Failure) -> Bool {
    for _ in 0..<Self.burst {
      guard session.connection.isWritable else { return true }
      let next = shared.withQueue { queue, _ in
        queue.inFlightCount < shared.options.inFlightLimit ? queue.next(.now) : nil
      }.value
      guard let event = next else { return false }
      do throws(BrokerConnection.Failure) {
        if !session.declared.contains(event.type), let reason = try declare(event.type, &session) {
          hold(event.type, reason, event)
          continue
        }
        if shared.withQueue({ queue, _ in queue.inFlightCount == 0 }).value { session.lastConfirm = .now }
        let tag = try session.connection.publish(session.writer.message(event))
        _ = shared.withQueue { queue, _ in queue.sent(event, tag: tag) }
      } catch {
        _ = shared.withQueue { queue, _ in queue.putBack(event) }
        throw error
      }
    }
    return false
  }

  /// Reports a broker that takes messages and confirms none.
  private func reportConfirms(_ session: inout Session) {
    guard !session.isBlocked else { return }
    let isWaiting = shared.withQueue { queue, _ in queue.inFlightCount > 0 }.value
    let isLate = isWaiting && session.lastConfirm.duration(to: .now) > Self.confirmLimit
    report(.publishing, isLate ? Self.noConfirms : nil, session.url)
  }
}
