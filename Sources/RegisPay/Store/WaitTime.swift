/// The time by which payments wait on the log: the machine's clock as it was at the start of the process, and gone on
/// since without a jump. A clock that is set while a payment waits makes its wait neither longer nor shorter.
///
/// Waits that an earlier process wrote were written by its own: ``Delay/beganMicroseconds`` bounds them by their length.
///
/// Safe to use from any task.
struct WaitTime: Sendable {
  private let startMicroseconds: UInt64
  private let start: ContinuousClock.Instant
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - startMicroseconds: the machine's clock, in microseconds since 1970.
  ///   - now: time that passes whatever the clock is set to.
  init(
    startMicroseconds: UInt64 = Clock.microseconds(),
    now: @escaping @Sendable () -> ContinuousClock.Instant = { .now }
  ) {
    self.startMicroseconds = startMicroseconds
    self.now = now
    start = now()
  }

  /// Microseconds since 1970.
  func microseconds() -> UInt64 { startMicroseconds + start.duration(to: now()).microseconds }

  /// A wait that began this much later than now was written by a clock that was ahead. Less than that two clocks of one
  /// machine may differ, before and after a restart.
  static let tolerance = Duration.seconds(1)
}
