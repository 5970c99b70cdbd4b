import DequeModule

/// Which calls may go out beside those that are out. First tries, repeats and payments that hang have shares of their own,
/// so that none starves another. A pure value; time comes in as an argument.
///
/// A call that hangs can't be told from one that is about to be answered, except by time: after ``Limits/slowAfter`` it
/// leaves its slot to others. So many are let be for as long as they take; what becomes slow beyond that is given up when
/// others wait, the youngest first, as long as the dependency accepts other calls promptly. One that is slow for everybody
/// answers each, and to give calls up would only add repeats. Which of the two it is can't be known while nothing but hanging
/// calls is out: then a few are given up from time to time, to see whether others get through.
struct CallSlots: Sendable {
  typealias Instant = ContinuousClock.Instant

  /// What a call is, as far as it decides what it may take of the slots.
  enum Lane: Sendable, Hashable, CaseIterable {
    /// The payment's calls for the step have not failed yet.
    case first
    /// Every call that failed was answered, or, of what has waited on the log, the last one: the next is soon over too.
    case again
    /// A call was not answered in time: the next most likely takes all its time again.
    case patient

    /// The kind of work on the log that is called for in the lane; nil if none is.
    var isUnanswered: Bool? {
      switch self {
      case .first: nil
      case .again: false
      case .patient: true
      }
    }
  }

  struct Limits: Sendable, Hashable {
    /// Calls out that began no longer ago than ``slowAfter``, first tries and repeats.
    var prompt: Int
    /// Of those, how many may be repeats.
    var again: Int
    /// Calls out for longer: so many take no slot from those that come. What is over it does, until it is given up.
    var slow: Int
    /// Calls for payments that have hung before.
    var patient: Int
    var slowAfter: Duration

    /// By how many calls may be out that are neither slow nor for payments that have hung.
    init(callLimit: Int, slowAfter: Duration) {
      prompt = callLimit
      again = max(1, callLimit / 4)
      slow = 2 * callLimit
      patient = max(1, callLimit / 4)
      self.slowAfter = slowAfter
    }

    /// The most calls that are out at once.
    var total: Int { prompt + slow + patient }
  }

  private struct Call {
    var lane: Lane
    var isSlow = false
    var isGivenUp = false
  }

  let limits: Limits
  private var calls: [Int: Call] = [:]
  /// Calls that are not slow yet, in the order in which they began, with some among them that have ended.
  private var young: Deque<(number: Int, start: Instant)> = []
  /// Slow calls that were not given up, in the order in which they began, with some among them that have ended.
  private var slow: [Int] = []
  private var givenUpCount = 0
  private var nextNumber = 0
  private var youngCounts = (first: 0, again: 0)
  private var patientCount = 0
  /// Calls out for longer than ``Limits/slowAfter``, those for payments that have hung aside.
  private(set) var slowCount = 0
  /// When a call was last accepted before it was slow.
  private var lastPrompt: Instant?
  /// When calls were last given up only to see whether others get through.
  private var lastProbe: Instant?
  /// How long after that calls are given up.
  private static let promptMemory = Duration.seconds(5)

  init(limits: Limits) { self.limits = limits }

  var count: Int { calls.count }

  func hasRoom(_ lane: Lane) -> Bool {
    if lane == .patient { return patientCount < limits.patient }
    let taken = youngCounts.first + youngCounts.again + max(0, slowCount - limits.slow)
    return taken < limits.prompt && (lane == .first || youngCounts.again < limits.again)
  }

  /// How many more calls for payments that have hung may go out.
  var patientRoom: Int { limits.patient - patientCount }

  /// - Returns: the call's number, for ``end(_:isAccepted:now:)``.
  mutating func begin(_ lane: Lane, now: Instant) -> Int {
    defer { nextNumber += 1 }
    calls[nextNumber] = Call(lane: lane)
    count(lane, 1)
    if lane != .patient { young.append((nextNumber, now)) }
    return nextNumber
  }

  /// - Parameter isAccepted: the other side has carried it out.
  mutating func end(_ number: Int, isAccepted: Bool, now: Instant) {
    guard let call = calls.removeValue(forKey: number) else { return }
    if isAccepted, !call.isSlow, call.lane != .patient { lastPrompt = now }
    if call.isSlow { slowCount -= 1 } else { count(call.lane, -1) }
    if call.isGivenUp { givenUpCount -= 1 }
    dropEnded()
  }

  /// Names the calls that are to be given up for others that wait, and takes note of it. Their slots are free once they
  /// have ended.
  ///
  /// - Parameter waiting: how many others wait for a slot.
  mutating func giveUp(for waiting: Int, now: Instant) -> [Int] {
    var most = min(waiting, slowCount - limits.slow) - givenUpCount
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
      calls[number]?.isGivenUp = true
      givenUpCount += 1
      numbers.append(number)
    }
    return numbers
  }

  /// Takes note of the calls that have become slow by now.
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

  /// When ``age(to:)`` may make room next; nil while no call is out that could.
  var nextAging: Instant? { young.first.map { $0.start + limits.slowAfter } }

  /// When ``giveUp(for:now:)`` may name calls again, though none was accepted promptly.
  var nextProbe: Instant? { lastProbe.map { $0 + limits.slowAfter } }

  private mutating func dropEnded() {
    while let first = young.first, calls[first.number] == nil { young.removeFirst() }
    // Swept when ended ones are most of it, so that a sweep costs no more than the ends before it.
    if slow.count > 2 * slowCount + 64 { slow.removeAll { calls[$0] == nil } }
  }

  private mutating func count(_ lane: Lane, _ change: Int) {
    switch lane {
    case .first: youngCounts.first += change
    case .again: youngCounts.again += change
    case .patient: patientCount += change
    }
  }
}
