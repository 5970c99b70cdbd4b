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
  private struct Inside {
    /// Why the last append failed; nil while the gate is open.
    var reason: String?
    var keptCount = 0
  }

  private let store: LogStore
  private let inside = Mutex(Inside())
  /// Mirrors `Inside/reason`: every append that goes through looks at it.
  private let isClosed = Atomic<Bool>(false)

  init(_ store: LogStore) { self.store = store }

  /// How long a kept outcome waits before it is appended again.
  static let backoff = Backoff(base: .milliseconds(250), cap: .seconds(2))

  /// Calls may go out.
  var isOpen: Bool { !isClosed.load(ordering: .acquiring) && store.failure == nil }

  /// Why no calls go out; nil when they do.
  var reason: String? { inside.withLock { $0.reason } ?? store.failure?.description }

  /// Outcomes of calls that are not on the log yet.
  var keptCount: Int { inside.withLock { $0.keptCount } }

  /// An append went through.
  func appended() {
    guard isClosed.load(ordering: .acquiring) else { return }
    inside.withLock { if $0.keptCount == 0 { open(&$0) } }
  }

  /// An append failed. What is wrong with the append itself says nothing about the next one.
  func failed(_ error: LogStoreError) {
    guard Self.isOfTheLog(error) else { return }
    inside.withLock { close(&$0, error) }
  }

  /// An outcome could not be appended, and is kept until ``release(didAppend:)``.
  func keep(_ error: LogStoreError) {
    inside.withLock { inside in
      inside.keptCount += 1
      close(&inside, error)
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
    inside.withLock { inside in
      inside.keptCount -= 1
      if didAppend, inside.keptCount == 0 { open(&inside) }
    }
  }

  private func close(_ inside: inout Inside, _ error: LogStoreError) {
    inside.reason = error.description
    isClosed.store(true, ordering: .releasing)
  }

  private func open(_ inside: inout Inside) {
    inside.reason = nil
    isClosed.store(false, ordering: .releasing)
  }
}
