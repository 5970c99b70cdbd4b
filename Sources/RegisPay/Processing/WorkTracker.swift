import DequeModule

/// Work that others carry out, in the order in which it is to be looked at: what was read since the last look, and then some of what
/// was not done then. A pure value.
struct WorkTracker: Sendable {
  struct Item: Sendable {
    var offset: UInt64
    var request: StepRequest
  }

  /// How much of what was not done is looked at again at once: each look reads a payment.
  private static let again = 512

  private var new: [Item] = []
  private var open: Deque<Item> = []
  private var takenCount = 0

  /// All that is not known to be done.
  var count: Int { new.count + open.count + takenCount }

  mutating func read(_ request: StepRequest, at offset: UInt64) { new.append(Item(offset: offset, request: request)) }

  /// What to look at now; ``add(_:)`` follows.
  mutating func takeToCheck() -> [Item] {
    let items = new + open.prefix(Self.again)
    open.removeFirst(min(Self.again, open.count))
    (new, takenCount) = ([], items.count)
    return items
  }

  /// What of the taken work is not done.
  mutating func add(_ items: [Item]) {
    takenCount = 0
    open.append(contentsOf: items)
  }
}
