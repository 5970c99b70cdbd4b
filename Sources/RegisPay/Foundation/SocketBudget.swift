import Synchronization

/// Bounds the descriptors that connections of calls out may use, so that logs and clients always find some.
///
/// The PSP, the notification service and the webhooks have a budget each: calls that hang in one leave the others theirs. Safe to
/// use from any thread.
final class SocketBudget: Sendable {
  /// For calls to the PSP: half of what all calls out of this process may use.
  static let psp = SocketBudget(limit: allCalls / 2)
  /// For calls to the notification service.
  static let notifications = SocketBudget(limit: allCalls / 4)
  /// For calls to the receivers of webhooks, all together.
  static let webhooks = SocketBudget(limit: allCalls / 4)

  /// A quarter of the process's descriptor limit at the first use, or an eighth if the limit is below 1,024, where other open files
  /// take a larger share.
  private static let allCalls = max(16, DescriptorLimit.current / (DescriptorLimit.current < 1_024 ? 8 : 4))

  let limit: Int
  private let open = Atomic<Int>(0)

  init(limit: Int) { self.limit = limit }

  /// The connections that a pool, which has this budget to itself, may open on each of its event loops: all it wants if the budget
  /// suffices for that, otherwise an equal share, so that no loop finds that the others have taken all.
  func connectionsPerLoop(wanted: Int, loopCount: Int) -> Int {
    limit >= wanted ? wanted : max(1, limit / loopCount)
  }

  /// Takes a descriptor; false if all are taken.
  func take() -> Bool {
    if open.add(1, ordering: .relaxed).newValue <= limit { return true }
    give()
    return false
  }

  /// Returns a descriptor.
  func give() { open.subtract(1, ordering: .relaxed) }
}
