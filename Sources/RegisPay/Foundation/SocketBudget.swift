import Synchronization

/// Bounds the descriptors that connections of calls out may use, so that logs and clients always find some.
///
/// Safe to use from any thread.
final class SocketBudget: Sendable {
  /// The budget of this process: a quarter of its descriptor limit at the first use, or an eighth if the limit is below 1,024,
  /// where other open files take a larger share.
  static let process = SocketBudget(
    limit: max(16, DescriptorLimit.current / (DescriptorLimit.current < 1_024 ? 8 : 4)))

  let limit: Int
  private let open = Atomic<Int>(0)

  init(limit: Int) { self.limit = limit }

  /// The budget is smaller than the number of calls that may be in flight (``CallSlots``), so payments that hang may delay others.
  var isTight: Bool { limit < 4_200 }

  /// Takes a descriptor; false if all are taken.
  func take() -> Bool {
    if open.add(1, ordering: .relaxed).newValue <= limit { return true }
    give()
    return false
  }

  /// Returns a descriptor.
  func give() { open.subtract(1, ordering: .relaxed) }
}
