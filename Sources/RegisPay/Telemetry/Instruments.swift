import Glibc
import Synchronization

/// A number of events that only grows. Adding costs one atomic instruction; safe from any thread.
final class MetricCounter: Sendable {
  private let count = Atomic<UInt64>(0)

  var value: UInt64 { count.load(ordering: .relaxed) }

  func add(_ amount: UInt64 = 1) { count.add(amount, ordering: .relaxed) }
}

/// A counter for each case of a label's values.
struct CounterTable<Case: CaseIterable & RawRepresentable<String> & Equatable & Sendable>: Sendable {
  private let counters = Case.allCases.map { (label: $0, counter: MetricCounter()) }

  func add(_ label: Case, _ amount: UInt64 = 1) { counters.first { $0.label == label }?.counter.add(amount) }

  /// The cases' raw values with their counts.
  var counts: [(String, UInt64)] { counters.map { ($0.label.rawValue, $0.counter.value) } }
}

/// How long something took, counted in fixed ranges. Recording costs two atomic instructions and no memory; safe from any
/// thread. Readers may see a value's count before its sum.
final class DurationHistogram: Sendable {
  /// The most bounds that fit.
  static let boundLimit = 15

  /// In nanoseconds.
  private let bounds: [UInt64]
  /// The last one in use is behind the last bound.
  private let counts: InlineArray<16, Atomic<UInt64>> = InlineArray { _ in Atomic(0) }
  private let sum = Atomic<UInt64>(0)
  /// One for each range; empty until there is a first one.
  private let exemplars = Mutex<[Exemplar?]>([])

  /// - Parameter milliseconds: the upper bounds, ascending, at most ``boundLimit``.
  init(milliseconds: [Double]) {
    precondition(milliseconds.count <= Self.boundLimit)
    bounds = milliseconds.map { UInt64($0 * 1_000_000) }
  }

  /// - Parameter trace: shown beside the range's count until the next one.
  func record(nanoseconds: UInt64, trace: TraceParent? = nil) {
    var range = 0
    while range < bounds.count, nanoseconds > bounds[range] { range += 1 }
    counts[range].add(1, ordering: .relaxed)
    sum.add(nanoseconds, ordering: .relaxed)
    if let trace { note(trace, nanoseconds, range) }
  }

  private func note(_ trace: TraceParent, _ nanoseconds: UInt64, _ range: Int) {
    let exemplar = Exemplar(value: Double(nanoseconds) / 1e9, trace: trace, microseconds: Clock.microseconds())
    // Another thread that notes one at the moment does as well.
    _ = exemplars.withLockIfAvailable { exemplars in
      if exemplars.isEmpty { exemplars = Array(repeating: nil, count: bounds.count + 1) }
      exemplars[range] = exemplar
    }
  }

  /// Takes no memory.
  var isEmpty: Bool { (0...bounds.count).allSatisfy { counts[$0].load(ordering: .relaxed) == 0 } }

  private var snapshotCounts: [UInt64] { (0...bounds.count).map { counts[$0].load(ordering: .relaxed) } }

  var snapshot: HistogramSnapshot {
    HistogramSnapshot(
      bounds: bounds.map { Double($0) / 1e9 }, counts: snapshotCounts,
      sum: Double(sum.load(ordering: .relaxed)) / 1e9, exemplars: exemplars.withLock { $0 })
  }
}

/// A clock that only goes forwards.
enum MonotonicTime {
  /// Nanoseconds since an arbitrary start.
  static var nanoseconds: UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}
