import Synchronization

/// Bounds the memory of request bodies that have begun to arrive and are not complete, over all connections: each connection alone
/// may hold one for as long as the body timeout, and thousands of them would fill the memory.
///
/// Safe to use from any thread. A body that arrives with one read costs nothing here and is never refused.
final class UnfinishedBodies: Sendable {
  let limit: Int
  private let held = Atomic<Int>(0)
  /// A quarter of the limit was taken since `onEmptied` was last called.
  private let wasLarge = Atomic<Bool>(false)
  private let onEmptied: @Sendable () -> Void

  /// - Parameters:
  ///   - limit: bytes of all connections together.
  ///   - onEmptied: called when little is taken after much was: the allocator then has much freed memory. Must not block.
  init(limit: Int, onEmptied: @escaping @Sendable () -> Void = {}) {
    self.limit = limit
    self.onEmptied = onEmptied
  }

  /// Bytes that all connections hold.
  var byteCount: Int { held.load(ordering: .relaxed) }

  /// Takes bytes; false, and takes nothing, if the limit does not allow that many more.
  func take(_ byteCount: Int) -> Bool {
    let newValue = held.add(byteCount, ordering: .relaxed).newValue
    guard newValue <= limit else {
      give(byteCount)
      return false
    }
    if newValue > limit / 4, !wasLarge.load(ordering: .relaxed) { wasLarge.store(true, ordering: .relaxed) }
    return true
  }

  /// Returns bytes that were taken.
  func give(_ byteCount: Int) {
    guard held.subtract(byteCount, ordering: .relaxed).newValue <= limit / 16, wasLarge.load(ordering: .relaxed) else {
      return
    }
    if wasLarge.exchange(false, ordering: .relaxed) { onEmptied() }
  }
}
