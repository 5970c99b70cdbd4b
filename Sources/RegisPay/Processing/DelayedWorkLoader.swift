import Logging

/// Work whose wait on the log is over.
struct DueWork: Sendable {
  var items: [DelayedQueue.Item] = []
  /// The kinds (timed out or not) of which there was more than the limit.
  var fullKinds: [Bool] = []
}

/// Loads the due work of a step. Safe to use from any task.
struct DelayedWorkLoader: Sendable {
  let step: PaymentStep
  let source: any DelayedWork
  let waitTime: WaitTime
  let health: Health
  /// The part of the server that ``Health`` shows when loading fails.
  let healthName: String
  let logger: Logger

  /// - Parameters:
  ///   - kinds: false loads work that has not timed out, true work that has.
  ///   - limit: for each kind.
  /// - Returns: what was loaded before an error, which is reported and logged.
  func load(_ kinds: [Bool], limit: Int) async -> DueWork {
    let now = waitTime.microseconds()
    var due = DueWork()
    do {
      for kind in kinds {
        let items = try await source.due(
          step, didTimeOut: kind, by: now, orBegunAfter: now + WaitTime.tolerance.microseconds, limit: limit)
        due.items += items.map { .init(id: $0.id, delay: $0.delay) }
        if items.count >= limit { due.fullKinds.append(kind) }
      }
      health.report(healthName, fault: nil)
    } catch {
      if !Task.isCancelled {
        health.report(healthName, fault: "can't read what is due: \(error)")
        logger.error("can't read what is due", metadata: ["error": "\(error)"])
      }
    }
    return due
  }
}
