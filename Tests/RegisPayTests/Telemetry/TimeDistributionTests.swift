import Testing

@testable import RegisPay

@Suite("Quantiles of times")
struct TimeDistributionTests {
  @Test(
    "a quantile is right to within 2 %, whatever the times", arguments: [1, 40, 1_700, 31_000, 900_000, 60_000_000])
  func precise(_ scale: UInt64) throws {
    var times = TimeDistribution()
    for number in 1...1_000 { times.add(microseconds: UInt64(number) * scale) }
    for (share, number) in [(0.001, 1), (0.5, 500), (0.99, 990), (1, 1_000)] {
      let expected = Double(UInt64(number) * scale)
      let found = try #require(times.quantile(share))
      #expect(abs(found - expected) <= expected * 0.02, "\(share) of \(scale)")
    }
    #expect(times.count == 1_000)
  }

  @Test("nothing has no quantile, and times without end count as 19 hours")
  func ends() throws {
    var times = TimeDistribution()
    #expect(times.quantile(0.5) == nil && TimeQuantiles(times) == nil)
    times.add(microseconds: .max)
    let found = try #require(times.quantile(0.5))
    #expect((18.0...20).contains(found / 3_600_000_000))
    times.add(microseconds: 0)
    #expect(times.quantile(0.5) == 0)
  }

  @Test("distributions add up")
  func sums() throws {
    var sum = TimeDistribution()
    for part in 0..<10 {
      var times = TimeDistribution()
      for number in 0..<100 { times.add(microseconds: UInt64(part * 100 + number)) }
      sum.add(times)
      sum.add(TimeDistribution())
    }
    #expect(sum.count == 1_000)
    let median = try #require(sum.quantile(0.5))
    #expect(abs(median - 499) <= 10)
  }

  @Test("of wide ranges a quantile lies within its range, and what was there before does not count")
  func wide() throws {
    func quantiles(_ counts: [UInt64], since earlier: [UInt64]) -> TimeQuantiles? {
      let bounds: [UInt64] = [1_000, 2_000, 5_000]
      return TimeQuantiles(
        RangeCounts(bounds: bounds, counts: counts), since: RangeCounts(bounds: bounds, counts: earlier))
    }
    let found = try #require(quantiles([900, 10, 0, 1], since: [900, 0, 0, 1]))
    #expect(found.p50 == 1.5 && abs(found.p99 - 1.99) < 0.001)
    #expect(quantiles([3, 0, 0, 0], since: [3, 0, 0, 0]) == nil)
    let longest = try #require(quantiles([0, 0, 0, 2], since: [0, 0, 0, 0]))
    #expect(longest.p50 == 5 && longest.p99 == 5, "more is not known")
  }
}
