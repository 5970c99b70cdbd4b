import Synchronization

/// The descriptors that connections of calls out may take, so that logs and clients always find theirs.
enum SocketBudget {
  /// A quarter of what the process may have, as it was at the first call; an eighth of less than 1,024, where what else is
  /// open counts for more.
  static let limit = max(16, HTTPLimits.descriptorLimit / (HTTPLimits.descriptorLimit < 1_024 ? 8 : 4))
  /// Less than all calls that may be out at once (``CallSlots``): payments that hang may hold up others.
  static var isTight: Bool { limit < 4_200 }
  private static let open = Atomic<Int>(0)

  /// Takes one; false if all are taken.
  static func take() -> Bool {
    if open.add(1, ordering: .relaxed).newValue <= limit { return true }
    give()
    return false
  }

  /// Puts one back.
  static func give() { open.subtract(1, ordering: .relaxed) }
}
