import DequeModule
import HeapModule

/// The work that a consumer has read and not finished: which is ready, and which waits for a retry. A pure value; the caller
/// passes the time.
///
/// Work is admitted in log order and finished in any order. `limit` bounds the memory: finished work takes none.
struct InFlightWindow<Item: Sendable>: Sendable {
  typealias Instant = ContinuousClock.Instant
  typealias Lane = CallSlots.Lane

  /// The most unfinished offsets at once.
  let limit: Int

  private struct Work {
    var item: Item
    var lane = Lane.first
    var attempts = 0
    var timeouts = 0
  }

  private var unfinished: [UInt64: Work] = [:]
  /// Offsets that may start now, by lane: first tries oldest first, the others in the order in which they were due.
  private var ready: (first: Deque<UInt64>, retry: Deque<UInt64>, timedOut: Deque<UInt64>) = ([], [], [])
  private var waiting = RetryQueue()
  /// Offsets in the lane `timedOut`: ready, waiting or in flight.
  private(set) var timedOutCount = 0

  init(limit: Int) {
    self.limit = limit
  }

  /// How much more work fits.
  var room: Int { max(limit - unfinished.count, 0) }
  /// Whether reading is worth it: not for each single piece of work that ends. A read in the middle of a large frame checks all of it
  /// again, on an event loop, and a consumer that is far behind would read as often as work ends.
  var hasRoomToRead: Bool { room >= max(limit / 40, 1) }
  var unfinishedCount: Int { unfinished.count }
  var waitingCount: Int { waiting.count }
  /// The offsets in all lanes.
  var rememberedCount: Int { ready.first.count + ready.retry.count + ready.timedOut.count }

  func hasReady(_ lane: Lane) -> Bool { !queue(lane).isEmpty }

  /// The ready offsets of a lane, some of which may be finished meanwhile.
  func readyCount(_ lane: Lane) -> Int { queue(lane).count }

  /// Admits what the event at an offset requests.
  mutating func admit(_ item: Item, at offset: UInt64) {
    unfinished[offset] = Work(item: item)
    ready.first.append(offset)
  }

  /// Makes the work ready whose wait is over.
  mutating func wake(at now: Instant) {
    while let offset = waiting.popDue(now: now) {
      guard let work = unfinished[offset] else { continue }
      update(work.lane) { $0.append(offset) }
    }
  }

  /// Removes the next ready work of a lane, to start it; nil when there is none.
  mutating func next(_ lane: Lane) -> (offset: UInt64, item: Item)? {
    guard let offset = update(lane, { $0.popFirst() }), let work = unfinished[offset] else { return nil }
    return (offset, work.item)
  }

  /// How often the work has failed.
  func attempts(_ offset: UInt64) -> Int { unfinished[offset]?.attempts ?? 0 }

  /// How often the work has timed out.
  func timeouts(_ offset: UInt64) -> Int { unfinished[offset]?.timeouts ?? 0 }

  /// Puts failed work back, to start again no sooner than `due`.
  ///
  /// - Parameter isTimeout: the last call timed out. From then on the work is in the lane `timedOut`.
  mutating func retry(_ offset: UInt64, due: Instant, isTimeout: Bool = false) {
    guard var work = unfinished[offset] else { return }
    work.attempts += 1
    if isTimeout { work.timeouts += 1 }
    let lane = work.timeouts > 0 ? Lane.timedOut : .retry
    if lane == .timedOut, work.lane != .timedOut { timedOutCount += 1 }
    work.lane = lane
    unfinished[offset] = work
    waiting.insert(offset, due: due)
  }

  /// Puts work that was not tried back to the front of its lane.
  mutating func putBack(_ offset: UInt64) {
    guard let work = unfinished[offset] else { return }
    update(work.lane) { $0.prepend(offset) }
  }

  mutating func finish(_ offset: UInt64) {
    if unfinished.removeValue(forKey: offset)?.lane == .timedOut { timedOutCount -= 1 }
  }

  /// When the first waiting work is due; nil when there is none.
  var nextDue: Instant? { waiting.nextDue }

  private func queue(_ lane: Lane) -> Deque<UInt64> {
    switch lane {
    case .first: ready.first
    case .retry: ready.retry
    case .timedOut: ready.timedOut
    }
  }

  @discardableResult
  private mutating func update<Result>(_ lane: Lane, _ change: (inout Deque<UInt64>) -> Result) -> Result {
    switch lane {
    case .first: change(&ready.first)
    case .retry: change(&ready.retry)
    case .timedOut: change(&ready.timedOut)
    }
  }
}

/// Offsets ordered by the time at which they are due.
private struct RetryQueue: Sendable {
  private struct Entry: Sendable, Comparable {
    var due: ContinuousClock.Instant
    var offset: UInt64

    static func < (left: Entry, right: Entry) -> Bool { (left.due, left.offset) < (right.due, right.offset) }
  }

  private var entries = Heap<Entry>()

  var count: Int { entries.count }
  var nextDue: ContinuousClock.Instant? { entries.min?.due }

  mutating func insert(_ offset: UInt64, due: ContinuousClock.Instant) {
    entries.insert(Entry(due: due, offset: offset))
  }

  mutating func popDue(now: ContinuousClock.Instant) -> UInt64? {
    guard let first = entries.min, first.due <= now else { return nil }
    return entries.removeMin().offset
  }
}
