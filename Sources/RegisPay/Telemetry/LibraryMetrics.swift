import CoreMetrics
import Synchronization

/// One series of a library's metric.
protocol LibrarySeries: AnyObject, Sendable {
  var kind: MetricFamily.Kind { get }
  var value: MetricFamily.Value { get }
}

final class LibraryCounter: LibrarySeries, CounterHandler {
  private let count = Atomic<Int64>(0)

  let kind = MetricFamily.Kind.counter
  var value: MetricFamily.Value { .integer(count.load(ordering: .relaxed)) }

  /// A negative amount is ignored: a counter only grows.
  func increment(by amount: Int64) { if amount > 0 { count.wrappingAdd(amount, ordering: .relaxed) } }
  func reset() { count.store(0, ordering: .relaxed) }
}

final class LibraryNumberCounter: LibrarySeries, FloatingPointCounterHandler {
  private let sum = Mutex(0.0)

  let kind = MetricFamily.Kind.counter
  var value: MetricFamily.Value { .number(sum.withLock { $0 }) }

  /// A negative amount is ignored, and one that is no number.
  func increment(by amount: Double) { if amount > 0, amount.isFinite { sum.withLock { $0 += amount } } }
  func reset() { sum.withLock { $0 = 0 } }
}

/// The last value, of a meter or of a recorder that does not aggregate.
final class LibraryGauge: LibrarySeries, MeterHandler, RecorderHandler {
  private let present = Mutex(0.0)

  let kind = MetricFamily.Kind.gauge
  var value: MetricFamily.Value { .number(present.withLock { $0 }) }

  func set(_ value: Int64) { set(Double(value)) }
  func set(_ value: Double) { present.withLock { $0 = value } }
  func increment(by amount: Double) { present.withLock { $0 += amount } }
  func decrement(by amount: Double) { present.withLock { $0 -= amount } }
  func record(_ value: Int64) { set(Double(value)) }
  func record(_ value: Double) { set(value) }
}

final class LibrarySummary: LibrarySeries, RecorderHandler {
  private let state = Mutex((sum: 0.0, count: UInt64(0)))

  let kind = MetricFamily.Kind.summary

  var value: MetricFamily.Value {
    let (sum, count) = state.withLock { $0 }
    return .summary(sum: sum, count: count)
  }

  func record(_ value: Int64) { record(Double(value)) }

  func record(_ value: Double) {
    state.withLock {
      $0.sum += value
      $0.count += 1
    }
  }
}

final class LibraryTimer: LibrarySeries, TimerHandler {
  private let histogram: DurationHistogram

  let kind = MetricFamily.Kind.histogram
  var value: MetricFamily.Value { .histogram(histogram.snapshot) }

  init(_ milliseconds: [Double]) { histogram = DurationHistogram(milliseconds: milliseconds) }

  func recordNanoseconds(_ duration: Int64) { histogram.record(nanoseconds: UInt64(max(0, duration))) }
}
