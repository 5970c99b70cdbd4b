import LogStore
import Synchronization

/// Whether the outcome of a call can be recorded. While it can't, no call goes out: its outcome would exist at the other side
/// only, and the call would be repeated until the log can append.
///
/// The gate closes when an append fails because of the log (no space, a disk error), and opens when one succeeds. Tries that are
/// in flight at that time hold their outcomes in memory and retry the append; they keep their call slots meanwhile, and while any
/// of them holds an outcome the gate stays closed.
///
/// Safe to use from any task.
final class RecordGate: Sendable {
  private struct State {
    /// Why the last append failed; nil while the gate is open.
    var reason: String?
    var unrecordedCount = 0
  }

  private let store: LogStore
  private let state = Mutex(State())
  /// Mirrors `State.reason` for a check without the lock after each append.
  private let isClosed = Atomic<Bool>(false)

  init(_ store: LogStore) { self.store = store }

  /// The wait before an outcome that could not be recorded is appended again.
  static let backoff = Backoff(base: .milliseconds(250), cap: .seconds(2))

  /// Whether calls may go out.
  var isOpen: Bool { !isClosed.load(ordering: .acquiring) && store.failure == nil }

  /// Why no calls go out; nil when they do.
  var reason: String? { state.withLock { $0.reason } ?? store.failure?.description }

  /// The number of outcomes held in memory until the log can append.
  var unrecordedCount: Int { state.withLock { $0.unrecordedCount } }

  /// Reports that an append succeeded.
  func appended() {
    guard isClosed.load(ordering: .acquiring) else { return }
    state.withLock { if $0.unrecordedCount == 0 { open(&$0) } }
  }

  /// Reports that an append failed. An error of the append itself says nothing about the next one and leaves the gate open.
  func failed(_ error: LogStoreError) {
    guard Self.isOfTheLog(error) else { return }
    state.withLock { close(&$0, error) }
  }

  /// Reports that an outcome could not be appended. Its try holds it until ``release(didAppend:)``.
  func hold(_ error: LogStoreError) {
    state.withLock { state in
      state.unrecordedCount += 1
      close(&state, error)
    }
  }

  /// Whether another append would most likely fail too.
  static func isOfTheLog(_ error: LogStoreError) -> Bool {
    switch error {
    // A look-up in a damaged range refuses appends to that stream only.
    case .conflict, .invalidArgument, .limitExceeded, .eventIDReused, .cursorBehind, .streamIncomplete, .damaged,
      .unreadable:
      false
    default: true
    }
  }

  func release(didAppend: Bool) {
    state.withLock { state in
      state.unrecordedCount -= 1
      if didAppend, state.unrecordedCount == 0 { open(&state) }
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
