import Synchronization

/// A circuit breaker: keeps calls away from a dependency that is down. It opens when calls fail in a row and none succeeds, stays
/// open for `openDuration`, then lets one trial call through, whose outcome closes it or opens it again.
///
/// A failure is *in a row* only if its call started after the last success was received: time-outs that arrive together began
/// long before and say nothing about the time since. While some calls succeed and others fail, the breaker stays closed, since
/// it would hold up both. So it opens when
/// - at least `failureLimit` calls have failed in a row, or more if that many can be chance: where a fifth of the calls always
///   fails, five in a row come every few minutes, and thirteen in a row hardly ever;
/// - and nothing has succeeded for `quietDuration` since the first of them began.
///
/// While no other payment calls, a payment that fails for a reason of its own looks like an outage. So as long as fewer than
/// `failureLimit` payments have failed, the first call of an untried payment is a trial at once.
///
/// Safe to use from any task.
public final class Breaker: Sendable {
  public typealias Instant = ContinuousClock.Instant

  public struct Options: Sendable {
    /// Failures in a row that open the breaker.
    public var failureLimit: Int
    public var openDuration: Duration
    /// The breaker opens only when no call has succeeded for this long.
    public var quietDuration: Duration

    public init(
      failureLimit: Int = 5, openDuration: Duration = .seconds(30), quietDuration: Duration = .seconds(1)
    ) {
      self.failureLimit = failureLimit
      self.openDuration = openDuration
      self.quietDuration = quietDuration
    }
  }

  /// What counts towards `failureLimit`.
  enum Counting: Sendable {
    /// Each failure.
    case failures
    /// Each payment that has failed, however often.
    case payments
  }

  public enum State: Sendable, Hashable {
    case closed
    case open(until: Instant)
    /// A trial call is in flight (half-open).
    case trying
  }

  enum Admission: Sendable, Hashable {
    /// Make the call and report its outcome with this pass.
    case pass(Pass)
    /// Ask again at this time.
    case wait(until: Instant)
  }

  /// The breaker's period in which a call was made: outcomes from an earlier period say nothing about the present.
  struct Pass: Sendable, Hashable {
    fileprivate let period: Int
    fileprivate let start: Instant
    /// The only call that goes out while the breaker is not closed.
    let isTrial: Bool
  }

  /// What a failure means.
  struct Judgement: Sendable, Hashable {
    /// The failure opened the breaker.
    var didOpen: Bool
    /// Enough payments have failed, and none has succeeded since, that this payment is not at fault.
    var isOutage: Bool
  }

  private struct Internals {
    var state = State.closed
    var period = 0
    var lastSuccess: Instant?
    /// Failures in a row.
    var row = 0
    /// When the first call of the row began.
    var rowStart: Instant?
    /// Payments with a failure in the row; no more than the limit needs.
    var failing: Set<PaymentID> = []
    /// Failures since the last success, in a row or not.
    var failuresSinceSuccess = 0
    /// The share of recent calls that failed, without outages.
    var failureShare = 0.0
    var reason: String?
    /// Times that failures opened the breaker, failed trials included.
    var openings: UInt64 = 0

    mutating func open(until end: Instant) {
      state = .open(until: end)
      period += 1
      (row, rowStart, failuresSinceSuccess) = (0, nil, 0)
    }
  }

  public let name: String
  let options: Options
  private let counting: Counting
  private let internals = Mutex(Internals())

  /// - Parameter name: of the dependency, for logs.
  public convenience init(name: String, options: Options = .init()) {
    self.init(name: name, options: options, counting: .failures)
  }

  init(name: String, options: Options, counting: Counting) {
    self.name = name
    self.options = options
    self.counting = counting
  }

  public var state: State { internals.withLock { $0.state } }

  /// Times that failures opened it, failed trials included.
  var openings: UInt64 { internals.withLock { $0.openings } }

  /// The state, and why the last call failed; the reason is nil while the breaker is closed.
  var status: (state: State, reason: String?) {
    internals.withLock { ($0.state, $0.state == .closed ? nil : $0.reason) }
  }

  /// How soon to ask again while a trial is in flight. Bounds the time that a consumer loses after the trial has succeeded.
  private static let trialPoll = Duration.milliseconds(50)
  /// The weight of one outcome in ``Internals/failureShare``.
  private static let outcomeWeight = 1.0 / 128
  /// A row of failures that is more probable than this may be chance.
  private static let chance = 1e-9
  /// The longest row that is ever needed, in multiples of the limit, however many calls always fail.
  private static let longestRow = 6

  /// - Parameter hasUntried: an untried payment waits for a call; the caller makes it the trial.
  func admit(hasUntried: Bool, now: Instant) -> Admission {
    internals.withLock { internals in
      switch internals.state {
      case .closed: return .pass(Pass(period: internals.period, start: now, isTrial: false))
      case .open(let until) where now < until && !(hasUntried && internals.failing.count < options.failureLimit):
        return .wait(until: until)
      case .open:
        internals.state = .trying
        internals.period += 1
        return .pass(Pass(period: internals.period, start: now, isTrial: true))
      case .trying: return .wait(until: now + Self.trialPoll)
      }
    }
  }

  /// Ends the wait of an open breaker: the next call is the trial. A person asks for it, who knows that the dependency is back.
  func tryNow(_ now: Instant) {
    internals.withLock { internals in
      if case .open = internals.state { internals.state = .open(until: now) }
    }
  }

  /// Reports that the call got a response, whatever it says.
  func succeeded(_ pass: Pass, now: Instant) {
    internals.withLock { internals in
      guard pass.period == internals.period else { return }
      for _ in 0..<min(internals.failuresSinceSuccess, 1_000) {
        internals.failureShare += (1 - internals.failureShare) * Self.outcomeWeight
      }
      internals.failureShare -= internals.failureShare * Self.outcomeWeight
      internals.lastSuccess = now
      (internals.row, internals.rowStart, internals.failing, internals.failuresSinceSuccess) = (0, nil, [], 0)
      internals.state = .closed
    }
  }

  /// Reports that the call got no response, or a server error.
  func failed(_ pass: Pass, by payment: PaymentID, reason: String, now: Instant) -> Judgement {
    internals.withLock { internals in
      let needed = needed(internals)
      guard pass.period == internals.period else {
        return Judgement(didOpen: false, isOutage: internals.failing.count >= needed)
      }
      internals.reason = reason
      internals.failuresSinceSuccess += 1
      if pass.isTrial || internals.lastSuccess.map({ pass.start >= $0 }) ?? true {
        internals.row += 1
        internals.rowStart = min(internals.rowStart ?? pass.start, pass.start)
        if internals.failing.count < needed { internals.failing.insert(payment) }
      }
      let isOutage = internals.failing.count >= needed
      let count = counting == .failures ? internals.row : internals.failing.count
      let isQuiet = internals.rowStart.map { now - $0 >= options.quietDuration } ?? false
      guard internals.state == .trying || (count >= needed && isQuiet) else {
        return Judgement(didOpen: false, isOutage: isOutage)
      }
      internals.open(until: now + options.openDuration)
      internals.openings += 1
      return Judgement(didOpen: true, isOutage: isOutage)
    }
  }

  /// Reports that we ended the call before it had an outcome, or that its outcome says nothing here. After a trial, another call
  /// becomes the trial.
  func abandoned(_ pass: Pass, now: Instant) {
    internals.withLock { internals in
      guard pass.period == internals.period, internals.state == .trying else { return }
      internals.open(until: now)
    }
  }

  /// How many failures in a row are too many for chance, given the share of recent calls that failed.
  private func needed(_ internals: Internals) -> Int {
    var count = 1
    var chance = internals.failureShare
    while chance > Self.chance, count < Self.longestRow * options.failureLimit {
      chance *= internals.failureShare
      count += 1
    }
    return max(count, options.failureLimit)
  }
}
