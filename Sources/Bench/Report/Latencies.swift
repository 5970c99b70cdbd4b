import Histogram
import Synchronization

/// Times of single calls, in nanoseconds. Counts every call, with three digits, in bounded memory.
final class Latencies: Sendable {
  /// Longer calls count as this: a minute.
  private static let highest: UInt64 = 60_000_000_000
  private let histogram = Mutex(
    Histogram<UInt64>(highestTrackableValue: highest, numberOfSignificantValueDigits: .three))

  func record(_ nanoseconds: UInt64) {
    histogram.withLock { _ = $0.record(min(nanoseconds, Self.highest)) }
  }

  func record(_ times: [UInt64]) {
    histogram.withLock { histogram in
      for nanoseconds in times { _ = histogram.record(min(nanoseconds, Self.highest)) }
    }
  }

  /// Adds all that another one has counted.
  func add(_ other: Latencies) {
    let added = other.histogram.withLock { $0 }
    histogram.withLock { $0.add(added) }
  }

  /// All that was counted since the last call.
  func drain() -> Latencies {
    let drained = Latencies()
    histogram.withLock { histogram in
      drained.histogram.withLock { swap(&$0, &histogram) }
    }
    return drained
  }

  var count: Int { histogram.withLock { Int($0.totalCount) } }

  var percentiles: Percentiles? {
    histogram.withLock { histogram in
      guard histogram.totalCount > 0 else { return nil }
      let longest = histogram.maxRecorded
      // A percentile is reported as the upper end of its bucket, which may exceed the longest real time.
      func microseconds(_ percent: Double) -> Double {
        Double(min(histogram.valueAtPercentile(percent), longest)) / 1000
      }
      return Percentiles(
        p50: microseconds(50), p90: microseconds(90), p99: microseconds(99), p999: microseconds(99.9),
        max: Double(longest) / 1000)
    }
  }
}

/// Microseconds that this many of a hundred calls stay below.
struct Percentiles: Sendable {
  var p50: Double
  var p90: Double
  var p99: Double
  var p999: Double
  var max: Double

  /// As they are named in tables.
  static let names = ["p50", "p90", "p99", "p99.9", "max"]
  var values: [Double] { [p50, p90, p99, p999, max] }
}
