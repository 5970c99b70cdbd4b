import Synchronization

/// Which payments wait for a retry in memory, and why, for the API. The consumers' windows bound its size.
///
/// Safe to use from any task.
public final class RetryStatus: Sendable {
  public struct Entry: Sendable, Hashable {
    public var work: PaymentWork
    /// Failed tries so far.
    public var attempts: Int
    /// Why the last try failed.
    public var reason: String
  }

  private struct State {
    var entries: [PaymentID: Entry] = [:]
    /// Counts of the entries by step and reason, so that a reader of the counts holds the lock briefly.
    var reasons: [PaymentStep: [String: Int]] = [:]

    mutating func set(_ id: PaymentID, _ entry: Entry?) {
      if let old = entries[id] {
        let count = reasons[old.work.step, default: [:]][old.reason, default: 0] - 1
        reasons[old.work.step]?[old.reason] = count > 0 ? count : nil
      }
      entries[id] = entry
      if let entry { reasons[entry.work.step, default: [:]][entry.reason, default: 0] += 1 }
    }
  }

  private let state = Mutex(State())

  public init() {}

  /// The step of the payment that waits; of several, the one that failed last.
  public subscript(id: PaymentID) -> Entry? { state.withLock { $0.entries[id] } }

  /// How many payments wait for a step, by reason.
  func reasons(_ step: PaymentStep) -> [String: Int] { state.withLock { $0.reasons[step] ?? [:] } }

  func set(_ id: PaymentID, _ entry: Entry) { state.withLock { $0.set(id, entry) } }

  func clear(_ id: PaymentID, _ work: PaymentWork) {
    state.withLock { if $0.entries[id]?.work == work { $0.set(id, nil) } }
  }
}
