import Synchronization

/// The descriptors that connections of calls out may take, so that logs and clients always find theirs.
///
/// Safe to use from any thread.
final class SocketBudget: Sendable {
  /// This process's. A quarter of the descriptors that it may have, as it was at the first call; an eighth of less than 1,024,
  /// where what else is open counts for more.
  static let process = SocketBudget(
    limit: max(16, DescriptorLimit.current / (DescriptorLimit.current < 1_024 ? 8 : 4)))

  let limit: Int
  private let open = Atomic<Int>(0)

  init(limit: Int) { self.limit = limit }

  /// Less than all calls that may be out at once (``CallSlots``): payments that hang may hold up others.
  var isTight: Bool { limit < 4_200 }

  /// Takes one; false if all are taken.
  func take() -> Bool {
    if open.add(1, ordering: .relaxed).newValue <= limit { return true }
    give()
    return false
  }

  /// Puts one back.
  func give() { open.subtract(1, ordering: .relaxed) }
}
