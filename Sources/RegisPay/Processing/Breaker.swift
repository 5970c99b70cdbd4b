import Synchronization

/// Keeps calls away from a dependency that is down: it opens when calls fail in a row and none succeeds, stays open for
/// `openDuration`, then lets one trial through, whose outcome closes it or opens it again.
///
/// A failure is *in a row* only if its call started after the last success was received: time-outs that arrive together
/// began long before, and say nothing about what has happened since. While some calls succeed and others don't, the
/// breaker stays closed, since it would hold up both. So it opens when
/// - at least `failureLimit` calls have failed in a row, or more if so many can be chance: where a fifth of the calls
///   fails all the time, five in a row come every few minutes, and thirteen in a row hardly ever;
/// - and nothing has succeeded for `quietDuration` since the first of them began.
///
/// A payment that fails for a reason of its own looks the same as an outage while nobody else calls. So as long as fewer
/// than `failureLimit` payments have failed, one that was not tried yet is a trial at once.
///
/// Safe to use from any task.
public final class Breaker: Sendable {
  public typealias Instant = ContinuousClock.Instant

  public struct Options: Sendable {
    /// Failures in a row that open it.
    public var failureLimit: Int
    public var openDuration: Duration
    /// How long nothing may have succeeded before it opens.
    public var quietDuration: Duration

    public init(
      failureLimit: Int = 5, openDuration: Duration = .seconds(30), quietDuration: Duration = .seconds(1)
    ) {
      self.failureLimit = failureLimit
      self.openDuration = openDuration
      self.quietDuration = quietDuration
    }
  }

  /// What adds up to `failureLimit`.
  enum Counting: Sendable {
    /// Every failure.
    case failures
    /// Payments that have failed, however often each.
    case payments
  }

  public enum State: Sendable, Hashable {
    case closed
    case open(until: Instant)
    /// One call is out to see whether the dependency is back.
    case trying
  }

  enum Admission: Sendable, Hashable {
    /// Make the call, and report its outcome with this pass.
    case pass(Pass)
    /// Ask again then.
    case wait(until: Instant)
  }

  /// Which period of the breaker a call was made in: outcomes of calls from an earlier one say nothing about now.
  struct Pass: Sendable, Hashable {
    fileprivate let period: Int
    fileprivate let start: Instant
    /// The one call that goes out while the breaker is not closed.
    let isTrial: Bool
  }

  /// What a failure means.
  struct Judgement: Sendable, Hashable {
    /// It opened the breaker.
    var didOpen: Bool
    /// So many payments have failed, and none got through since, that it is not this one's fault.
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
    /// Payments with a failure in the row, no more than can be needed.
    var failing: Set<PaymentID> = []
    /// Failures since the last success, in a row or not.
    var failuresSinceSuccess = 0
    /// How much of what was called lately has failed, outages aside.
    var failureShare = 0.0
    var reason: String?

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

  /// - Parameter name: the dependency, for logs.
  public convenience init(name: String, options: Options = .init()) {
    self.init(name: name, options: options, counting: .failures)
  }

  init(name: String, options: Options, counting: Counting) {
    self.name = name
    self.options = options
    self.counting = counting
  }

  public var state: State { internals.withLock { $0.state } }

  /// The state, and why the last call failed; nil while it is closed.
  var status: (state: State, reason: String?) {
    internals.withLock { ($0.state, $0.state == .closed ? nil : $0.reason) }
  }

  /// How soon to ask again while a trial is out; bounds what a consumer loses after the trial has succeeded.
  private static let trialPoll = Duration.milliseconds(50)
  /// The weight of one outcome in ``Internals/failureShare``.
  private static let outcomeWeight = 1.0 / 128
  /// A row of failures that is more probable than this may be chance.
  private static let chance = 1e-9
  /// However many calls fail all the time, no row has to be longer than this many times the limit.
  private static let longestRow = 6

  /// - Parameter hasUntried: there is a payment to call for that was not tried yet; a trial is to be that one.
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

  /// The call was answered, whatever the answer.
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

  /// The call was not answered, or with an error of the server.
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
      return Judgement(didOpen: true, isOutage: isOutage)
    }
  }

  /// The call was given up by us before it had an outcome, or its outcome says nothing here. A trial leaves its place to
  /// another call.
  func abandoned(_ pass: Pass, now: Instant) {
    internals.withLock { internals in
      guard pass.period == internals.period, internals.state == .trying else { return }
      internals.open(until: now)
    }
  }

  /// How many failures in a row are no chance, as calls have failed lately.
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
