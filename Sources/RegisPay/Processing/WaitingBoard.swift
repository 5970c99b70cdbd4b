import Synchronization

/// Which payments wait for a retry and why, for people to see. Bounded by the consumers' windows.
///
/// Safe to use from any task.
public final class WaitingBoard: Sendable {
  public struct Entry: Sendable, Hashable {
    public var step: PaymentStep
    /// Tries that have failed so far.
    public var attempts: Int
    /// Why the last one failed.
    public var reason: String
  }

  private let entries = Mutex<[PaymentID: Entry]>([:])

  public init() {}

  public subscript(id: PaymentID) -> Entry? { entries.withLock { $0[id] } }

  func set(_ id: PaymentID, _ entry: Entry) { entries.withLock { $0[id] = entry } }
  func clear(_ id: PaymentID) { entries.withLock { _ = $0.removeValue(forKey: id) } }
}
