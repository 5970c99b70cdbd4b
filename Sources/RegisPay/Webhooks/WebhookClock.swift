import Foundation

/// Two times: calendar time, because waits continue after a restart, and elapsed time, which measures waits in this process,
/// because a person or a time service may set the calendar. Tests use their own clock.
struct WebhookClock: Sendable {
  /// Both times, read together.
  struct Reading: Sendable {
    /// Microseconds since 1970-01-01 UTC.
    var now: UInt64
    /// Microseconds since a fixed moment of this process; setting the calendar does not change it.
    var elapsed: UInt64

    /// How many microseconds the calendar was set forward between an earlier reading and this one; negative for backward. 0 for
    /// the small corrections that time services make all the time.
    func step(since earlier: Reading) -> Int64 {
      let byCalendar = Int64(clamping: now) - Int64(clamping: earlier.now)
      let step = byCalendar - (Int64(clamping: elapsed) - Int64(clamping: earlier.elapsed))
      return abs(step) < Self.tolerance ? 0 : step
    }

    private static let tolerance: Int64 = 1_000_000
  }

  var read: @Sendable () -> Reading
  /// Returns when ``Reading/elapsed`` reaches a value, or soon after its task is cancelled.
  var sleep: @Sendable (_ untilElapsed: UInt64) async -> Void

  func now() -> UInt64 { read().now }

  static let system = WebhookClock(
    read: systemReading,
    sleep: { until in
      let elapsed = systemElapsed()
      guard elapsed < until else { return }
      // Throws only when the task is cancelled; then this returns early, as documented.
      try? await Task.sleep(for: .microseconds(until - elapsed))
    })

  @Sendable private static func systemReading() -> Reading {
    while true {
      let elapsed = systemElapsed()
      let now = Clock.microseconds()
      // If the process was suspended between the two, they belong to different moments.
      if systemElapsed() - elapsed < 100_000 { return Reading(now: now, elapsed: elapsed) }
    }
  }

  private static let origin = ContinuousClock.now

  private static func systemElapsed() -> UInt64 { (ContinuousClock.now - origin).microseconds }
}

extension Duration {
  /// Whole microseconds; 0 for a negative duration.
  var microseconds: UInt64 {
    let (seconds, attoseconds) = components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return UInt64(seconds) * 1_000_000 + UInt64(attoseconds / 1_000_000_000_000)
  }
}
