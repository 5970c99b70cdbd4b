import Synchronization

/// Bounds the memory of request heads, or of bodies, that have begun to arrive and are not complete, over all connections: each
/// connection alone may hold one for as long as its timeout, and thousands of them would fill the memory.
///
/// Safe to use from any thread. A head or a body that arrives with one read costs nothing here and is never refused.
final class UnfinishedBytes: Sendable {
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

extension UnfinishedBytes {
  /// What one connection has taken.
  struct Share {
    private var byteCount = 0

    /// Takes the memory of what has arrived, as a power of two: so ByteBuffer allocates it.
    ///
    /// - Parameter arrived: bytes that have arrived so far.
    /// - Returns: false, and takes nothing, if the limit does not allow it.
    mutating func hold(_ arrived: Int, in bytes: UnfinishedBytes) -> Bool {
      guard arrived > byteCount else { return true }
      let size = arrived.nextPowerOfTwo
      guard bytes.take(size - byteCount) else { return false }
      byteCount = size
      return true
    }

    /// Returns what was taken. May be called more than once.
    mutating func release(to bytes: UnfinishedBytes) {
      guard byteCount > 0 else { return }
      bytes.give(byteCount)
      byteCount = 0
    }
  }
}

extension Int {
  /// The smallest power of two that is not less, for numbers from 1 to 2^62.
  fileprivate var nextPowerOfTwo: Int { 1 << (Int.bitWidth - (self - 1).leadingZeroBitCount) }
}
