import Synchronization

/// Token buckets, one for each key or address: each refills at a rate and holds a burst. Bounded memory, however many
/// addresses ask.
///
/// A bucket is kept as the time at which it will be full again (the "theoretical arrival time" of ATM's generic cell rate
/// algorithm): one number, and a full bucket is the same as none.
final class RateLimiter: Sendable {
  private struct State {
    var fullAt: [String: Duration] = [:]
    var sweptAt = Duration.zero
  }

  /// Buckets at once; further ones share one.
  private static let bucketLimit = 10_000
  private static let shared = ""

  /// For one request.
  private let interval: Duration
  /// How far ahead of now a bucket may be: the time that a whole burst takes to come back.
  private let burst: Duration
  private let now: @Sendable () -> Duration
  private let state = Mutex(State())

  /// - Parameters:
  ///   - perSecond: requests that each may make, on average; more than 0.
  ///   - burst: requests that may come at once.
  ///   - now: a time that only goes forward.
  init(perSecond: Int, burst: Int, now: @escaping @Sendable () -> Duration = RateLimiter.uptime) {
    interval = .seconds(1) / perSecond
    self.burst = interval * burst
    self.now = now
  }

  static let uptime: @Sendable () -> Duration = {
    let start = ContinuousClock.now
    return { start.duration(to: .now) }
  }()

  /// Takes one request's token.
  ///
  /// - Returns: nil when there was one, otherwise how long it takes until there is.
  func take(_ who: String) -> Duration? {
    let now = now()
    return state.withLock { state in
      var who = who
      if state.fullAt[who] == nil, state.fullAt.count >= Self.bucketLimit {
        // At most once a second, as it looks at all of them.
        if now - state.sweptAt >= .seconds(1) {
          state.sweptAt = now
          state.fullAt = state.fullAt.filter { $0.value > now }
        }
        if state.fullAt.count >= Self.bucketLimit { who = Self.shared }
      }
      let fullAt = max(state.fullAt[who] ?? now, now) + interval
      let wait = fullAt - now - burst
      guard wait <= .zero else { return wait }
      state.fullAt[who] = fullAt
      return nil
    }
  }

  var bucketCount: Int { state.withLock { $0.fullAt.count } }
}
