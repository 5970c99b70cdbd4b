import Synchronization

/// Token buckets, one for each key or address: each refills at a rate and holds a burst. Memory is bounded, however many addresses
/// send requests.
///
/// A bucket is stored as the time at which it will be full again (the "theoretical arrival time" of ATM's generic cell rate
/// algorithm): one number, and a full bucket needs no entry.
final class RateLimiter: Sendable {
  private struct State {
    var fullAt: [String: Duration] = [:]
    var sweptAt = Duration.zero
  }

  /// The number of buckets; further clients share one.
  private static let bucketLimit = 10_000
  private static let shared = ""

  /// The time that one request costs.
  private let interval: Duration
  /// How far ahead of now a bucket's time may be: the time in which a whole burst refills.
  private let burst: Duration
  private let now: @Sendable () -> Duration
  private let state = Mutex(State())

  /// - Parameters:
  ///   - perSecond: average requests of each client; more than 0.
  ///   - burst: requests that a client may send at once.
  ///   - now: a monotonic time.
  init(perSecond: Int, burst: Int, now: @escaping @Sendable () -> Duration = RateLimiter.uptime) {
    interval = .seconds(1) / perSecond
    self.burst = interval * burst
    self.now = now
  }

  static let uptime: @Sendable () -> Duration = {
    let start = ContinuousClock.now
    return { start.duration(to: .now) }
  }()

  /// Takes one token from a client's bucket.
  ///
  /// - Returns: nil if the bucket had a token, otherwise the time until it has one.
  func take(_ client: String) -> Duration? {
    let now = now()
    return state.withLock { state in
      var client = client
      if state.fullAt[client] == nil, state.fullAt.count >= Self.bucketLimit {
        // At most once a second, because it visits all buckets.
        if now - state.sweptAt >= .seconds(1) {
          state.sweptAt = now
          state.fullAt = state.fullAt.filter { $0.value > now }
        }
        if state.fullAt.count >= Self.bucketLimit { client = Self.shared }
      }
      let fullAt = max(state.fullAt[client] ?? now, now) + interval
      let wait = fullAt - now - burst
      guard wait <= .zero else { return wait }
      state.fullAt[client] = fullAt
      return nil
    }
  }

  var bucketCount: Int { state.withLock { $0.fullAt.count } }
}
