/// What a consumer has read and not finished: which work is ready, which waits for a retry, and how far the cursor may
/// go. A pure value; time comes in as an argument.
///
/// Offsets are admitted in log order and finished in any order. The cursor's place is the lowest unfinished offset, so
/// nothing is lost when the process dies. Memory is bounded by `limit`: what is finished takes no room.
struct Window<Item: Sendable>: Sendable {
  typealias Instant = ContinuousClock.Instant

  /// The most offsets that may be unfinished at once.
  let limit: Int
  /// The offset to read next; everything below is finished or in `unfinished`.
  private(set) var readPlace: UInt64

  private struct Work {
    var item: Item
    var attempts = 0
  }

  private var unfinished: [UInt64: Work] = [:]
  /// The unfinished offsets in order, with some finished ones among them that are not swept out yet; never one at its
  /// front, which is what `place` looks at.
  private var order: ArraySlice<UInt64> = []
  /// Offsets that may be worked on now, oldest first from `readyStart`.
  private var ready: ArraySlice<UInt64> = []
  /// How many of those were never tried.
  private var untriedCount = 0
  private var waiting = RetryQueue()

  init(place: UInt64, limit: Int) {
    self.readPlace = place
    self.limit = limit
  }

  /// No more work fits until some is finished.
  var isFull: Bool { unfinished.count >= limit }
  var unfinishedCount: Int { unfinished.count }
  var waitingCount: Int { waiting.count }
  /// Offsets held in memory, finished ones that are not swept out yet included.
  var rememberedCount: Int { order.count + ready.count }
  var hasReadyWork: Bool { !ready.isEmpty }
  /// There is ready work that has not failed yet.
  var hasUntriedWork: Bool { untriedCount > 0 }

  /// The lowest unfinished offset: where the cursor may stand.
  var place: UInt64 { order.first ?? readPlace }

  /// Where the cursor may stand once `offset`, too, is finished: the place to commit together with its effect.
  func place(finishing offset: UInt64) -> UInt64 {
    guard order.first == offset else { return place }
    return order.dropFirst().first { unfinished[$0] != nil } ?? readPlace
  }

  /// Takes in the event at `readPlace`, as work.
  mutating func admit(_ item: Item) {
    unfinished[readPlace] = Work(item: item)
    order.append(readPlace)
    ready.append(readPlace)
    untriedCount += 1
    readPlace += 1
  }

  /// Goes on at the offset of the event that was read, past offsets that have none: a repair may have left a gap.
  mutating func move(to offset: UInt64) { readPlace = max(readPlace, offset) }

  /// Goes past the event at `readPlace`, which asks for nothing.
  mutating func skip() { readPlace += 1 }

  /// Takes the next work to start; nil when there is none now.
  ///
  /// - Parameter untriedFirst: rather some that has not failed yet; linear in what has and is ready.
  mutating func next(now: Instant, untriedFirst: Bool = false) -> (offset: UInt64, item: Item)? {
    while let offset = waiting.popDue(now: now) { ready.append(offset) }
    if untriedFirst, untriedCount > 0, let index = ready.firstIndex(where: { unfinished[$0]?.attempts == 0 }) {
      return start(ready.remove(at: index))
    }
    return ready.popFirst().flatMap { start($0) }
  }

  private mutating func start(_ offset: UInt64) -> (offset: UInt64, item: Item)? {
    guard let work = unfinished[offset] else { return nil }
    if work.attempts == 0 { untriedCount -= 1 }
    return (offset, work.item)
  }

  /// How often the work has failed.
  func attempts(_ offset: UInt64) -> Int { unfinished[offset]?.attempts ?? 0 }

  /// Puts work back that has failed, to be started again no sooner than `due`.
  mutating func retry(_ offset: UInt64, due: Instant) {
    guard var work = unfinished[offset] else { return }
    work.attempts += 1
    unfinished[offset] = work
    waiting.insert(offset, due: due)
  }

  /// Puts work back that was not tried at all, in front of the rest.
  mutating func putBack(_ offset: UInt64) {
    guard let work = unfinished[offset] else { return }
    ready = [offset] + ready
    if work.attempts == 0 { untriedCount += 1 }
  }

  mutating func finish(_ offset: UInt64) {
    unfinished[offset] = nil
    while let first = order.first, unfinished[first] == nil { order.removeFirst() }
    // Behind one that stays unfinished for days all others finish; swept when they are most of it, so that a sweep
    // costs no more than the finishing before it.
    if order.count > 2 * unfinished.count + 64 { order = ArraySlice(order.filter { unfinished[$0] != nil }) }
  }

  /// When the first waiting work is due; nil when none waits.
  var nextDue: Instant? { waiting.nextDue }
}

/// Offsets by the time at which they are due: a binary heap.
private struct RetryQueue: Sendable {
  private var heap: [(due: ContinuousClock.Instant, offset: UInt64)] = []

  var count: Int { heap.count }
  var nextDue: ContinuousClock.Instant? { heap.first?.due }

  mutating func insert(_ offset: UInt64, due: ContinuousClock.Instant) {
    heap.append((due, offset))
    var child = heap.count - 1
    while child > 0, heap[child].due < heap[(child - 1) / 2].due {
      heap.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func popDue(now: ContinuousClock.Instant) -> UInt64? {
    guard let first = heap.first, first.due <= now else { return nil }
    heap.swapAt(0, heap.count - 1)
    heap.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && heap[child].due < heap[least].due {
        least = child
      }
      guard least != parent else { return first.offset }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}
