import Synchronization

/// What decides about a request beside its key, and may be replaced while the server runs. Safe to use from any thread.
final class AccessRules: Sendable {
  struct Rules: Sendable {
    var browser: BrowserProtection
    /// Nil for no limit.
    var rate: RateLimiter?
    fileprivate var requestsPerSecond: Int?
  }

  private let host: String
  private let rules: Mutex<Rules>

  /// - Parameters:
  ///   - host: the address that the server listens on.
  ///   - allowedHosts: further host names that clients may use.
  ///   - requestsPerSecond: of each client; nil for no limit.
  init(listeningOn host: String, allowedHosts: [String], requestsPerSecond: Int?) {
    self.host = host
    rules = Mutex(
      Rules(
        browser: BrowserProtection(listeningOn: host, allowedHosts: allowedHosts),
        rate: Self.limiter(requestsPerSecond), requestsPerSecond: requestsPerSecond))
  }

  var current: Rules { rules.withLock { $0 } }

  /// Requests that come later go by the new rules. What clients have used of the same rate stays counted.
  func replace(allowedHosts: [String], requestsPerSecond: Int?) {
    rules.withLock { rules in
      rules.browser = BrowserProtection(listeningOn: host, allowedHosts: allowedHosts)
      guard rules.requestsPerSecond != requestsPerSecond else { return }
      rules.rate = Self.limiter(requestsPerSecond)
      rules.requestsPerSecond = requestsPerSecond
    }
  }

  private static func limiter(_ requestsPerSecond: Int?) -> RateLimiter? {
    requestsPerSecond.map { RateLimiter(perSecond: $0, burst: $0 * HTTPLimits.burstSeconds) }
  }
}
