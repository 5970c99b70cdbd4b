import Synchronization

/// Whether the writer may still acknowledge, and how often it has synced. Keeps the first failure.
final class CommitStatus: Sendable {
  private let state: Mutex<LogStoreError?> = Mutex(nil)
  private let syncs = Atomic<UInt64>(0)
  private let timestamp: Atomic<UInt64>
  let counters = CommitCounters()
  /// Milliseconds of the monotonic clock; 0 while the writer waits for work.
  private let workStart = Atomic<UInt64>(0)

  /// - Parameter timestamp: the last frame's timestamp.
  init(timestamp: UInt64 = 0) { self.timestamp = Atomic(timestamp) }

  /// The timestamp of the last frame that was written, in microseconds since 1970-01-01 UTC.
  var lastTimestamp: UInt64 { timestamp.load(ordering: .relaxed) }

  func note(timestamp: UInt64) { self.timestamp.store(timestamp, ordering: .relaxed) }

  var syncCount: UInt64 { syncs.load(ordering: .relaxed) }

  func countSync() { syncs.add(1, ordering: .relaxed) }

  /// Records that the writer starts to work, or waits for more.
  func note(isWorking: Bool) { workStart.store(isWorking ? MonotonicClock.milliseconds : 0, ordering: .relaxed) }

  /// How long the writer has worked on its current requests; 0 while it waits.
  var workMilliseconds: UInt64 {
    let start = workStart.load(ordering: .relaxed)
    let now = MonotonicClock.milliseconds
    return start == 0 || now < start ? 0 : now - start
  }

  var failure: LogStoreError? { state.withLock { $0 } }

  func fail(_ error: LogStoreError) {
    state.withLock { if $0 == nil { $0 = error } }
  }
}
