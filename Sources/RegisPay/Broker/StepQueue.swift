/// The queue from which workers take a step, and the one of its dead letters.
///
/// Steps have exchanges of their own, beside those of the integration events: a queue that somebody else has bound to these, and that
/// is full, must not hold up a payment.
struct StepQueue: Sendable, Hashable {
  let step: PaymentStep

  /// What the names of the exchanges begin with; an event's type follows.
  static let exchangePrefix = "regispay.steps:"
  /// A message that was given back this often, or whose worker ended, goes to the dead letters.
  static let deliveryLimit = 100

  static let all = PaymentStep.allCases.map(StepQueue.init)
  /// The types of events that request a step.
  static let types = Set(
    PaymentEvent.TypeName.allCases.filter { type in PaymentStep.allCases.contains { type.mayRequest($0) } })

  var name: String { "regispay.\(StepConsumer.cursorName(of: step))" }
  var deadLetters: String { name + ".dead" }

  /// The exchanges that it is bound to.
  var exchanges: [String] {
    PaymentEvent.TypeName.allCases.filter { $0.mayRequest(step) }.map { Self.exchangePrefix + $0.rawValue }
  }

  /// How a queue is, for the API and `/health`.
  struct Status: Sendable, Hashable {
    var queue: StepQueue
    /// Messages that no worker has.
    var messages: Int
    var workers: Int
    var deadLetters: Int

    var warnings: [String] {
      var lines: [String] = []
      if deadLetters > 0 {
        lines.append(
          "broker-steps: \(deadLetters) messages were given back too often, or were none that a worker reads, and are in the queue"
            + " \(queue.deadLetters); see why, and release them with POST /api/v1/broker/dead-letters/\(queue.step.rawValue)/release"
        )
      }
      if workers == 0, messages > 0 {
        lines.append("broker-steps: no worker takes the \(messages) messages of \(queue.name): start regispay worker")
      }
      return lines
    }
  }
}
