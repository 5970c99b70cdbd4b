import Synchronization
import Testing

@testable import RegisPay

@Suite("The rate limit")
struct RateLimiterTests {
  private final class Time: Sendable {
    private let value = Mutex(Duration.zero)
    var now: Duration { value.withLock { $0 } }
    func advance(_ step: Duration) { value.withLock { $0 += step } }
  }

  @Test("a burst passes, then as many as the rate allows, each for itself")
  func bucket() {
    let time = Time()
    let limiter = RateLimiter(perSecond: 10, burst: 5) { time.now }
    for _ in 0..<5 { #expect(limiter.take("a") == nil) }
    #expect(limiter.take("a") == .milliseconds(100))
    #expect(limiter.take("b") == nil)
    time.advance(.milliseconds(99))
    #expect(limiter.take("a") == .milliseconds(1))
    time.advance(.milliseconds(1))
    #expect(limiter.take("a") == nil)
    #expect(limiter.take("a") != nil)
    time.advance(.seconds(3_600))
    for _ in 0..<5 { #expect(limiter.take("a") == nil) }
    #expect(limiter.take("a") != nil, "rest is not saved up beyond the burst")
  }

  @Test("its memory is bounded, however many ask, and buckets that are full again are forgotten")
  func bounded() {
    let time = Time()
    let limiter = RateLimiter(perSecond: 1, burst: 1) { time.now }
    for index in 0..<30_000 { _ = limiter.take("\(index)") }
    #expect(limiter.bucketCount <= 10_001)
    time.advance(.seconds(30))
    #expect(limiter.take("new") == nil)
    #expect(limiter.bucketCount == 1)
  }
}
