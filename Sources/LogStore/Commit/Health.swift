import Synchronization

/// Whether the writer may still acknowledge. The first failure stays.
final class Health: Sendable {
  private let state: Mutex<LogStoreError?> = Mutex(nil)

  var failure: LogStoreError? { state.withLock { $0 } }

  func fail(_ error: LogStoreError) {
    state.withLock { if $0 == nil { $0 = error } }
  }
}
