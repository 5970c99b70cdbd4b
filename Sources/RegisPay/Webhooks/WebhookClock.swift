import Foundation

/// The time by the calendar, since what waits goes on waiting over a restart, and the time that passes, by which waits in
/// this process are measured: a person, or a time service, may set the calendar. Tests have one of their own.
struct WebhookClock: Sendable {
  /// Both times, looked at together.
  struct Look: Sendable {
    /// Microseconds since 1970-01-01 UTC.
    var now: UInt64
    /// Microseconds since some moment of this process, however the calendar was set.
    var passed: UInt64

    /// By how many microseconds the calendar was set forward from an earlier look to this one, backward if below 0; 0 for
    /// the small corrections that time services make all the time.
    func step(since earlier: Look) -> Int64 {
      let byCalendar = Int64(clamping: now) - Int64(clamping: earlier.now)
      let step = byCalendar - (Int64(clamping: passed) - Int64(clamping: earlier.passed))
      return abs(step) < Self.tolerance ? 0 : step
    }

    private static let tolerance: Int64 = 1_000_000
  }

  var look: @Sendable () -> Look
  /// Returns when so much time has passed in all (``Look/passed``), or soon after its task is cancelled.
  var sleep: @Sendable (_ untilPassed: UInt64) async -> Void

  func now() -> UInt64 { look().now }

  static let system = WebhookClock(
    look: systemLook,
    sleep: { until in
      let passed = systemPassed()
      guard passed < until else { return }
      // Throws only when the task is cancelled; then this returns early, as promised.
      try? await Task.sleep(for: .microseconds(until - passed))
    })

  @Sendable private static func systemLook() -> Look {
    while true {
      let passed = systemPassed()
      let now = Clock.microseconds()
      // A process that was stopped in between has seen two moments.
      if systemPassed() - passed < 100_000 { return Look(now: now, passed: passed) }
    }
  }

  private static let origin = ContinuousClock.now

  private static func systemPassed() -> UInt64 { (ContinuousClock.now - origin).microseconds }
}

extension Duration {
  /// Whole microseconds; 0 for a negative duration.
  var microseconds: UInt64 {
    let (seconds, attoseconds) = components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return UInt64(seconds) * 1_000_000 + UInt64(attoseconds / 1_000_000_000_000)
  }
}
