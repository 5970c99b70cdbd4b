import Synchronization

/// The consumers at work, for people to see. Safe to use from any task.
final class ConsumerBoard: Sendable {
  private let consumers = Mutex<[StepConsumer]>([])

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
