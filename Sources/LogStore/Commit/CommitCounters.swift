import Synchronization

/// What the commit thread counts for ``StoreActivity``. Only this thread writes, so an update is a load and a store, and no
/// locked instruction; any thread reads.
final class CommitCounters: Sendable {
  /// From a fast SSD with a capacitor to a disk that hangs.
  static let syncBounds: [UInt64] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
  ]
  static let appendBounds: [UInt64] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096]

  private let appends = Atomic<UInt64>(0)
  private let refusals = Atomic<UInt64>(0)
  private let events = Atomic<UInt64>(0)
  private let bytes = Atomic<UInt64>(0)
  private let syncMicroseconds = CommitDistribution(CommitCounters.syncBounds)
  private let appendsOfSync = CommitDistribution(CommitCounters.appendBounds)

  func countAppend() { appends.addAlone(1) }
  func countRefusal() { refusals.addAlone(1) }

  func countFrame(events eventCount: UInt64, bytes byteCount: Int) {
    events.addAlone(eventCount)
    bytes.addAlone(UInt64(byteCount))
  }

  /// - Parameter appends: the appends that the sync made durable.
  func countSync(microseconds: UInt64, appends: Int) {
    syncMicroseconds.add(microseconds)
    appendsOfSync.add(UInt64(appends))
  }

  /// Everything counted; the rest of the activity is the caller's.
  func activity(openingMicroseconds: UInt64, endOffset: UInt64, snapshot: Snapshot) -> StoreActivity {
    var activity = StoreActivity(
      syncMicroseconds: syncMicroseconds.value, appendsOfSync: appendsOfSync.value,
      openingMicroseconds: openingMicroseconds, endOffset: endOffset, segments: snapshot.bases.count,
      indexFiles: snapshot.files.count,
      segmentsToIndex: snapshot.sources.count { $0.kind == .unsealed || $0.kind == .missing },
      mergesDue: snapshot.fileRuns.reduce(0) { $0 + MergePlan.dueCount($1.map(\.segmentCount)) })
    activity.appends = appends.load(ordering: .relaxed)
    activity.refusals = refusals.load(ordering: .relaxed)
    activity.events = events.load(ordering: .relaxed)
    activity.bytes = bytes.load(ordering: .relaxed)
    return activity
  }
}

/// A distribution that one thread adds to and any thread reads.
private final class CommitDistribution: Sendable {
  private let bounds: [UInt64]
  /// The last one in use is behind the last bound.
  private let counts: InlineArray<16, Atomic<UInt64>> = InlineArray { _ in Atomic(0) }
  private let sum = Atomic<UInt64>(0)

  init(_ bounds: [UInt64]) {
    precondition(bounds.count < 16)
    self.bounds = bounds
  }

  func add(_ value: UInt64) {
    var index = 0
    while index < bounds.count, value > bounds[index] { index += 1 }
    counts[index].addAlone(1)
    sum.addAlone(value)
  }

  var value: StoreActivity.Distribution {
    StoreActivity.Distribution(
      bounds: bounds, counts: (0...bounds.count).map { counts[$0].load(ordering: .relaxed) },
      sum: sum.load(ordering: .relaxed))
  }
}

extension Atomic where Value == UInt64 {
  /// Adds, for the only thread that writes.
  fileprivate borrowing func addAlone(_ value: UInt64) {
    store(load(ordering: .relaxed) &+ value, ordering: .relaxed)
  }
}
