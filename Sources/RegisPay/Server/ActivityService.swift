import LogStore
import Logging
import ServiceLifecycle

/// Keeps the activity while the server runs, and reads what was before once the server responds.
struct ActivityService: Service {
  let activity: Activity
  let log: PaymentLog
  /// Ends once the server responds.
  let running: AsyncStream<Void>
  let logger: Logger

  func run() async throws {
    await cancelWhenGracefulShutdown {
      await withDiscardingTaskGroup { group in
        group.addTask { await activity.run() }
        group.addTask {
          for await _ in running {}
          if !Task.isCancelled { await fill() }
        }
      }
    }
  }

  private func fill() async {
    do {
      try await ActivityFill(log.follower, into: activity.history, end: log.openedAt).run()
    } catch {
      // The consumers meet the same error, and report it.
      logger.debug("what payments did before the start is not known", metadata: ["error": "\(error)"])
    }
  }
}
