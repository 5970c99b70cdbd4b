/// How often a reader looks whether reading ends: often enough that it ends at the next event, and so seldom that it costs
/// next to nothing.
///
/// A look at the task costs some 10 ns, as much as an event of a scan. So there is one before every event, until events were
/// taken faster than one in a microsecond for a while; then one before every 64th, until they are not.
struct ReadPace: Sendable {
  static let fastStride: UInt32 = 64
  private static let fastMicroseconds: Int64 = 64
  /// So many times ``fastStride`` events in a row have to be fast.
  private static let fastRounds = 4

  /// Without, a cancelled task reads on.
  let endsWithTask: Bool
  /// How many events may be given before the next look.
  private(set) var stride: UInt32 = 1
  private var looksLeft = Self.fastStride
  private var roundsLeft = Self.fastRounds
  private var start: ContinuousClock.Instant?

  /// - Parameter isFast: events are known to be taken fast.
  init(endsWithTask: Bool, isFast: Bool = false) {
    self.endsWithTask = endsWithTask
    if isFast {
      roundsLeft = 0
      stride = Self.fastStride
    }
  }

  /// Whether reading ends, and why: `closed` or `cancelled`.
  func ending(of durable: Durable) -> LogStoreError? {
    if durable.isClosed { return .closed }
    return endsWithTask && Task.isCancelled ? .cancelled : nil
  }

  /// Notes that ``stride`` events were taken since the last time.
  mutating func noteTime() {
    if stride == 1 {
      looksLeft -= 1
      if looksLeft > 0 { return }
      looksLeft = Self.fastStride
    }
    let now = ContinuousClock.now
    let isFast = start.map { $0.duration(to: now) < .microseconds(Self.fastMicroseconds) } ?? false
    start = now
    roundsLeft = isFast ? max(roundsLeft - 1, 0) : Self.fastRounds
    stride = roundsLeft == 0 ? Self.fastStride : 1
  }
}
