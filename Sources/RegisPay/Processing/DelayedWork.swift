import DequeModule

/// Where payments are kept that wait for a time, so that no consumer has to keep its place in the log for them.
public protocol DelayedWork: Sendable {
  /// What of a step is due by then, the longest due first. May tell what was true a while ago.
  ///
  /// - Parameter impossible: no wait can end after that, in microseconds since 1970: one that does was written by a clock
  ///   that has been set back since, and is over.
  func due(
    _ step: PaymentStep, by microseconds: UInt64, orAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)]
}

extension PaymentProjection: DelayedWork {}

/// Work whose time has come: what waits for a call, and what is in flight. A pure value.
struct DelayedQueue: Sendable {
  struct Item: Sendable, Hashable {
    var id: PaymentID
    var delay: Delay
  }

  private struct Key: Hashable {
    var id: PaymentID
    var work: PaymentWork

    init(_ item: Item) { (id, work) = (item.id, item.delay.work) }
  }

  /// The most that is known at once.
  let limit: Int
  private var known: Set<Key> = []
  private var ready: Deque<Item> = []

  init(limit: Int) { self.limit = limit }

  var hasReadyWork: Bool { !ready.isEmpty }
  /// How much more is wanted.
  var room: Int { limit - known.count }

  /// Passed over if it is known already, or if there is no room.
  mutating func admit(_ item: Item) {
    guard room > 0, known.insert(Key(item)).inserted else { return }
    ready.append(item)
  }

  mutating func next() -> Item? { ready.popFirst() }

  /// Puts back what was not tried.
  mutating func putBack(_ item: Item) {
    ready.prepend(item)
  }

  /// Forgets it: it is done, or is told again when it is due.
  mutating func finish(_ item: Item) {
    known.remove(Key(item))
  }
}
