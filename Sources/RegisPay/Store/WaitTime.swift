/// The time of waits on the log: the machine's clock at the start of the process, continued without jumps. Setting the clock
/// makes a wait neither longer nor shorter.
///
/// An earlier process wrote its waits by its own clock: ``Delay/beganMicroseconds`` bounds them by their length.
///
/// Safe to use from any task.
struct WaitTime: Sendable {
  private let startMicroseconds: UInt64
  private let start: ContinuousClock.Instant
  private let now: @Sendable () -> ContinuousClock.Instant

  /// - Parameters:
  ///   - startMicroseconds: the machine's clock, in microseconds since 1970.
  ///   - now: a clock that nobody can set.
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

  /// A wait that began more than this after now was written by a clock that was ahead. The clocks of two processes on one
  /// machine, before and after a restart, may differ by less.
  static let tolerance = Duration.seconds(1)
}
