import DequeModule
import LogStore
import Synchronization

/// Lets workers in other processes make the calls of a step.
///
/// A worker asks for the work of a payment, which a message of the broker names. The desk decides by the payment's stream whether
/// there is any, and runs a try (``StepCall``) whose call the worker makes. So the effect of a step is exactly once whoever asks how
/// often: two workers never have the same step of a payment at once, and what a worker that has ended may have done is known as
/// "may have happened".
actor WorkDesk {
  /// What is known of work that has failed in this process and waits in a worker's hands.
  private struct Effort {
    /// Stands for the work in ``RetryPolicy``.
    var number: UInt64
    var attempts = 0
    var timeouts = 0
    var due: ContinuousClock.Instant
  }

  /// The longest wait that a worker is told: then it asks again, so that it knows soon of a change.
  private static let longestWait = Duration.seconds(5)
  /// Before a worker asks again for work that another one has.
  private static let handsWait = Duration.milliseconds(250)
  /// Before a worker asks again while the log can't append, or all is in hands.
  private static let shortWait = Duration.seconds(1)
  /// Work whose wait on the log is over, in memory.
  private static let dueLimit = 64
  /// Calls in hands at once; more wait.
  static let handedLimit = 4_096
  /// Efforts in memory whose messages never came back are forgotten after this time.
  private static let effortLifetime = Duration.seconds(3_600)

  nonisolated let step: PaymentStep
  private let log: PaymentLog
  private let call: StepCall
  private let breakers: Breakers
  private let delayedWork: DelayedWorkLoader
  private let retryStatus: RetryStatus
  private let options: StepConsumer.Options
  private let timeLimit: Duration
  private let reportLimit: Duration
  private let checkpoint: @Sendable () async -> StepCall.Checkpoint
  private let clock = ContinuousClock()

  private var retries: RetryPolicy
  private var efforts: [CallKey: Effort] = [:]
  private var nextNumber: UInt64 = 0
  private var nextPruning: ContinuousClock.Instant
  private var inHand: [CallKey: HandedCall] = [:]
  private var byToken: [String: (handed: HandedCall, work: PaymentWork)] = [:]
  private var tasks: [String: Task<Void, Never>] = [:]
  private var due: Deque<DelayedQueue.Item> = []
  private var nextLoad: ContinuousClock.Instant
  private var isLoading = false
  private var isStopping = false
  private let ended = Promise<Void>()
  private let count: HandedCount

  /// - Parameters:
  ///   - consumer: of the same step; it makes no calls.
  ///   - timeLimit: for one call.
  ///   - reportLimit: for the report after that.
  init(
    of consumer: StepConsumer, log: PaymentLog, timeLimit: Duration, reportLimit: Duration = .seconds(5),
    retryStatus: RetryStatus, options: StepConsumer.Options, count: HandedCount = .init()
  ) {
    step = consumer.step
    (self.log, self.retryStatus, self.options) = (log, retryStatus, options)
    (self.timeLimit, self.reportLimit) = (timeLimit, reportLimit)
    (call, breakers, delayedWork) = (consumer.call, consumer.breakers, consumer.delayedWork)
    checkpoint = { await consumer.checkpointOfDone }
    retries = RetryPolicy(options)
    (nextPruning, nextLoad) = (.now, .now)
    self.count = count
  }

  // MARK: - What workers ask

  /// What a worker is to do with a message that names this payment.
  func ask(_ id: PaymentID) async -> WorkAnswer {
    guard !isStopping else { return .wait(Self.shortWait) }
    let payment: Payment
    do throws(PaymentLogError) {
      // A foreign message may name a payment that isn't there, and what refuses commands is skipped by the consumer.
      guard let known = try log.load(id), known.newerEvent == nil else { return .acknowledge }
      payment = known.payment
    } catch {
      if case .store = error { return .wait(Self.shortWait) }
      return .acknowledge
    }
    let now = clock.now
    var wait: Duration?
    for work in dueWork(of: payment) where payment.delay(of: work) == nil {
      let new = StepWork.read(0, StepRequest(id: id, work: work))
      let key = CallKey(new)
      guard inHand[key] == nil else {
        wait = min(wait ?? .seconds(3_600), Self.handsWait)
        continue
      }
      if let effort = efforts[key], effort.due > now {
        wait = min(wait ?? .seconds(3_600), now.duration(to: effort.due))
        continue
      }
      return await begin(key, new, now)
    }
    // The log holds what waits there, and ``askDue()`` finds it.
    return wait.map { .wait(min($0, Self.longestWait)) } ?? .acknowledge
  }

  /// A call whose wait on the log is over, if there is one. No message names it.
  func askDue() async -> WorkAnswer {
    guard !isStopping else { return .wait(Self.shortWait) }
    if due.isEmpty, !isLoading, nextLoad <= clock.now {
      isLoading = true
      let loaded = await delayedWork.load([false, true], limit: Self.dueLimit)
      due = Deque(loaded.items)
      isLoading = false
      nextLoad = clock.now + Self.shortWait
    }
    while let item = due.popFirst() {
      let work = StepWork.delayed(item)
      let key = CallKey(work)
      // A payment that can't be read must not hold up those behind it. It stays in the list and is tried again in a second; /health
      // reports the damage. The list may also lag behind the log.
      guard inHand[key] == nil, let known = try? log.load(item.id), known.newerEvent == nil,
        known.payment.isDue(item.delay.work), known.payment.delay(of: item.delay.work) == item.delay
      else { continue }
      let answer = await begin(key, work, clock.now)
      if case .wait = answer { due.prepend(item) }
      if answer != .acknowledge { return answer }
    }
    return .wait(Self.shortWait)
  }

  /// What the call with this token is for; nil if there is none, or none any more.
  func work(of token: String) -> PaymentWork? { byToken[token]?.work }

  /// Takes the outcome of a call.
  ///
  /// - Returns: what becomes of the message; nil if no call has the token, or has it any more.
  func report(_ token: String, _ outcome: CallOutcome) async -> WorkAnswer? {
    guard let handed = byToken[token]?.handed else { return nil }
    handed.report(outcome)
    return await handed.ending.value
  }

  private func dueWork(of payment: Payment) -> [PaymentWork] {
    guard step == .refund else {
      let work = PaymentWork(step)
      return payment.isDue(work) ? [work] : []
    }
    return payment.refunds.map { PaymentWork(refund: $0.number) }.filter(payment.isDue)
  }

  // MARK: - A try

  private func begin(_ key: CallKey, _ work: StepWork, _ now: ContinuousClock.Instant) async -> WorkAnswer {
    guard log.gate.isOpen, inHand.count < Self.handedLimit else { return .wait(Self.shortWait) }
    let pass: Breakers.Pass
    switch breakers.admit(hasUntried: work.delay == nil && efforts[key] == nil, now: now) {
    case .wait(let until): return .wait(min(max(now.duration(to: until), .milliseconds(10)), Self.longestWait))
    case .pass(let admitted): pass = admitted
    }
    let handed = HandedCall(timeLimit: timeLimit, reportLimit: reportLimit)
    inHand[key] = handed
    byToken[handed.token] = (handed, work.work)
    count.set(inHand.count)
    tasks[handed.token] = Task { await carryOut(key, work, pass, handed) }
    return await handed.answer.value
  }

  private func carryOut(_ key: CallKey, _ work: StepWork, _ pass: Breakers.Pass, _ handed: HandedCall) async {
    let ownFailures = work.delay?.ownFailures ?? efforts[key].map { retries.ownFailures($0.number) } ?? 0
    let checkpoint = await checkpoint()
    let ending = await HandedCall.$current.withValue(handed) {
      await call.carryOut(work, pass, ownFailures: ownFailures, stop: handed.stop, checkpoint: checkpoint)
    }
    let answer = await end(key, work, ending, checkpoint)
    inHand[key] = nil
    byToken[handed.token] = nil
    tasks[handed.token] = nil
    count.set(inHand.count)
    // Only one of them is waited for, unless the call was handed out.
    handed.answer.keep(answer)
    handed.ending.keep(answer)
    if isStopping, inHand.isEmpty { ended.keep(()) }
  }

  private func end(
    _ key: CallKey, _ work: StepWork, _ ending: StepEnding, _ checkpoint: @escaping StepCall.Checkpoint
  ) async -> WorkAnswer {
    switch (ending, work) {
    case (.finished(let isAccepted, _), _):
      if isAccepted { retries.noteAccepted(now: clock.now) }
      forget(key, work)
      // Another refund of the payment may be due whose message was for this one.
      return step == .refund && work.delay == nil ? .wait(.zero) : .acknowledge
    case (.abandoned, _): return .wait(Self.shortWait)
    case (.retry(let failure, let isOutage), .read):
      return await retry(key, work, failure, isOutage: isOutage, checkpoint)
    case (.retry(let failure, let isOutage), .delayed(let item)):
      call.logRetry(work, failure, attempts: item.delay.attempts + 1)
      // Without another wait it is found again as it is.
      guard let wait = retries.wait(after: failure, isOutage: isOutage, of: item.delay, now: clock.now) else {
        return .acknowledge
      }
      _ = await call.delay(work, wait, failure, checkpoint: checkpoint)
      return .acknowledge
    }
  }

  private func retry(
    _ key: CallKey, _ work: StepWork, _ failure: CallRetry, isOutage: Bool, _ checkpoint: @escaping StepCall.Checkpoint
  ) async -> WorkAnswer {
    pruneEfforts()
    var effort = efforts[key] ?? Effort(number: nextNumber, due: clock.now)
    if effort.number == nextNumber { nextNumber += 1 }
    effort.attempts += 1
    if failure.cause == .timeout { effort.timeouts += 1 }
    call.logRetry(work, failure, attempts: effort.attempts)
    let wait = retries.wait(
      after: failure, isOutage: isOutage, at: effort.number, attempts: effort.attempts, timeouts: effort.timeouts,
      hasRoomForTimeouts: true)
    if wait.isOnLog {
      efforts[key] = effort
      guard case .finished = await call.delay(work, wait, failure, checkpoint: checkpoint) else {
        return .wait(Self.shortWait)
      }
      // The log holds it instead of the message.
      forget(key, work)
      return .acknowledge
    }
    effort.due = clock.now + wait.duration
    efforts[key] = effort
    retryStatus.set(work.id, .init(work: work.work, attempts: effort.attempts, reason: failure.reason))
    // An outage is no fault of the message, so the broker does not count it.
    return isOutage || failure.cause == .notMade
      ? .wait(min(wait.duration, Self.longestWait)) : .giveBack(wait.duration)
  }

  private func forget(_ key: CallKey, _ work: StepWork) {
    if let effort = efforts.removeValue(forKey: key) { retries.finish(effort.number) }
    retryStatus.clear(work.id, work.work)
  }

  private func pruneEfforts() {
    let now = clock.now
    guard nextPruning <= now else { return }
    nextPruning = now + .seconds(60)
    for (key, effort) in efforts where effort.due.duration(to: now) > Self.effortLifetime && inHand[key] == nil {
      efforts[key] = nil
      retries.finish(effort.number)
    }
  }

  // MARK: - The stop

  /// Returns after ``stop()``, once the calls in hands have ended or the stop limit has passed.
  func run() async {
    await withTaskCancellationHandler {
      await ended.value
    } onCancel: {
      stop()
    }
  }

  /// Hands out no more calls. Safe to call from anywhere.
  nonisolated func stop() { Task { await beginStop() } }

  private func beginStop() async {
    guard !isStopping else { return }
    isStopping = true
    if inHand.isEmpty { return ended.keep(()) }
    // Throws only when its task is cancelled, which nothing does.
    try? await Task.sleep(for: options.stopLimit)
    for task in tasks.values { task.cancel() }
  }
}

/// How many calls of a step workers have. Safe to use from any task.
final class HandedCount: Sendable {
  private let count = Atomic<Int>(0)

  var value: Int { count.load(ordering: .relaxed) }

  fileprivate func set(_ value: Int) { count.store(value, ordering: .relaxed) }
}
