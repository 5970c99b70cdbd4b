import Synchronization

/// Whether the writer may still acknowledge, and how often it has synced. The first failure stays.
final class Health: Sendable {
  private let state: Mutex<LogStoreError?> = Mutex(nil)
  private let syncs = Atomic<UInt64>(0)

  var syncCount: UInt64 { syncs.load(ordering: .relaxed) }

  func countSync() { syncs.add(1, ordering: .relaxed) }

  var failure: LogStoreError? { state.withLock { $0 } }

  func fail(_ error: LogStoreError) {
    state.withLock { if $0 == nil { $0 = error } }
  }
}
