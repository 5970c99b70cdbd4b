import Foundation

/// The time by the calendar, since what waits goes on waiting over a restart. Tests have one of their own.
struct WebhookClock: Sendable {
  /// Microseconds since 1970-01-01 UTC.
  var now: @Sendable () -> UInt64
  /// Returns then, or soon after its task is cancelled.
  var sleep: @Sendable (_ until: UInt64) async -> Void

  static let system = WebhookClock(
    now: systemNow,
    sleep: { until in
      while !Task.isCancelled {
        let now = systemNow()
        guard now < until else { return }
        // The calendar may be set meanwhile: looked at now and then.
        try? await Task.sleep(for: .microseconds(min(until - now, 60_000_000)))
      }
    })

  @Sendable private static func systemNow() -> UInt64 {
    UInt64(max(0, Date().timeIntervalSince1970 * 1e6))
  }
}

extension Duration {
  /// Whole microseconds; 0 for a negative duration.
  var microseconds: UInt64 {
    let (seconds, attoseconds) = components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    return UInt64(seconds) * 1_000_000 + UInt64(attoseconds / 1_000_000_000_000)
  }
}
