/// How far a subscription is: what was read, what of it is unfinished, and the checkpoint. A pure value.
///
/// Events are read in order and finished in any order. The checkpoint never passes the lowest unfinished offset, so nothing
/// is lost when the process dies. Finished events take no memory.
struct SubscriptionProgress: Sendable {
  /// The offset to read next. Everything below it is finished or unfinished.
  private(set) var readOffset: UInt64
  /// The durable checkpoint, as far as this process knows.
  private(set) var checkpoint: UInt64
  private var unfinished: Set<UInt64> = []
  /// The unfinished offsets in order, and some finished ones that are not swept out yet. The first is always unfinished.
  private var order: ArraySlice<UInt64> = []

  init(checkpoint: UInt64) {
    readOffset = checkpoint
    self.checkpoint = checkpoint
  }

  var unfinishedCount: Int { unfinished.count }
  /// Offsets held in memory, including finished ones that are not swept out yet.
  var rememberedCount: Int { order.count }

  /// Whether anything from an offset on may be unfinished.
  func hasUnfinished(from offset: UInt64) -> Bool { order.last.map { $0 >= offset } ?? false }

  func isUnfinished(_ offset: UInt64) -> Bool { unfinished.contains(offset) }

  /// The lowest unfinished offset: how far the checkpoint may move.
  var nextCheckpoint: UInt64 { min(order.first ?? readOffset, readOffset) }

  /// The lowest unfinished offset once `offset` is finished too.
  func nextCheckpoint(finishing offset: UInt64) -> UInt64 {
    guard order.first == offset else { return nextCheckpoint }
    return min(order.dropFirst().first { unfinished.contains($0) } ?? readOffset, readOffset)
  }

  /// The checkpoint to commit; nil if it has not moved.
  var uncommitted: UInt64? { nextCheckpoint > checkpoint ? nextCheckpoint : nil }

  /// Reads on up to an offset. Never moves back.
  mutating func read(upTo offset: UInt64) { readOffset = max(readOffset, offset) }

  /// Makes an offset unfinished.
  mutating func take(_ offset: UInt64) {
    guard unfinished.insert(offset).inserted else { return }
    guard let last = order.last, offset <= last else { return order.append(offset) }
    // Only after the subscription has moved back.
    let index = order.firstIndex { $0 >= offset } ?? order.endIndex
    if index == order.endIndex || order[index] != offset { order.insert(offset, at: index) }
  }

  mutating func finish(_ offset: UInt64) {
    unfinished.remove(offset)
    while let first = order.first, !unfinished.contains(first) { order.removeFirst() }
    // Behind one offset that stays unfinished for days, all others finish. Swept when finished ones are the majority, so
    // that a sweep costs no more than the finishes before it.
    if order.count > 2 * unfinished.count + 64 { order = ArraySlice(order.filter { unfinished.contains($0) }) }
  }

  mutating func noteCommitted(_ offset: UInt64) { checkpoint = max(checkpoint, offset) }

  /// Reads again from an offset. What is unfinished stays so.
  mutating func rewind(to offset: UInt64) {
    readOffset = min(readOffset, offset)
    checkpoint = min(checkpoint, offset)
  }

  /// Reads again all that is unfinished.
  mutating func restart() {
    readOffset = nextCheckpoint
    unfinished = []
    order = []
  }
}
