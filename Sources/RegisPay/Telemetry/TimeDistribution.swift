/// Times, counted in narrow ranges, so that any quantile is known to within 2 %. A pure value of 4 KiB, or of nothing while it is
/// empty.
///
/// The ranges are those of a log-linear histogram: each power of two has 32 of equal width.
struct TimeDistribution: Sendable {
  /// Ranges of a power of two.
  private static let parts: UInt64 = 32
  private static let partBits = 5
  /// Microseconds; 19 hours. Longer times count as this one.
  private static let longest: UInt64 = 1 << 36 - 1

  /// By range; empty until there is a first time.
  private var counts: [UInt32] = []
  private(set) var count: UInt64 = 0

  var isEmpty: Bool { count == 0 }

  mutating func add(microseconds: UInt64) {
    if counts.isEmpty { counts = Array(repeating: 0, count: Self.index(Self.longest) + 1) }
    counts[Self.index(min(microseconds, Self.longest))] += 1
    count += 1
  }

  mutating func add(_ other: TimeDistribution) {
    guard !other.isEmpty else { return }
    if isEmpty { return self = other }
    for index in counts.indices { counts[index] += other.counts[index] }
    count += other.count
  }

  /// The time that this share of all times does not exceed, in microseconds: the middle of its range. Nil while there are none.
  func quantile(_ share: Double) -> Double? {
    guard count > 0 else { return nil }
    let rank = max(1, UInt64((share * Double(count)).rounded(.up)))
    var passed: UInt64 = 0
    for (index, inRange) in counts.enumerated() where inRange > 0 {
      passed += UInt64(inRange)
      if passed >= rank { return Self.middle(index) }
    }
    return nil
  }

  private static func index(_ value: UInt64) -> Int {
    guard value >= parts else { return Int(value) }
    let shift = UInt64.bitWidth - 1 - value.leadingZeroBitCount - partBits
    return shift << partBits + Int(value >> UInt64(shift))
  }

  private static func middle(_ index: Int) -> Double {
    guard index >= 2 * Int(parts) else { return Double(index) }
    let shift = index >> partBits - 1
    let begin = UInt64(index - shift << partBits) << UInt64(shift)
    return Double(begin) + Double(UInt64(1) << UInt64(shift)) / 2
  }
}

/// The median and a high quantile of times, in milliseconds.
struct TimeQuantiles: Sendable, Hashable {
  var p50: Double
  var p99: Double

  init(p50: Double, p99: Double) { (self.p50, self.p99) = (p50, p99) }

  /// Nil without a time.
  init?(_ times: TimeDistribution) {
    guard let p50 = times.quantile(0.5), let p99 = times.quantile(0.99) else { return nil }
    self.init(p50: p50 / 1_000, p99: p99 / 1_000)
  }

  /// Of the microseconds that wide ranges have got since an earlier moment. Within a range the times are taken to be spread evenly.
  /// Nil if there were none.
  init?(_ ranges: RangeCounts, since earlier: RangeCounts) {
    let bounds = ranges.bounds
    let new = zip(ranges.counts, earlier.counts).map { $0 >= $1 ? $0 - $1 : 0 }
    let total = new.reduce(0, +)
    guard total > 0 else { return nil }
    func quantile(_ share: Double) -> Double {
      let rank = share * Double(total)
      var passed = 0.0
      for (index, count) in new.enumerated() where count > 0 {
        passed += Double(count)
        guard passed >= rank else { continue }
        let lower = index > 0 ? Double(bounds[index - 1]) : 0
        // Behind the last bound nothing more is known.
        guard index < bounds.count else { return lower }
        return lower + (Double(bounds[index]) - lower) * (1 - (passed - rank) / Double(count))
      }
      return Double(bounds.last ?? 0)
    }
    self.init(p50: quantile(0.5) / 1_000, p99: quantile(0.99) / 1_000)
  }
}

/// How many values fell into each of a few ranges.
struct RangeCounts: Sendable {
  /// The ranges' upper bounds, ascending.
  var bounds: [UInt64] = []
  /// One more than ``bounds``: the last range has none.
  var counts: [UInt64] = []
}
