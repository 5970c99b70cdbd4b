/// Decides how long a failed step waits, and where: in memory for a short while, or on the log. Counts for each step how often
/// it failed for a reason of its own. A value; the caller passes the time.
struct RetryPolicy: Sendable {
  typealias Instant = ContinuousClock.Instant

  /// The wait before the next try.
  struct Wait: Sendable {
    var duration: Duration
    /// Failed tries so far.
    var attempts: Int
    /// Those of them that failed while others' calls succeeded.
    var ownFailures: Int
    /// The wait goes on the log, as an event; otherwise the consumer's memory holds it.
    var isOnLog: Bool
  }

  private let options: StepConsumer.Options
  /// Calls that the other side has accepted.
  private var acceptedCount = 0
  private var lastAccepted: Instant?
  /// For each unfinished offset that has failed: its own failures, and `acceptedCount` at the last of its failures.
  private var failures: [UInt64: (own: Int, acceptedBefore: Int)] = [:]

  init(_ options: StepConsumer.Options) { self.options = options }

  mutating func noteAccepted(now: Instant) { (acceptedCount, lastAccepted) = (acceptedCount + 1, now) }

  /// Forgets the failures of an offset: its work is finished.
  mutating func finish(_ offset: UInt64) { failures[offset] = nil }

  /// How often the work read at an offset has failed while others' calls succeeded.
  func ownFailures(_ offset: UInt64) -> Int { failures[offset]?.own ?? 0 }

  /// The wait of work that was read at an offset.
  ///
  /// - Parameters:
  ///   - isOutage: others fail alike, and the payment is not at fault.
  ///   - attempts: failed tries, this one included.
  ///   - timeouts: tries that timed out, this one included if it did.
  ///   - hasRoomForTimeouts: memory can hold one more payment that has timed out.
  mutating func wait(
    after failure: CallRetry, isOutage: Bool, at offset: UInt64, attempts: Int, timeouts: Int, hasRoomForTimeouts: Bool
  ) -> Wait {
    let before = failures[offset] ?? (own: 0, acceptedBefore: acceptedCount)
    let isOwn = failure.isJudgedByPayments ? !isOutage : acceptedCount > before.acceptedBefore
    let own = before.own + (isOwn ? 1 : 0)
    failures[offset] = (own, acceptedCount)
    let duration = options.backoff(failure).delay(attempts: attempts, atLeast: failure.after)
    // A long wait that the other side asks for must hold over a restart, and during an outage: memory is for short waits.
    let isLong =
      duration >= options.durableDelay
      && (own >= options.ownFailuresToDelay || failure.asksForWait(options.durableDelay))
    // A payment that hangs may hang for days: it must neither hold back the checkpoint nor pile up in memory.
    let hangs = failure.cause == .timeout && (timeouts >= options.timeoutsToDelay || !hasRoomForTimeouts)
    return Wait(duration: duration, attempts: attempts, ownFailures: own, isOnLog: isLong || hangs)
  }

  /// The wait of work that has waited on the log before; nil when its earlier wait stays on the log as it is.
  func wait(after failure: CallRetry, isOutage: Bool, of delay: Delay, now: Instant) -> Wait? {
    let isOwn =
      failure.isJudgedByPayments
      ? !isOutage : lastAccepted.map { $0.duration(to: now) < options.durableDelay } ?? false
    guard isOwn || !isOutage || failure.asksForWait(options.durableDelay) else { return nil }
    let attempts = delay.attempts + 1
    return Wait(
      duration: options.backoff(failure).delay(attempts: attempts, atLeast: failure.after), attempts: attempts,
      ownFailures: delay.ownFailures + (isOwn ? 1 : 0), isOnLog: true)
  }
}
