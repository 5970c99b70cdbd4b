import Synchronization

/// The log's time as if it had run without a pause: never behind the machine's clock, never behind the last event, and in this
/// process never slower than real time, whatever the clock is set to.
///
/// It gives the age of idempotency keys that an earlier process used; ``AppendTimes`` gives the age of this process's keys. By
/// the clock alone, a key would stay young while the clock is set back, and a step would be repeated after the PSP has forgotten
/// its key. A clock that is set forward makes such keys older, as it may have been behind when the process started. It can't
/// know how long the machine was off when the clock was set back meanwhile.
///
/// Safe to use from any task.
final class SteadyTime: Sendable {
  private struct Latest {
    var microseconds: UInt64
    var instant: ContinuousClock.Instant
  }

  private let latest: Mutex<Latest>
  private let logTime: @Sendable () -> UInt64
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - logTime: the later one of the machine's clock and the last event's time, in microseconds since 1970.
  ///   - start: the least time to begin with, as an earlier process left it.
  ///   - now: a clock that nobody can set.
  init(
    logTime: @escaping @Sendable () -> UInt64, start: UInt64 = 0,
    now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }
  ) {
    self.logTime = logTime
    self.now = now
    latest = Mutex(Latest(microseconds: max(logTime(), start), instant: now()))
  }

  /// Microseconds since 1970. Call it regularly: it notices that the clock was set forward and back only when it is called in
  /// between.
  func microseconds() -> UInt64 {
    let instant = now()
    let logTime = logTime()
    return latest.withLock { latest in
      let passed = latest.instant.duration(to: instant) / .microseconds(1)
      if passed > 0 {
        latest.microseconds += UInt64(passed)
        latest.instant = instant
      }
      latest.microseconds = max(latest.microseconds, logTime)
      return latest.microseconds
    }
  }
}
