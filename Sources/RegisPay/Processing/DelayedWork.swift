import DequeModule

/// Where payments are kept that wait for a time, so that no consumer has to keep its place in the log for them.
public protocol DelayedWork: Sendable {
  /// What of a step is due by then, the longest due first. May tell what was true a while ago.
  ///
  /// - Parameters:
  ///   - isUnanswered: of what was not answered in time, or of what was; see ``Delay/isUnanswered``.
  ///   - impossible: no wait can have begun after that, in microseconds since 1970: one that did was written by a clock
  ///     that has been set back since, and is over.
  func due(
    _ step: PaymentStep, isUnanswered: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)]
}

extension PaymentProjection: DelayedWork {}

/// Work whose time has come: what waits for a call, and what is in flight. Work that was not answered in time is kept apart
/// from work that was, so that thousands of payments that hang never stand before one that doesn't. A pure value.
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

  /// Work of one kind.
  private struct Part {
    var known: Set<Key> = []
    var ready: Deque<Item> = []
  }

  /// The most that is known of each kind at once.
  let limit: Int
  private var parts: (answered: Part, unanswered: Part) = (Part(), Part())

  init(limit: Int) { self.limit = limit }

  func readyCount(isUnanswered: Bool) -> Int { self[isUnanswered].ready.count }
  /// How much more is wanted.
  func room(isUnanswered: Bool) -> Int { limit - self[isUnanswered].known.count }

  /// Passed over if it is known already, or if there is no room.
  mutating func admit(_ item: Item) {
    let kind = item.delay.isUnanswered
    guard room(isUnanswered: kind) > 0, self[kind].known.insert(Key(item)).inserted else { return }
    self[kind].ready.append(item)
  }

  mutating func next(isUnanswered: Bool) -> Item? { self[isUnanswered].ready.popFirst() }

  /// Puts back what was not tried.
  mutating func putBack(_ item: Item) {
    self[item.delay.isUnanswered].ready.prepend(item)
  }

  /// Forgets it: it is done, or is told again when it is due.
  mutating func finish(_ item: Item) {
    self[item.delay.isUnanswered].known.remove(Key(item))
  }

  private subscript(isUnanswered: Bool) -> Part {
    get { isUnanswered ? parts.unanswered : parts.answered }
    _modify { if isUnanswered { yield &parts.unanswered } else { yield &parts.answered } }
  }
}
