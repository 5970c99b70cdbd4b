/// How often a reader checks whether reading ends: often enough that it ends at the next event, and so seldom that the
/// check costs next to nothing.
///
/// A check of the task costs some 10 ns, as much as an event of a scan. So there is a check before every event, until
/// events have been taken faster than one in a microsecond for a while; then before every 64th event, until they are slower
/// again. Reading the clock costs as much as several events, so a fast reader reads it at every eighth check: a reader that
/// becomes slow is noticed within 512 events.
struct ReadPace: Sendable {
  static let fastStride: UInt32 = 64
  private static let checksPerClockRead: UInt32 = 8
  /// A reader is fast after this many times ``fastStride`` fast events in a row.
  private static let fastRounds = 4

  /// If false, a cancelled task reads on.
  let endsWithTask: Bool
  /// The number of events that may be returned before the next check.
  private(set) var stride: UInt32 = 1
  private var checksLeft = Self.fastStride
  /// The number of checks from one clock read to the next. ``checksLeft`` counts down from it.
  private var checks = Self.fastStride
  private var roundsLeft = Self.fastRounds
  /// Microseconds of the monotonic clock. The size of `ContinuousClock.Instant` is known only at run time, and so would be
  /// the size of every type that contains one.
  private var start: UInt64?

  /// - Parameter isFast: events are known to be taken fast.
  init(endsWithTask: Bool, isFast: Bool = false) {
    self.endsWithTask = endsWithTask
    if isFast {
      roundsLeft = 0
      setStride()
    }
  }

  /// The reason why reading ends, `closed` or `cancelled`; nil if it goes on.
  func ending(of commitPoint: CommitPoint) -> LogStoreError? {
    if commitPoint.isClosed { return .closed }
    return endsWithTask && Task.isCancelled ? .cancelled : nil
  }

  /// Notes that ``stride`` events were taken since the last time.
  mutating func noteTime() {
    checksLeft -= 1
    if checksLeft > 0 { return }
    let now = MonotonicClock.microseconds
    // Fast means at most a microsecond for an event.
    let isFast = start.map { now - $0 < UInt64(checks * stride) } ?? false
    start = now
    roundsLeft = isFast ? max(roundsLeft - 1, 0) : Self.fastRounds
    setStride()
  }

  private mutating func setStride() {
    let isFast = roundsLeft == 0
    stride = isFast ? Self.fastStride : 1
    checks = isFast ? Self.checksPerClockRead : Self.fastStride
    checksLeft = checks
  }
}
