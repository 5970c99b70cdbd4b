import DequeModule

/// Finds payments that wait for a time, so that no consumer's checkpoint has to wait for them.
public protocol DelayedWork: Sendable {
  /// The work of a step that is due by a time, the longest due first. May lag behind the log.
  ///
  /// - Parameters:
  ///   - didTimeOut: selects work that timed out, or work that did not; see ``Delay/didTimeOut``.
  ///   - impossible: no wait can have begun after this time, in microseconds since 1970. A wait that did was written by a clock
  ///     that has been set back since, and is over.
  func due(
    _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)]
}

extension PaymentProjection: DelayedWork {}

/// Work whose wait on the log is over: ready or in flight. Work that has timed out is separate from other work, so that
/// thousands of payments that hang never hold up one that doesn't. A pure value.
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

  /// The work of one kind.
  private struct Part {
    /// Ready or in flight.
    var known: Set<Key> = []
    var ready: Deque<Item> = []
  }

  /// The most work of each kind.
  let limit: Int
  private var parts: (others: Part, timedOut: Part) = (Part(), Part())

  init(limit: Int) { self.limit = limit }

  func readyCount(didTimeOut: Bool) -> Int { self[didTimeOut].ready.count }
  /// How much more work of a kind fits.
  func room(didTimeOut: Bool) -> Int { limit - self[didTimeOut].known.count }

  /// Does nothing when the item is known or there is no room.
  mutating func admit(_ item: Item) {
    let kind = item.delay.didTimeOut
    guard room(didTimeOut: kind) > 0, self[kind].known.insert(Key(item)).inserted else { return }
    self[kind].ready.append(item)
  }

  mutating func next(didTimeOut: Bool) -> Item? { self[didTimeOut].ready.popFirst() }

  /// Puts back an item that was not tried.
  mutating func putBack(_ item: Item) {
    self[item.delay.didTimeOut].ready.prepend(item)
  }

  /// Forgets an item: its step is done, or it is loaded again when it is due.
  mutating func finish(_ item: Item) {
    self[item.delay.didTimeOut].known.remove(Key(item))
  }

  private subscript(didTimeOut: Bool) -> Part {
    get { didTimeOut ? parts.timedOut : parts.others }
    _modify { if didTimeOut { yield &parts.timedOut } else { yield &parts.others } }
  }
}
