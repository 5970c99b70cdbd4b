import Foundation
import Logging
import Synchronization

/// The thread of a worker that speaks to the broker: takes messages from the queues of steps, and settles them. Only it waits for the
/// broker.
///
/// Safe to use from any task.
final class DeliveryThread: Sendable {
  /// Names a delivery, for its settlement. A message that was delivered on a connection that is lost belongs to nobody here.
  struct Ticket: Sendable, Hashable {
    fileprivate var connection: UInt64
    fileprivate var tag: UInt64
  }

  typealias Handler = @Sendable (_ step: PaymentStep, _ body: [UInt8]?, Ticket) -> Void

  private struct State {
    var connection: UInt64 = 0
    var settlements: [(tag: UInt64, BrokerConnection.Settlement)] = []
    var isTaking = false
    var isPaused = false
    var isStopping = false
    var reason: String?
  }

  private static let goodDuration = Duration.seconds(10)
  private static let waitLimit = Duration.milliseconds(400)
  /// Arrivals before the thread looks for settlements again.
  private static let burst = 256

  private let options: BrokerOptions
  private let steps: [PaymentStep]
  private let prefetch: Int
  private let handler: Handler
  private let onConsuming: @Sendable () -> Void
  private let wakeup = WakeUp()
  private let logger: Logger
  private let state = Mutex(State())

  /// - Parameters:
  ///   - prefetch: messages of a step that are not settled, at most.
  ///   - onConsuming: called on each connection, once all queues deliver.
  ///   - handler: gets each message, its body only if it is short enough to mean something. Must not wait.
  init(
    _ options: BrokerOptions, _ steps: [PaymentStep], prefetch: Int, logger: Logger,
    onConsuming: @escaping @Sendable () -> Void, handler: @escaping Handler
  ) {
    (self.options, self.steps, self.prefetch, self.logger) = (options, steps, prefetch, logger)
    (self.onConsuming, self.handler) = (onConsuming, handler)
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

  /// Whether the message may still be settled: its connection is there.
  func isCurrent(_ ticket: Ticket) -> Bool { state.withLock { $0.connection == ticket.connection } }

  /// Does nothing if the connection is lost: then the broker delivers the message again.
  func settle(_ ticket: Ticket, _ settlement: BrokerConnection.Settlement) {
    state.withLock { state in
      if state.connection == ticket.connection { state.settlements.append((ticket.tag, settlement)) }
    }
    wakeup.signal()
  }

  /// Whether messages are taken; at first they are not. While not, there is no connection, and others get what was not settled.
  func setTaking(_ isTaking: Bool) {
    let isChange = state.withLock { state in
      defer { state.isTaking = isTaking }
      return state.isTaking != isTaking
    }
    if isChange { wakeup.signal() }
  }

  private var isTaking: Bool { state.withLock { $0.isTaking } }

  /// Hands out no more messages. Those that come are given back by the end of the connection.
  func pause() { state.withLock { $0.isPaused = true } }

  /// Ends the thread, once what was settled is sent.
  func stop() {
    state.withLock { $0.isStopping = true }
    wakeup.signal()
  }

  /// Ends the thread's present wait for the broker, and all that follow.
  func cut() { wakeup.cut() }

  private var isStopping: Bool { state.withLock { $0.isStopping } }

  private func run() {
    var attempts = 0
    var next = 0
    while !isStopping {
      guard isTaking else {
        wakeup.wait(until: .now + .seconds(1))
        continue
      }
      let url = options.urls[next % options.urls.count]
      next += 1
      let began = ContinuousClock.now
      let failure = connectAndServe(url)
      state.withLock { state in
        // Nothing of the old connection can be settled any more.
        state.connection += 1
        state.settlements = []
      }
      guard let failure, !isStopping else { continue }
      report(Self.reason(of: failure, at: url))
      if began.duration(to: .now) > Self.goodDuration { attempts = 0 }
      attempts += 1
      if attempts % options.urls.count == 0 {
        wait(options.backoff.delay(attempts: attempts / options.urls.count))
      }
    }
  }

  private func wait(_ duration: Duration) {
    let end = ContinuousClock.now + duration
    while !isStopping, ContinuousClock.now < end { wakeup.wait(until: end) }
  }

  private func report(_ reason: String?) {
    let isNew = state.withLock { state in
      defer { state.reason = reason }
      return state.reason != reason
    }
    guard isNew else { return }
    if let reason {
      logger.warning("no steps come from the broker", metadata: ["reason": "\(reason)"])
    } else {
      logger.notice("steps come from the broker again")
    }
  }

  private static func reason(of failure: BrokerConnection.Failure, at url: BrokerURL) -> String {
    switch failure.code {
    case 404?:
      "there is no queue \(failure.reason); the server declares it when it runs with --steps-from broker"
    case 406?:
      "the broker at \(url.address) gives messages to others that were kept too long (its consumer_timeout), or the like:"
        + " \(failure.reason)"
    default: PublisherThread.reason(of: failure, at: url)
    }
  }

  // MARK: - One connection

  /// - Returns: why it ended; nil after a stop.
  private func connectAndServe(_ url: BrokerURL) -> BrokerConnection.Failure? {
    do throws(BrokerConnection.Failure) {
      let connection = try BrokerConnection.open(url, options, wakeup)
      for queue in steps.map(StepQueue.init) where try connection.counts(of: queue.name) == nil {
        throw BrokerConnection.Failure(code: 404, reason: queue.name)
      }
      for step in steps {
        let refusal = try connection.consume(StepQueue(step: step).name, as: step.rawValue, prefetch: prefetch)
        if let refusal { throw refusal }
      }
      report(nil)
      onConsuming()
      try serve(connection)
      connection.close()
      return nil
    } catch {
      return error
    }
  }

  private func serve(_ connection: borrowing BrokerConnection) throws(BrokerConnection.Failure) {
    let number = state.withLock { $0.connection }
    /// Messages that are not settled.
    var unsettled = 0
    while true {
      let hasMore = try takeArrivals(connection, number, &unsettled)
      try settle(connection, &unsettled)
      let isDone = state.withLock { ($0.isStopping || !$0.isTaking) && $0.settlements.isEmpty }
      if isDone { return }
      // The settlements that did not fit go when the connection takes them.
      if !hasMore { wakeup.wait(until: ContinuousClock.now + Self.waitLimit) }
    }
  }

  /// - Returns: whether more may have arrived.
  private func takeArrivals(
    _ connection: borrowing BrokerConnection, _ number: UInt64, _ unsettled: inout Int
  ) throws(BrokerConnection.Failure) -> Bool {
    for _ in 0..<Self.burst {
      guard let arrival = try connection.next() else { return false }
      switch arrival {
      case .delivered(let delivery):
        guard let step = PaymentStep(rawValue: delivery.consumer) else {
          throw BrokerConnection.Failure(reason: "it delivers for a consumer that there is not")
        }
        unsettled += 1
        guard unsettled <= prefetch * steps.count else {
          throw BrokerConnection.Failure(
            reason: "it delivers more messages than it was asked for (--prefetch \(prefetch))")
        }
        if !state.withLock({ $0.isPaused }) {
          handler(step, delivery.body, Ticket(connection: number, tag: delivery.tag))
        }
      // Answers are taken where they are asked for.
      case .part, .blocked, .unblocked, .opened, .answered, .refused: continue
      case .acknowledged, .rejected, .returned:
        throw BrokerConnection.Failure(reason: "it confirms messages that were not sent")
      }
    }
    return true
  }

  private func settle(
    _ connection: borrowing BrokerConnection, _ unsettled: inout Int
  ) throws(BrokerConnection.Failure) {
    defer { connection.flush() }
    var waiting = state.withLock { state in
      defer { state.settlements = [] }
      return state.settlements
    }[...]
    while let (tag, settlement) = waiting.first {
      guard connection.isWritable else {
        return state.withLock { $0.settlements.insert(contentsOf: waiting, at: 0) }
      }
      waiting.removeFirst()
      try connection.settle(tag, settlement)
      unsettled -= 1
    }
  }
}
