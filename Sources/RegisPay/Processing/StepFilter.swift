import LogStore
import Logging

/// Finds the events that request a step. Safe to use from any task.
struct StepFilter: Sendable {
  let step: PaymentStep
  /// The event types that may request the step, in UTF-8.
  private let types: [[UInt8]]
  private let health: Health
  private let logger: Logger

  init(_ step: PaymentStep, health: Health, logger: Logger) {
    self.step = step
    types = PaymentEvent.TypeName.allCases.filter { $0.mayRequest(step) }.map { Array($0.rawValue.utf8) }
    self.health = health
    self.logger = logger
  }

  /// What the event requests; nil when it requests another step or none.
  func request(in view: borrowing EventView) -> StepRequest? {
    // Compared without a copy: about one event of each payment requests this step.
    let mayRequest = view.type.withUnsafeBytes { type in types.contains { $0.elementsEqual(type) } }
    guard mayRequest else { return nil }
    let event = view.copy()
    guard let id = PaymentID(stream: event.stream) else {
      health.countSkippedEvent()
      logger.warning("skipped an event outside a payment's stream", metadata: ["offset": "\(event.offset)"])
      return nil
    }
    // The completion consumer counts and logs events that can't be read.
    guard let work = (try? PaymentEvent(type: event.type, payload: event.payload))?.work, work.step == step else {
      return nil
    }
    return StepRequest(id: id, work: work)
  }
}
