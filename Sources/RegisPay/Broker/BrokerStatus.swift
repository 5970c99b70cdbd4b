/// How the publisher is, for the API, `/health` and metrics.
struct BrokerStatus: Sendable {
  enum State: String, Sendable, CaseIterable {
    /// No connection yet, or none any more.
    case connecting
    case publishing
    /// The broker takes no messages: it is short of memory or disk.
    case blocked
    /// All events that fit in memory wait for held exchanges, so the log is not read on.
    case held
    case stopped
  }

  /// An exchange whose messages the broker does not take.
  struct HeldExchange: Sendable {
    var name: String
    var reason: String
    var nextTry: ContinuousClock.Instant
  }

  /// Messages that no queue got, and that count as published: ``BrokerOptions/Unroutable/skip``.
  struct SkippedExchange: Sendable {
    var name: String
    var count: UInt64
    /// The lowest and the highest of their offsets.
    var offsets: ClosedRange<UInt64>
  }

  /// The publisher's, which begins the warnings.
  var name = BrokerPublisher.cursorName
  var state = State.connecting
  /// What is wrong and what to do, if something is.
  var reason: String?
  /// The broker's host and port; that of the last try while there is no connection.
  var address: String?
  var held: [HeldExchange] = []
  var skipped: [SkippedExchange] = []
  /// Those of steps, at the last look, and with zeros until the first one; empty for integration events.
  var queues: [StepQueue.Status] = []
  /// Messages sent and not confirmed.
  var inFlight = 0
  /// Events in memory that are not finished, with those in flight.
  var unfinished = 0
  var checkpoint: UInt64 = 0
  var nextOffset: UInt64 = 0

  /// One line for each thing that keeps messages from the broker.
  var warnings: [String] {
    let connection = reason.map { ["\(name): \($0)"] } ?? []
    let full =
      state == .held
      ? ["\(name): \(unfinished) events wait for the exchanges below, and no other is published until these are"] : []
    return connection + full + held.map { "\(name): exchange \($0.name): \($0.reason)" } + queues.flatMap(\.warnings)
  }
}

/// Counts of messages, by what became of them. Safe to use from any thread.
final class BrokerMetrics: Sendable {
  enum Outcome: String, CaseIterable, Sendable {
    case confirmed
    /// The broker said that it has not taken the message.
    case refused
    /// No queue got it.
    case returned
    /// The connection was lost before the confirm.
    case unconfirmed
  }

  private let messages = CounterTable<Outcome>()
  private let connections = MetricCounter()

  func count(_ outcome: Outcome, _ amount: Int = 1) { messages.add(outcome, UInt64(amount)) }

  func countConnection() { connections.add(1) }

  func families(_ status: BrokerStatus) -> [MetricFamily] {
    var outcomes = MetricFamily(
      "regispay_broker_messages", .counter, "Messages sent to the broker, by what became of them.")
    for (outcome, count) in messages.counts { outcomes.add([.init("outcome", outcome)], count) }
    var states = MetricFamily(
      "regispay_broker_state", .gauge, "1 for the present state of the connection to the broker.")
    states.add([], "state", BrokerStatus.State.allCases.map(\.rawValue), is: status.state.rawValue)
    return [
      outcomes, states,
      .counter("regispay_broker_connections", "Connections to the broker that were made.", connections.value),
      .gauge("regispay_broker_in_flight", "Messages sent to the broker and not confirmed.", status.inFlight),
      .gauge(
        "regispay_broker_held_exchanges", "Exchanges whose messages the broker does not take.", status.held.count),
    ]
  }

  static func families(of queues: [StepQueue.Status]) -> [MetricFamily] {
    func family(_ name: String, _ help: String, _ value: (StepQueue.Status) -> Int) -> MetricFamily {
      var family = MetricFamily(name, .gauge, help)
      for status in queues { family.add([.init("step", status.queue.step.rawValue)], value(status)) }
      return family
    }
    return [
      family("regispay_step_queue_messages", "Messages in a step's queue that no worker has.", \.messages),
      family("regispay_step_queue_workers", "Workers that take a step from its queue.", \.workers),
      family("regispay_step_dead_letters", "Messages of a step in its dead-letter queue.", \.deadLetters),
    ]
  }
}
