import Synchronization

/// The descriptors that connections of calls out may take, so that logs and clients always find theirs.
enum SocketBudget {
  /// An eighth of what the process may have, as it was at the first call.
  static let limit = max(16, HTTPLimits.descriptorLimit / 8)
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
