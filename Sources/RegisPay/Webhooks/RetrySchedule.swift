/// When an undelivered event is retried: ten tries in three days.
public struct RetrySchedule: Sendable {
  /// The waits after the first try, the second, and so on. There is one try more than there are delays.
  public var delays: [Duration]
  /// The largest random share added to a delay, so that messages that failed together are not retried together.
  public var jitter: Double

  public init(delays: [Duration] = RetrySchedule.days, jitter: Double = 0.1) {
    self.delays = delays
    self.jitter = jitter
  }

  /// Ten tries, the last some 75 hours after the first.
  public static let days: [Duration] = [
    .seconds(5), .seconds(5 * 60), .seconds(30 * 60), .seconds(2 * 3_600), .seconds(5 * 3_600), .seconds(10 * 3_600),
    .seconds(14 * 3_600), .seconds(20 * 3_600), .seconds(24 * 3_600),
  ]

  /// The longest wait after a number of tries, without the receiver's `Retry-After`.
  func longest(attempts: Int) -> Duration {
    guard let delay = delays.indices.contains(attempts - 1) ? delays[attempts - 1] : delays.max() else { return .zero }
    return delay + delay * jitter
  }

  /// The wait after a number of failed tries; nil if that was the last.
  ///
  /// - Parameters:
  ///   - attempts: from 1.
  ///   - atLeast: the receiver's `Retry-After`.
  ///   - randomness: 0…1; 0 means no addition to the delay.
  func delay(attempts: Int, atLeast: Duration? = nil, randomness: Double = .random(in: 0...1)) -> Duration? {
    guard delays.indices.contains(attempts - 1) else { return nil }
    let delay = delays[attempts - 1]
    return max(delay + delay * (jitter * randomness), atLeast ?? .zero)
  }
}
