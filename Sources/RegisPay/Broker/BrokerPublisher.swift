import LogStore
import Logging
import Synchronization

/// Publishes the events of payments to a broker, each once it is durable: at least once, and a payment's in their order.
///
/// The checkpoint, on the log, moves past an event when the broker has confirmed it, so what a broker has not taken waits on the log,
/// however long. Safe to use from any task.
final class BrokerPublisher: Sendable {
  /// The name of the checkpoint of integration events.
  static let cursorName = "broker"
  /// The name of the checkpoint of what requests steps.
  static let stepsCursorName = "broker-steps"

  /// How long it waits for more events when it has caught up, so that one reading takes those of several appends.
  private static let pace = Duration.milliseconds(5)
  /// How long a stop waits for the thread, beyond what the broker may take for its confirms.
  private static let stopMargin = Duration.seconds(1)

  private typealias Replay = (offset: UInt64, done: CheckedContinuation<Result<Void, LogStoreError>, Never>)

  /// What the task waits for, and what it is asked for.
  private struct Control {
    var wait: Task<Void, Never>?
    /// The next wait ends at once.
    var isPoked = false
    var replays: [Replay] = []
    /// The queues of steps are new: all that is unfinished is to be published.
    var isRestartWanted = false
    var hasEnded = false
  }

  /// Of the checkpoint.
  let name: String
  private let log: PaymentLog
  private let health: Health
  private let shared: PublisherState
  private let logger: Logger
  private let control = Mutex(Control())

  init(_ options: BrokerOptions, log: PaymentLog, health: Health, logger: Logger) {
    (self.log, self.health) = (log, health)
    name = options.hasStepQueues ? Self.stepsCursorName : Self.cursorName
    shared = PublisherState(options, name: name)
    var logger = logger
    logger[metadataKey: "consumer"] = "\(name)"
    self.logger = logger
    health.warn { [shared] in shared.status.warnings }
  }

  var status: BrokerStatus { shared.status }

  var metricFamilies: [MetricFamily] {
    let status = shared.status
    return shared.options.hasStepQueues ? BrokerMetrics.families(of: status.queues) : shared.metrics.families(status)
  }

  /// Has the dead letters of a step go to its queue again, those that are there now.
  ///
  /// - Returns: how many there were at the last look; nil if the broker can't be asked now.
  func releaseDeadLetters(_ step: PaymentStep) -> Int? {
    let status = shared.status
    guard status.state == .publishing || status.state == .blocked,
      let queue = status.queues.first(where: { $0.queue.step == step })
    else { return nil }
    shared.release(step)
    return queue.deadLetters
  }

  /// Publishes everything from an offset on again, in the same order, beside what is published anyway.
  ///
  /// - Parameter offset: one past the checkpoint counts as the checkpoint.
  /// - Throws: when the log can't take the checkpoint; then nothing has changed.
  func replay(from offset: UInt64) async throws(LogStoreError) {
    let result = await withCheckedContinuation { continuation in
      let isLate = control.withLock { control in
        if !control.hasEnded { control.replays.append((offset, continuation)) }
        return control.hasEnded
      }
      if isLate { continuation.resume(returning: .failure(.closed)) } else { poke() }
    }
    try result.get()
  }

  // MARK: - Reading the log

  /// Runs until its task is cancelled. Then it waits a short time for what is in flight.
  func run() async {
    let thread = PublisherThread(
      shared, source: "regispay/\(log.reader.storeID)", logger: logger, onRoom: { [weak self] in self?.poke() },
      onNewQueues: { [weak self] in
        self?.control.withLock { $0.isRestartWanted = true }
        self?.poke()
      })
    let ended = AsyncStream<Void>.makeStream()
    thread.start { ended.continuation.finish() }
    let last = Mutex<Subscription?>(nil)
    _ = await log.follower.repeatUntilCancelled {
      let subscription = try log.store.subscription(name, options: LogFollower.subscriptionOptions())
      last.withLock { $0 = subscription }
      try await publish(subscription, thread)
    } failed: { error in
      health.report(name, fault: "\(error)")
      logger.error("can't follow the log", metadata: ["error": "\(error)"])
    }
    endReplays()
    await stop(thread, ended.stream)
    await commitLast(last.withLock { $0 })
  }

  /// Reads and adds to the queue, until the task is cancelled or the log is to be read from another offset.
  private func publish(_ subscription: Subscription, _ thread: PublisherThread) async throws {
    let isRestart = control.withLock { control in
      defer { control.isRestartWanted = false }
      return control.isRestartWanted
    }
    if try await skipDone(subscription.checkpoint, isRestart: isRestart) {
      if isRestart { control.withLock { $0.isRestartWanted = true } }
      return
    }
    shared.begin(subscription)
    if isRestart {
      shared.allowNewQueues()
      thread.wake()
    }
    while !Task.isCancelled {
      if control.withLock({ $0.isRestartWanted }) { return }
      if try await beginReplays() { return }
      let room = shared.room
      guard room > 0 else {
        // Ends early only when there is room, or with the task.
        await wait { try? await Task.sleep(for: .seconds(1)) }
        try await subscription.commitIfDue()
        continue
      }
      var count = 0
      let portion = try log.follower.read(subscription) { event -> Subscription.Choice<IntegrationEvent> in
        guard count < room else { return .stop }
        // Most events are of payments, so a copy costs nothing in vain.
        guard let event = IntegrationEvent(event.copy()), shared.options.types?.contains(event.type) ?? true else {
          return .skip
        }
        count += 1
        return .take(event)
      }
      for range in portion.passed { subscription.finish(range) }
      health.report(name, fault: nil)
      if !portion.items.isEmpty {
        shared.add(portion.items.map(\.item))
        thread.wake()
      }
      try await subscription.commitIfDue()
      if portion.offsets.isEmpty {
        let failure = Mutex<LogStoreError?>(nil)
        await wait {
          do throws(LogStoreError) {
            _ = try await subscription.waitForMore()
          } catch {
            failure.withLock { $0 = error }
          }
        }
        if let failure = failure.withLock({ $0 }), !failure.isOfCancellation { throw failure }
        // Only the end of the task throws.
        try? await Task.sleep(for: Self.pace)
      } else {
        await Task.yield()
      }
    }
  }

  /// For steps: moves the checkpoint past what is done, if it is not. New queues get all that is not done, so then it is also set back.
  ///
  /// - Returns: whether it was moved.
  private func skipDone(_ checkpoint: UInt64, isRestart: Bool) async throws -> Bool {
    guard shared.options.hasStepQueues else { return false }
    let done = try PaymentStep.allCases.map { try log.reader.cursor(StepConsumer.cursorName(of: $0)) ?? 0 }.min() ?? 0
    guard checkpoint < done || (isRestart && checkpoint > done) else { return false }
    try await log.store.append(Append([], cursors: [CursorCommit(name: name, checkpoint: done, isReset: true)]))
    return true
  }

  /// Waits for something, until that, ``poke()`` or the end of the task.
  private func wait(_ work: @escaping @Sendable () async -> Void) async {
    let task = Task { await work() }
    control.withLock { control in
      control.wait = task
      if control.isPoked { task.cancel() }
      control.isPoked = false
    }
    await withTaskCancellationHandler {
      await task.value
    } onCancel: {
      task.cancel()
    }
    control.withLock { $0.wait = nil }
  }

  private func poke() {
    control.withLock { control in
      if let wait = control.wait { wait.cancel() } else { control.isPoked = true }
    }
  }

  // MARK: - Replays and the stop

  /// Sets the checkpoint back as asked for.
  ///
  /// - Returns: whether the log is to be read from the checkpoint.
  private func beginReplays() async throws -> Bool {
    let replays = control.withLock { control in
      defer { control.replays = [] }
      return control.replays
    }
    guard let lowest = replays.map(\.offset).min() else { return false }
    let offset = min(lowest, shared.status.nextOffset)
    do throws(LogStoreError) {
      try await log.store.append(
        Append([], cursors: [CursorCommit(name: name, checkpoint: offset, isReset: true)]))
    } catch {
      for replay in replays { replay.done.resume(returning: .failure(error)) }
      return false
    }
    logger.notice("publishing again", metadata: ["from": "\(offset)"])
    for replay in replays { replay.done.resume(returning: .success(())) }
    return true
  }

  private func endReplays() {
    let replays = control.withLock { control in
      control.hasEnded = true
      defer { control.replays = [] }
      return control.replays
    }
    for replay in replays { replay.done.resume(returning: .failure(.closed)) }
  }

  private func stop(_ thread: PublisherThread, _ ended: AsyncStream<Void>) async {
    thread.stop()
    // The task is cancelled: others wait.
    let end = Task { for await _ in ended {} }
    let limit = Task { [margin = Self.stopMargin + shared.options.stopLimit] in
      // Both waits end early only when the thread has ended; what follows does nothing then.
      try? await Task.sleep(for: margin)
      thread.cut()
      try? await Task.sleep(for: .milliseconds(300))
      // A thread that gets no processor time ends by itself later, without touching the log.
      end.cancel()
    }
    await end.value
    limit.cancel()
  }

  /// What was confirmed since the last commit is not published again after the next start.
  private func commitLast(_ subscription: Subscription?) async {
    // The task is cancelled, which must not end the commit.
    let failure = await Task { () -> LogStoreError? in
      do throws(LogStoreError) {
        try await subscription?.commit()
        return nil
      } catch {
        return error
      }
    }.value
    if let failure {
      logger.warning("can't commit the checkpoint of published events", metadata: ["error": "\(failure)"])
    }
  }
}

extension LogStoreError {
  fileprivate var isOfCancellation: Bool { if case .cancelled = self { true } else { false } }
}
