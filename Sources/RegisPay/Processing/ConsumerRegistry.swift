import Synchronization

/// The consumers at work, for people to see. Safe to use from any task.
final class ConsumerRegistry: Sendable {
  /// How far the consumer is that makes no calls.
  struct Completion: Sendable, Hashable {
    /// Its durable cursor.
    var committed: UInt64 = 0
    /// The next offset that it reads.
    var place: UInt64 = 0
  }

  private let consumers = Mutex<[StepConsumer]>([])
  private let latest = Mutex<Completion?>(nil)

  func setCompletion(_ completion: Completion) { latest.withLock { $0 = completion } }

  /// Nil until it has begun.
  var completion: Completion? { latest.withLock { $0 } }

  func set(_ consumers: [StepConsumer]) { self.consumers.withLock { $0 = consumers } }

  /// How far each is; empty until the server listens.
  var progress: [StepConsumer.Progress] {
    get async {
      var progress: [StepConsumer.Progress] = []
      for consumer in consumers.withLock({ $0 }) { progress.append(await consumer.progress) }
      return progress
    }
  }
}
