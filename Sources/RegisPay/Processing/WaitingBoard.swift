import Synchronization

/// Which payments wait for a retry and why, for people to see. Bounded by the consumers' windows.
///
/// Safe to use from any task.
public final class WaitingBoard: Sendable {
  public struct Entry: Sendable, Hashable {
    public var work: PaymentWork
    /// Tries that have failed so far.
    public var attempts: Int
    /// Why the last one failed.
    public var reason: String
  }

  private let entries = Mutex<[PaymentID: Entry]>([:])

  public init() {}

  /// What of the payment waits; of several things the one that failed last.
  public subscript(id: PaymentID) -> Entry? { entries.withLock { $0[id] } }

  /// How many payments wait for a step, by why. Linear in what waits.
  func reasons(_ step: PaymentStep) -> [String: Int] {
    entries.withLock { entries in
      entries.values.reduce(into: [:]) { if $1.work.step == step { $0[$1.reason, default: 0] += 1 } }
    }
  }

  func set(_ id: PaymentID, _ entry: Entry) { entries.withLock { $0[id] = entry } }

  func clear(_ id: PaymentID, _ work: PaymentWork) {
    entries.withLock { if $0[id]?.work == work { $0[id] = nil } }
  }
}
