import LogStore
import Synchronization

/// The running consumers and how far each is, for the API. Safe to use from any task.
final class ConsumerRegistry: Sendable {
  /// How far a consumer without calls is.
  struct Offsets: Sendable, Hashable {
    /// The durable checkpoint.
    var checkpoint: UInt64 = 0
    /// The lowest offset that is not finished.
    var nextOffset: UInt64 = 0
  }

  /// A circuit breaker with the names that metrics give it: the service, and the step if it is that of a step's address.
  struct NamedBreaker: Sendable {
    var service: String
    var step: PaymentStep?
    var breaker: Breaker
  }

  private let consumers = Mutex<[StepConsumer]>([])
  private let namedBreakers = Mutex<[NamedBreaker]>([])
  private let completionSubscription = Mutex<Subscription?>(nil)

  private let desks = Mutex<[WorkDesk]>([])
  /// Whether workers make the calls.
  let handsOutWork: Bool

  init(handsOutWork: Bool = false) { self.handsOutWork = handsOutWork }

  func set(desks: [WorkDesk]) { self.desks.withLock { $0 = desks } }

  /// Where workers take a step from; nil if the server makes the calls itself, or does not run yet or any more.
  func desk(_ step: PaymentStep) -> WorkDesk? { desks.withLock { $0.first { $0.step == step } } }

  func set(completion: Subscription) { completionSubscription.withLock { $0 = completion } }

  /// How far the completion consumer is; nil until it has begun.
  var completion: Offsets? {
    completionSubscription.withLock { $0 }
      .map { Offsets(checkpoint: $0.checkpoint, nextOffset: $0.nextCheckpoint) }
  }

  func set(_ consumers: [StepConsumer]) { self.consumers.withLock { $0 = consumers } }

  func set(breakers: [NamedBreaker]) { namedBreakers.withLock { $0 = breakers } }

  /// All breakers; empty until the server listens.
  var breakers: [NamedBreaker] { namedBreakers.withLock { $0 } }

  /// The step consumer with this name.
  func consumer(_ name: String) -> StepConsumer? {
    consumers.withLock { $0.first { StepConsumer.cursorName(of: $0.step) == name } }
  }

  /// The status of each step consumer; empty until the server listens.
  var statuses: [StepConsumer.Status] {
    get async {
      var statuses: [StepConsumer.Status] = []
      for consumer in consumers.withLock({ $0 }) { statuses.append(await consumer.status) }
      return statuses
    }
  }
}
