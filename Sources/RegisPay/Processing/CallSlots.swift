import DequeModule

/// Which calls may go out beside those that are out. First tries, repeats and payments that hang have shares of their own,
/// so that none starves another. A pure value; time comes in as an argument.
struct CallSlots: Sendable {
  typealias Instant = ContinuousClock.Instant

  /// What a call is, as far as it decides what it may take of the slots.
  enum Lane: Sendable, Hashable, CaseIterable {
    /// The payment's calls for the step have not failed yet.
    case first
    /// Every call that failed was answered: the next one is soon over too.
    case again
    /// A call was not answered in time, or the payment has waited on the log: it most likely takes all its time again.
    case patient
  }

  struct Limits: Sendable, Hashable {
    /// Calls out that began no longer ago than ``slowAfter``, first tries and repeats.
    var prompt: Int
    /// Of those, how many may be repeats.
    var again: Int
    /// Calls out for longer: so many take no slot from those that come. What is over it does.
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
  }

  let limits: Limits
  private var calls: [Int: Call] = [:]
  /// Calls that are not slow yet, in the order in which they began, with some among them that have ended.
  private var young: Deque<(number: Int, start: Instant)> = []
  private var nextNumber = 0
  private var youngCounts = (first: 0, again: 0)
  private var patientCount = 0
  /// Calls out for longer than ``Limits/slowAfter``, those for payments that have hung aside.
  private(set) var slowCount = 0

  init(limits: Limits) { self.limits = limits }

  var count: Int { calls.count }

  func hasRoom(_ lane: Lane) -> Bool {
    if lane == .patient { return patientCount < limits.patient }
    let taken = youngCounts.first + youngCounts.again + max(0, slowCount - limits.slow)
    return taken < limits.prompt && (lane == .first || youngCounts.again < limits.again)
  }

  /// How many more calls for payments that have hung may go out.
  var patientRoom: Int { limits.patient - patientCount }

  /// - Returns: the call's number, for ``end(_:)``.
  mutating func begin(_ lane: Lane, now: Instant) -> Int {
    defer { nextNumber += 1 }
    calls[nextNumber] = Call(lane: lane)
    count(lane, 1)
    if lane != .patient { young.append((nextNumber, now)) }
    return nextNumber
  }

  mutating func end(_ number: Int) {
    guard let call = calls.removeValue(forKey: number) else { return }
    if call.isSlow { slowCount -= 1 } else { count(call.lane, -1) }
    dropEnded()
  }

  /// Takes note of the calls that have become slow by now.
  mutating func age(to now: Instant) {
    while let first = young.first, first.start + limits.slowAfter <= now || calls[first.number] == nil {
      young.removeFirst()
      guard let call = calls[first.number] else { continue }
      count(call.lane, -1)
      calls[first.number]?.isSlow = true
      slowCount += 1
    }
  }

  /// When ``age(to:)`` may make room next; nil while no call is out that could.
  var nextAging: Instant? { young.first.map { $0.start + limits.slowAfter } }

  private mutating func dropEnded() {
    while let first = young.first, calls[first.number] == nil { young.removeFirst() }
  }

  private mutating func count(_ lane: Lane, _ change: Int) {
    switch lane {
    case .first: youngCounts.first += change
    case .again: youngCounts.again += change
    case .patient: patientCount += change
    }
  }
}
