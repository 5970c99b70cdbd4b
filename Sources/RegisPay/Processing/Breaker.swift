import Synchronization

/// Keeps calls away from a dependency that is down: after `failureLimit` failures in a row it is open for
/// `openDuration`, then lets one trial through, whose outcome closes it or opens it again.
///
/// A payment that fails for a reason of its own looks the same as an outage while nobody else calls. So as long as fewer
/// than `failureLimit` payments have failed, one that was not tried yet is a trial at once.
///
/// Safe to use from any task.
public final class Breaker: Sendable {
  public struct Options: Sendable {
    public var failureLimit: Int
    public var openDuration: Duration

    public init(failureLimit: Int = 5, openDuration: Duration = .seconds(30)) {
      self.failureLimit = failureLimit
      self.openDuration = openDuration
    }
  }

  public enum State: Sendable, Hashable {
    case closed
    case open(until: ContinuousClock.Instant)
    /// One call is under way to see whether the dependency is back.
    case trying
  }

  enum Admission: Sendable, Hashable {
    /// Make the call, and report its outcome with this pass.
    case pass(Pass)
    /// Ask again then.
    case wait(until: ContinuousClock.Instant)
  }

  /// Which period of the breaker a call was made in: outcomes of calls from an earlier one say nothing about now.
  struct Pass: Sendable, Hashable {
    fileprivate let period: Int
    /// The one call that goes out while the breaker is not closed.
    let isTrial: Bool
  }

  private struct Inside {
    var state = State.closed
    var failures = 0
    var period = 0
    /// Payments that have failed since a call went through, no more than the limit.
    var failing: Set<PaymentID> = []
  }

  public let name: String
  private let options: Options
  private let inside = Mutex(Inside())

  /// - Parameter name: the dependency, for logs.
  public init(name: String, options: Options = .init()) {
    self.name = name
    self.options = options
  }

  public var state: State { inside.withLock { $0.state } }

  /// How soon to ask again while a trial is under way; bounds what a consumer loses after the trial has succeeded.
  private static let trialPoll = Duration.milliseconds(50)

  /// - Parameter hasUntried: there is a payment to call for that was not tried yet; a trial is to be that one.
  func admit(hasUntried: Bool, now: ContinuousClock.Instant) -> Admission {
    inside.withLock { inside in
      switch inside.state {
      case .closed: return .pass(Pass(period: inside.period, isTrial: false))
      case .open(let until) where now < until && !(hasUntried && inside.failing.count < options.failureLimit):
        return .wait(until: until)
      case .open:
        inside.state = .trying
        inside.period += 1
        return .pass(Pass(period: inside.period, isTrial: true))
      case .trying: return .wait(until: now + Self.trialPoll)
      }
    }
  }

  /// The call was answered, whatever the answer.
  func succeeded(_ pass: Pass) {
    inside.withLock { inside in
      guard pass.period == inside.period else { return }
      inside.failures = 0
      inside.failing = []
      inside.state = .closed
    }
  }

  /// The call was not answered, or with an error of the server.
  ///
  /// - Returns: true when this opened the breaker.
  func failed(_ pass: Pass, by payment: PaymentID, now: ContinuousClock.Instant) -> Bool {
    inside.withLock { inside in
      guard pass.period == inside.period else { return false }
      inside.failures += 1
      if inside.failing.count < options.failureLimit { inside.failing.insert(payment) }
      guard inside.state == .trying || inside.failures >= options.failureLimit else { return false }
      inside.state = .open(until: now + options.openDuration)
      inside.failures = 0
      inside.period += 1
      return true
    }
  }

  /// The call was given up by us before it had an outcome. A trial leaves its place to another call.
  func abandoned(_ pass: Pass, now: ContinuousClock.Instant) {
    inside.withLock { inside in
      guard pass.period == inside.period, inside.state == .trying else { return }
      inside.state = .open(until: now)
      inside.period += 1
    }
  }
}
