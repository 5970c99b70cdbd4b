/// How often a reader looks whether reading ends: often enough that it ends at the next event, and so seldom that it costs
/// next to nothing.
///
/// A look at the task costs some 10 ns, as much as an event of a scan. So there is one before every event, until events were
/// taken faster than one in a microsecond for a while; then one before every 64th, until they are not. The clock costs as much
/// as several events, so a fast reader asks it at every eighth look: one that becomes slow is found to be within 512 events.
struct ReadPace: Sendable {
  static let fastStride: UInt32 = 64
  private static let looksPerTime: UInt32 = 8
  /// So many times ``fastStride`` events in a row have to be fast.
  private static let fastRounds = 4

  /// Without, a cancelled task reads on.
  let endsWithTask: Bool
  /// How many events may be given before the next look.
  private(set) var stride: UInt32 = 1
  private var looksLeft = Self.fastStride
  /// Looks from one time to the next; ``looksLeft`` counts down from it.
  private var looks = Self.fastStride
  private var roundsLeft = Self.fastRounds
  /// Microseconds of the monotonic clock. `ContinuousClock.Instant` has a size that is known only when the program runs, and
  /// with it all that it is part of.
  private var start: UInt64?

  /// - Parameter isFast: events are known to be taken fast.
  init(endsWithTask: Bool, isFast: Bool = false) {
    self.endsWithTask = endsWithTask
    if isFast {
      roundsLeft = 0
      setStride()
    }
  }

  /// Whether reading ends, and why: `closed` or `cancelled`.
  func ending(of commitPoint: CommitPoint) -> LogStoreError? {
    if commitPoint.isClosed { return .closed }
    return endsWithTask && Task.isCancelled ? .cancelled : nil
  }

  /// Notes that ``stride`` events were taken since the last time.
  mutating func noteTime() {
    looksLeft -= 1
    if looksLeft > 0 { return }
    let now = MonotonicClock.microseconds
    // Up to a microsecond for an event.
    let isFast = start.map { now - $0 < UInt64(looks * stride) } ?? false
    start = now
    roundsLeft = isFast ? max(roundsLeft - 1, 0) : Self.fastRounds
    setStride()
  }

  private mutating func setStride() {
    let isFast = roundsLeft == 0
    stride = isFast ? Self.fastStride : 1
    looks = isFast ? Self.looksPerTime : Self.fastStride
    looksLeft = looks
  }
}
