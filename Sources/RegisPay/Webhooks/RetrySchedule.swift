/// When an event that was not delivered is tried again: after the first try at once, then for three days.
public struct RetrySchedule: Sendable {
  /// How long to wait after the first try, the second, and so on; after so many and one more tries it ends.
  public var delays: [Duration]
  /// How much of a delay is added at most at random, so that what failed together does not come back together.
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

  /// The longest wait after so many tries, without what the receiver asked for.
  func longest(attempts: Int) -> Duration {
    guard let delay = delays.indices.contains(attempts - 1) ? delays[attempts - 1] : delays.max() else { return .zero }
    return delay + delay * jitter
  }

  /// How long to wait after so many tries have failed; nil when that was the last.
  ///
  /// - Parameters:
  ///   - attempts: from 1.
  ///   - atLeast: what the receiver asked for.
  ///   - randomness: 0…1; 0 gives the delay itself.
  func delay(attempts: Int, atLeast: Duration? = nil, randomness: Double = .random(in: 0...1)) -> Duration? {
    guard delays.indices.contains(attempts - 1) else { return nil }
    let delay = delays[attempts - 1]
    return max(delay + delay * (jitter * randomness), atLeast ?? .zero)
  }
}
