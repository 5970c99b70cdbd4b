import DequeModule

/// Decides which calls may start beside those in flight. First tries, retries and payments that hang have shares of their own,
/// so that none starves another. A pure value; the caller passes the time.
///
/// Only time tells a call that hangs from one whose response is about to come: after ``Limits/slowAfter`` a call is slow and
/// frees its slot. Up to ``Limits/slow`` slow calls may take as long as they need. More are abandoned when others wait, the
/// youngest first, as long as the dependency accepts other calls promptly. A dependency that is slow for all calls does respond
/// to each, and abandoning calls would only add repeats. The two can't be told apart while all calls in flight hang: then a few
/// are abandoned from time to time, to see whether others get through.
struct CallSlots: Sendable {
  typealias Instant = ContinuousClock.Instant

  /// Which share of the slots a call uses.
  enum Lane: Sendable, Hashable, CaseIterable {
    /// No call of the payment's step has failed yet.
    case first
    /// Calls have failed, and none timed out (for work from the log: the last one did not): the next one ends soon too.
    case retry
    /// A call has timed out: the next one most likely takes all its time again.
    case timedOut

    /// The kind of work from the log that uses the lane; nil for none.
    var didTimeOut: Bool? {
      switch self {
      case .first: nil
      case .retry: false
      case .timedOut: true
      }
    }
  }

  struct Limits: Sendable, Hashable {
    /// Calls in flight for at most ``slowAfter``, first tries and retries.
    var prompt: Int
    /// The share of retries in ``prompt``.
    var retry: Int
    /// Calls in flight for longer that take no slot from others. Slow calls beyond this number do, until they are abandoned.
    var slow: Int
    /// Calls for payments that have timed out before.
    var timedOut: Int
    var slowAfter: Duration

    /// - Parameter callLimit: calls in flight that are neither slow nor for payments that have timed out.
    init(callLimit: Int, slowAfter: Duration) {
      prompt = callLimit
      retry = max(1, callLimit / 4)
      slow = 2 * callLimit
      timedOut = max(1, callLimit / 4)
      self.slowAfter = slowAfter
    }

    /// The most calls in flight.
    var total: Int { prompt + slow + timedOut }
  }

  private struct Call {
    var lane: Lane
    var isSlow = false
    var isAbandoned = false
  }

  let limits: Limits
  private var calls: [Int: Call] = [:]
  /// Calls that are not slow yet, in the order of their starts; some may have ended.
  private var young: Deque<(number: Int, start: Instant)> = []
  /// Slow calls that were not abandoned, in the order of their starts; some may have ended.
  private var slow: [Int] = []
  private var abandonedCount = 0
  private var nextNumber = 0
  private var youngCounts = (first: 0, retry: 0)
  private var timedOutCount = 0
  /// Calls in flight for longer than ``Limits/slowAfter``, without those for payments that have timed out.
  private(set) var slowCount = 0
  /// When a call was last accepted before it was slow.
  private var lastPrompt: Instant?
  /// When calls were last abandoned only to see whether others get through.
  private var lastProbe: Instant?
  /// How long after a prompt acceptance slow calls may be abandoned.
  private static let promptMemory = Duration.seconds(5)

  init(limits: Limits) { self.limits = limits }

  var count: Int { calls.count }

  func hasRoom(_ lane: Lane) -> Bool {
    if lane == .timedOut { return timedOutCount < limits.timedOut }
    let taken = youngCounts.first + youngCounts.retry + max(0, slowCount - limits.slow)
    return taken < limits.prompt && (lane == .first || youngCounts.retry < limits.retry)
  }

  /// How many more calls for payments that have timed out may start.
  var timedOutRoom: Int { limits.timedOut - timedOutCount }

  /// - Returns: the call's number, for ``end(_:isAccepted:now:)``.
  mutating func begin(_ lane: Lane, now: Instant) -> Int {
    defer { nextNumber += 1 }
    calls[nextNumber] = Call(lane: lane)
    count(lane, 1)
    if lane != .timedOut { young.append((nextNumber, now)) }
    return nextNumber
  }

  /// - Parameter isAccepted: the other side has carried out the call.
  mutating func end(_ number: Int, isAccepted: Bool, now: Instant) {
    guard let call = calls.removeValue(forKey: number) else { return }
    if isAccepted, !call.isSlow, call.lane != .timedOut { lastPrompt = now }
    if call.isSlow { slowCount -= 1 } else { count(call.lane, -1) }
    if call.isAbandoned { abandonedCount -= 1 }
    dropEnded()
  }

  /// Chooses the calls to abandon for others that wait. Their slots are free once they have ended.
  ///
  /// - Parameter waiting: the number of calls that wait for a slot.
  /// - Returns: the numbers of the calls to end.
  mutating func abandon(for waiting: Int, now: Instant) -> [Int] {
    var most = min(waiting, slowCount - limits.slow) - abandonedCount
    guard most > 0 else { return [] }
    let isPrompt = lastPrompt.map { now < $0 + Self.promptMemory } ?? false
    if !isPrompt {
      if let nextProbe, now < nextProbe { return [] }
      lastProbe = now
      most = min(most, max(1, limits.prompt / 64))
    }
    var numbers: [Int] = []
    while numbers.count < most, let number = slow.popLast() {
      guard calls[number] != nil else { continue }
      calls[number]?.isAbandoned = true
      abandonedCount += 1
      numbers.append(number)
    }
    return numbers
  }

  /// Marks the calls that have become slow.
  mutating func age(to now: Instant) {
    while let first = young.first, first.start + limits.slowAfter <= now || calls[first.number] == nil {
      young.removeFirst()
      guard let call = calls[first.number] else { continue }
      count(call.lane, -1)
      calls[first.number]?.isSlow = true
      slow.append(first.number)
      slowCount += 1
    }
  }

  /// When ``age(to:)`` may make room next; nil while no call in flight could.
  var nextAging: Instant? { young.first.map { $0.start + limits.slowAfter } }

  /// When ``abandon(for:now:)`` may choose calls again although none was accepted promptly.
  var nextProbe: Instant? { lastProbe.map { $0 + limits.slowAfter } }

  private mutating func dropEnded() {
    while let first = young.first, calls[first.number] == nil { young.removeFirst() }
    // Swept when ended calls are the majority, so that a sweep costs no more than the ends before it.
    if slow.count > 2 * slowCount + 64 { slow.removeAll { calls[$0] == nil } }
  }

  private mutating func count(_ lane: Lane, _ change: Int) {
    switch lane {
    case .first: youngCounts.first += change
    case .retry: youngCounts.retry += change
    case .timedOut: timedOutCount += change
    }
  }
}
