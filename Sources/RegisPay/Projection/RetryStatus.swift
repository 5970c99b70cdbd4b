import Synchronization

/// Which payments wait for a retry and why, for people to see. Bounded by the consumers' windows.
///
/// Safe to use from any task.
public final class RetryStatus: Sendable {
  public struct Entry: Sendable, Hashable {
    public var work: PaymentWork
    /// Tries that have failed so far.
    public var attempts: Int
    /// Why the last one failed.
    public var reason: String
  }

  private struct State {
    var entries: [PaymentID: Entry] = [:]
    /// Of the entries, so that nobody who asks holds up who works.
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

  /// What of the payment waits; of several things the one that failed last.
  public subscript(id: PaymentID) -> Entry? { state.withLock { $0.entries[id] } }

  /// How many payments wait for a step, by why.
  func reasons(_ step: PaymentStep) -> [String: Int] { state.withLock { $0.reasons[step] ?? [:] } }

  func set(_ id: PaymentID, _ entry: Entry) { state.withLock { $0.set(id, entry) } }

  func clear(_ id: PaymentID, _ work: PaymentWork) {
    state.withLock { if $0.entries[id]?.work == work { $0.set(id, nil) } }
  }
}
