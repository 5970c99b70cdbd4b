import LogStore
import Synchronization

/// Whether what comes of a call can be recorded. While it can't, no call goes out: its outcome would exist at the other
/// side alone, and the call would be repeated until the log can append.
///
/// It closes when an append fails for a reason of the log's (no space, a disk that refuses), and opens when one went
/// through. Outcomes of calls that were out at that time are kept in memory by their tries, which append them again and
/// again and hold their call slots meanwhile; with any of them the gate stays closed.
///
/// Safe to use from any task.
final class RecordGate: Sendable {
  private struct State {
    /// Why the last append failed; nil while the gate is open.
    var reason: String?
    var keptCount = 0
  }

  private let store: LogStore
  private let state = Mutex(State())
  /// Mirrors `State/reason`: every append that goes through looks at it.
  private let isClosed = Atomic<Bool>(false)

  init(_ store: LogStore) { self.store = store }

  /// How long a kept outcome waits before it is appended again.
  static let backoff = Backoff(base: .milliseconds(250), cap: .seconds(2))

  /// Calls may go out.
  var isOpen: Bool { !isClosed.load(ordering: .acquiring) && store.failure == nil }

  /// Why no calls go out; nil when they do.
  var reason: String? { state.withLock { $0.reason } ?? store.failure?.description }

  /// Outcomes of calls that are not on the log yet.
  var keptCount: Int { state.withLock { $0.keptCount } }

  /// An append went through.
  func appended() {
    guard isClosed.load(ordering: .acquiring) else { return }
    state.withLock { if $0.keptCount == 0 { open(&$0) } }
  }

  /// An append failed. What is wrong with the append itself says nothing about the next one.
  func failed(_ error: LogStoreError) {
    guard Self.isOfTheLog(error) else { return }
    state.withLock { close(&$0, error) }
  }

  /// An outcome could not be appended, and is kept until ``release(didAppend:)``.
  func keep(_ error: LogStoreError) {
    state.withLock { state in
      state.keptCount += 1
      close(&state, error)
    }
  }

  /// Another append would most likely fail as well.
  static func isOfTheLog(_ error: LogStoreError) -> Bool {
    switch error {
    // A look-up that leads into a damaged place refuses appends to that stream alone.
    case .conflict, .invalidArgument, .limitExceeded, .eventIDReused, .cursorBehind, .streamIncomplete, .damaged,
      .unreadable:
      false
    default: true
    }
  }

  func release(didAppend: Bool) {
    state.withLock { state in
      state.keptCount -= 1
      if didAppend, state.keptCount == 0 { open(&state) }
    }
  }

  private func close(_ state: inout State, _ error: LogStoreError) {
    state.reason = error.description
    isClosed.store(true, ordering: .releasing)
  }

  private func open(_ state: inout State) {
    state.reason = nil
    isClosed.store(false, ordering: .releasing)
  }
}
