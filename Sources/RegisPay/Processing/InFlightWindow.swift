import DequeModule

/// What a consumer has read and not finished: which work is ready, which waits for a retry, and how far the cursor may
/// go. A pure value; time comes in as an argument.
///
/// Offsets are admitted in log order and finished in any order. The cursor's place is the lowest unfinished offset, so
/// nothing is lost when the process dies. Memory is bounded by `limit`: what is finished takes no room.
struct InFlightWindow<Item: Sendable>: Sendable {
  typealias Instant = ContinuousClock.Instant
  typealias Lane = CallSlots.Lane

  /// The most offsets that may be unfinished at once.
  let limit: Int
  /// The offset to read next; everything below is finished or in `unfinished`.
  private(set) var readPlace: UInt64

  private struct Work {
    var item: Item
    var lane = Lane.first
    var attempts = 0
    var timeouts = 0
  }

  private var unfinished: [UInt64: Work] = [:]
  /// The unfinished offsets in order, with some finished ones among them that are not swept out yet; never one at its
  /// front, which is what `place` looks at.
  private var order: ArraySlice<UInt64> = []
  /// Offsets that may be worked on now, by their lanes: first tries oldest first, the others as they were due.
  private var ready: (first: Deque<UInt64>, again: Deque<UInt64>, patient: Deque<UInt64>) = ([], [], [])
  private var waiting = RetryQueue()
  /// Offsets in the lane `patient`, whether they are ready, waiting or worked on.
  private(set) var patientCount = 0

  init(place: UInt64, limit: Int) {
    self.readPlace = place
    self.limit = limit
  }

  /// No more work fits until some is finished.
  var isFull: Bool { unfinished.count >= limit }
  var unfinishedCount: Int { unfinished.count }
  var waitingCount: Int { waiting.count }
  /// Offsets held in memory, finished ones that are not swept out yet included.
  var rememberedCount: Int { order.count + ready.first.count + ready.again.count + ready.patient.count }

  func hasReady(_ lane: Lane) -> Bool { !queue(lane).isEmpty }

  /// How much of a lane is ready, some of it finished meanwhile.
  func readyCount(_ lane: Lane) -> Int { queue(lane).count }

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
    ready.first.append(readPlace)
    readPlace += 1
  }

  /// Goes on at the offset of the event that was read, past offsets that have none: a repair may have left a gap.
  mutating func move(to offset: UInt64) { readPlace = max(readPlace, offset) }

  /// Goes past the event at `readPlace`, which asks for nothing.
  mutating func skip() { readPlace += 1 }

  /// Makes ready what has waited until now.
  mutating func wake(at now: Instant) {
    while let offset = waiting.popDue(now: now) {
      guard let work = unfinished[offset] else { continue }
      update(work.lane) { $0.append(offset) }
    }
  }

  /// Takes the next ready work of a lane to start; nil when it has none.
  mutating func next(_ lane: Lane) -> (offset: UInt64, item: Item)? {
    guard let offset = update(lane, { $0.popFirst() }), let work = unfinished[offset] else { return nil }
    return (offset, work.item)
  }

  /// How often the work has failed.
  func attempts(_ offset: UInt64) -> Int { unfinished[offset]?.attempts ?? 0 }

  /// How often the work was not answered in time.
  func timeouts(_ offset: UInt64) -> Int { unfinished[offset]?.timeouts ?? 0 }

  /// Puts work back that has failed, to be started again no sooner than `due`.
  ///
  /// - Parameter isTimeout: the last call was not answered in time. From then on the work is in the lane `patient`.
  mutating func retry(_ offset: UInt64, due: Instant, isTimeout: Bool = false) {
    guard var work = unfinished[offset] else { return }
    work.attempts += 1
    if isTimeout { work.timeouts += 1 }
    let lane = work.timeouts > 0 ? Lane.patient : .again
    if lane == .patient, work.lane != .patient { patientCount += 1 }
    work.lane = lane
    unfinished[offset] = work
    waiting.insert(offset, due: due)
  }

  /// Puts work back that was not tried at all, in front of the rest of its lane.
  mutating func putBack(_ offset: UInt64) {
    guard let work = unfinished[offset] else { return }
    update(work.lane) { $0.prepend(offset) }
  }

  mutating func finish(_ offset: UInt64) {
    if unfinished.removeValue(forKey: offset)?.lane == .patient { patientCount -= 1 }
    while let first = order.first, unfinished[first] == nil { order.removeFirst() }
    // Behind one that stays unfinished for days all others finish; swept when they are most of it, so that a sweep
    // costs no more than the finishing before it.
    if order.count > 2 * unfinished.count + 64 { order = ArraySlice(order.filter { unfinished[$0] != nil }) }
  }

  /// When the first waiting work is due; nil when none waits.
  var nextDue: Instant? { waiting.nextDue }

  private func queue(_ lane: Lane) -> Deque<UInt64> {
    switch lane {
    case .first: ready.first
    case .again: ready.again
    case .patient: ready.patient
    }
  }

  @discardableResult
  private mutating func update<Result>(_ lane: Lane, _ change: (inout Deque<UInt64>) -> Result) -> Result {
    switch lane {
    case .first: change(&ready.first)
    case .again: change(&ready.again)
    case .patient: change(&ready.patient)
    }
  }
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
