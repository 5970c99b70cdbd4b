/// The wait before the next try: exponential from `base` up to `cap`, half of it random, so that payments that failed together
/// do not return together.
public struct Backoff: Sendable {
  public var base: Duration
  public var cap: Duration

  public init(base: Duration = .milliseconds(100), cap: Duration = .seconds(60)) {
    self.base = base
    self.cap = cap
  }

  /// - Parameters:
  ///   - attempts: failed tries, from 1.
  ///   - atLeast: the wait that the other side asks for.
  ///   - randomness: 0…1; 0 gives the shortest delay, half of the longest.
  func delay(attempts: Int, atLeast: Duration? = nil, randomness: Double = .random(in: 0...1)) -> Duration {
    var longest = base
    // Stops doubling at the cap, so that no number of attempts overflows.
    for _ in 1..<max(1, min(attempts, 64)) where longest < cap { longest *= 2 }
    longest = min(longest, cap)
    let delay = longest / 2 + longest * (randomness / 2)
    return max(delay, atLeast ?? .zero)
  }
}
