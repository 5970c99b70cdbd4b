import LogStore
import Synchronization

/// Reads from the log what payments did in the hour before the process began, the latest first.
///
/// The work is bounded: the begin of the hour is found by some fifty reads of one event, and at most ``Limits/events`` events are read.
/// Points before them stay unknown. So do points from the last event on if the log's time was ahead of the machine's clock: the
/// later events have times that are still to come.
///
/// It reads on the threads for long work, in portions of some milliseconds.
final class ActivityFill: Sendable {
  struct Limits: Sendable {
    /// Events that are read.
    var events: UInt64 = 3_000_000
    /// Events in one reading, after which it pauses for as long as that took.
    var portion: UInt64 = 8_192
    /// Completed payments whose first event is looked for at a time; further ones don't count in the completion times.
    var open = 100_000
    /// Payments that are looked up one by one, because their first event is not among those that are read.
    var lookUps = 10_000
  }

  private let log: any ActivityLog
  private let history: ActivityHistory
  private let limits: Limits
  private let end: UInt64
  /// Locked for one reading at a time; nobody waits for it.
  private let counts: Mutex<ActivityFillCounts>

  /// - Parameter end: the log's end when the process began.
  init(_ log: any ActivityLog, into history: ActivityHistory, end: UInt64, limits: Limits = .init()) {
    self.log = log
    self.history = history
    self.limits = limits
    self.end = end
    counts = Mutex(ActivityFillCounts(history, openLimit: limits.open))
  }

  /// Reads until all is read, the limit is reached, a part of the log can't be read, or the task is cancelled.
  ///
  /// - Throws: why the log can't be read.
  func run() async throws(LogStoreError) {
    let lower = try await offset(ofFirstAt: ActivityPoint.beginMicroseconds(of: history.first - hour))
    let upper = try await offset(ofFirstAt: history.startMicroseconds + 1)
    if upper < end {
      // Where the later events belong is not known.
      guard upper > lower, let last = try await first(from: upper - 1, below: upper) else { return }
      let number = ActivityPoint.number(atMicroseconds: last.microseconds)
      counts.withLock { $0.begin(below: number) }
    }
    let start = max(lower, upper - min(upper, limits.events))
    var position = upper
    let clock = ContinuousClock()
    var isReadable = true
    while position > start, isReadable, !Task.isCancelled {
      let portion = max(start, position - min(position, limits.portion))..<position
      let took: Duration
      (isReadable, took) = try await RequestThreads.run(.long) { [self] () throws(LogStoreError) in
        let began = clock.now
        let isReadable = try read(portion)
        return (isReadable, began.duration(to: clock.now))
      }
      position = portion.lowerBound
      // Others need the disk and the processor, too. Ends early only when the task is cancelled.
      try? await Task.sleep(for: took)
    }
    if position == lower, isReadable { try await publishRest(from: lower) }
    await lookUpOpen()
  }

  /// The points before the process's first one.
  private var hour: UInt64 { min(history.first, UInt64(ActivityHistory.capacity)) }

  // MARK: - Finding

  /// The offset of the first event with this time or a later one; the end if there is none. Times never go back along the log.
  private func offset(ofFirstAt microseconds: UInt64) async throws(LogStoreError) -> UInt64 {
    var (low, high) = (UInt64(0), end)
    while low < high {
      let middle = low + (high - low) / 2
      if let event = try await first(from: middle, below: high), event.microseconds < microseconds {
        low = event.offset + 1
      } else {
        high = middle
      }
    }
    return low
  }

  private func first(from offset: UInt64, below end: UInt64) async throws(LogStoreError) -> ActivityEvent? {
    try await RequestThreads.run(.long) { [log] () throws(LogStoreError) in try log.first(from: offset, below: end) }
  }

  // MARK: - Reading

  /// - Returns: false if some events can't be read.
  private func read(_ offsets: Range<UInt64>) throws(LogStoreError) -> Bool {
    try counts.withLock { counts throws(LogStoreError) in
      var begun: [PaymentID: UInt64] = [:]
      var earliest: UInt64?
      let isWhole = try log.forEach(in: offsets) { event in
        earliest = earliest ?? event.microseconds
        counts.count(event, &begun)
      }
      // Offsets of a repaired log may have no events: then no further point is complete.
      if isWhole, let earliest { counts.publish(from: ActivityPoint.number(atMicroseconds: earliest) + 1) }
      return isWhole
    }
  }

  /// Publishes the points that are left once all of the hour is read: from the log's first event on.
  private func publishRest(from lower: UInt64) async throws(LogStoreError) {
    var number = history.first - hour
    if lower == 0 {
      let event = try await first(from: 0, below: end)
      number = max(number, event.map { ActivityPoint.number(atMicroseconds: $0.microseconds) } ?? history.first)
    }
    counts.withLock { $0.publish(from: number) }
  }

  /// Looks up the first events of payments that began before what was read.
  private func lookUpOpen() async {
    let open = counts.withLock { $0.takeOpen(limits.lookUps) }
    for (payment, completion) in open {
      guard !Task.isCancelled else { return }
      await RequestThreads.run(.long) { [self] in
        if let begin = log.begin(of: payment) { counts.withLock { $0.note(completion, begunAt: begin) } }
      }
    }
    counts.withLock { $0.publishChanged() }
  }
}

/// What ``ActivityFill`` has counted.
private struct ActivityFillCounts {
  struct Completion: Sendable {
    var microseconds: UInt64
    var number: UInt64
  }

  private let history: ActivityHistory
  private let openLimit: Int
  private var tallies: [UInt64: PaymentFlow.Tally] = [:]
  /// Completed payments whose first event was not read yet.
  private var open: [PaymentID: Completion] = [:]
  /// Published points that have got completion times since.
  private var changed: Set<UInt64> = []
  /// The points below this one are not published yet.
  private var published: UInt64
  /// The points from this one on can't be known.
  private var limit: UInt64

  init(_ history: ActivityHistory, openLimit: Int) {
    self.history = history
    self.openLimit = openLimit
    (published, limit) = (history.first + 1, history.first + 1)
  }

  /// Leaves this point and later ones unknown.
  mutating func begin(below number: UInt64) { (published, limit) = (number, number) }

  /// Counts an event. Events come in order within a portion of the log, and later portions first.
  ///
  /// - Parameter begun: when payments of this portion began.
  mutating func count(_ event: ActivityEvent, _ begun: inout [PaymentID: UInt64]) {
    guard let kind = event.kind else { return }
    let number = ActivityPoint.number(atMicroseconds: event.microseconds)
    tallies[number, default: .init()].count(kind)
    guard let payment = event.payment else { return }
    switch kind {
    case .accepted:
      begun[payment] = event.microseconds
      if let completion = open.removeValue(forKey: payment) { note(completion, begunAt: event.microseconds) }
    case .completed:
      let completion = Completion(microseconds: event.microseconds, number: number)
      if let begin = begun.removeValue(forKey: payment) {
        note(completion, begunAt: begin)
      } else if open.count < openLimit {
        open[payment] = completion
      }
    case .endedOtherwise: break
    }
  }

  mutating func note(_ completion: Completion, begunAt begin: UInt64) {
    tallies[completion.number, default: .init()].noteCompletion(from: begin, to: completion.microseconds)
    if (published..<limit).contains(completion.number) { changed.insert(completion.number) }
  }

  /// Publishes the points from this one on, of which all events are counted.
  mutating func publish(from number: UInt64) {
    while published > number {
      published -= 1
      history.set(tallies[published] ?? .init(), readFor: published)
    }
    publishChanged()
  }

  mutating func publishChanged() {
    for number in changed { if let tally = tallies[number] { history.set(tally, readFor: number) } }
    changed = []
  }

  /// Takes completed payments of published points whose first event was not read.
  mutating func takeOpen(_ count: Int) -> [(PaymentID, Completion)] {
    defer { open = [:] }
    return open.filter { (published..<limit).contains($0.value.number) }.prefix(count).map { ($0.key, $0.value) }
  }
}
