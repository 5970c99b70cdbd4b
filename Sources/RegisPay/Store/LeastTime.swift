/// A time that never passes faster than real time: an age by it is never too great, whatever the machine's clock is set to. Idempotency
/// records are kept by it, since a record that is forgotten too early lets a client pay twice.
///
/// ``TimeRecord`` carries it over restarts. While the machine is off it stands still.
///
/// Safe to use from any task.
struct LeastTime: Sendable {
  private let startMicroseconds: UInt64
  private let start: ContinuousClock.Instant
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - startMicroseconds: where an earlier process left it; its zero is arbitrary.
  ///   - now: a clock that nobody can set.
  init(startMicroseconds: UInt64, now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }) {
    self.startMicroseconds = startMicroseconds
    self.now = now
    start = now()
  }

  func microseconds() -> UInt64 { startMicroseconds + start.duration(to: now()).microseconds }
}
