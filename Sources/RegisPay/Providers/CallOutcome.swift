/// How a call to a dependency ended, as far as processing has to know.
public enum CallOutcome: Sendable, Hashable {
  /// What it did, recorded by this command.
  case done(PaymentCommand)
  /// No answer that decides: ask again with the same key.
  case retry(CallRetry)
  /// The other side says no to this very call, in so many words (402). Decides, whatever went before.
  case declined(reason: String)
  /// 400, 410 or 422: about the payment. A certain no only while no earlier try of the step can have reached the other
  /// side: to a repeat it may mean that the first try was carried out.
  case refused(status: Int, reason: String)
  /// Asking again will not help, and this call did nothing: somebody has to look.
  case impossible(reason: String)
  /// It was accepted, and what came of it can't be told: somebody has to look.
  case unreadable(reason: String)
}

/// A call without an answer that decides.
public struct CallRetry: Sendable, Hashable {
  /// What stood in the way.
  public enum Cause: Sendable, Hashable, CaseIterable {
    /// No call was made: the payment could not be read, or what came of it could not be appended.
    case notMade
    /// No connection could be made: nothing has reached the other side.
    case unreachable
    /// The call was sent, and its answer did not come within the time limit.
    case noAnswer
    /// The connection broke after the call may have been sent, or what came back can't be read.
    case broken
    /// 408 or 5xx: the other side may have carried the call out before it failed.
    case serverError
    /// 409, 423 or 425: another call with the same key, or about the same payment, holds it. Not now; that call may be
    /// ours.
    case inProgress
    /// 429: not now; this call did nothing.
    case busy
    /// 401 or 403: our credentials are not accepted; this call did nothing.
    case credentials
    /// 404, 405, 413, 414 or 415: about the address or the form of the call; this call did nothing.
    case misconfigured
    /// Another 4xx: it doesn't say whether the call was carried out.
    case unclear
  }

  public var cause: Cause
  /// For a person; without secrets.
  public var reason: String
  /// The least time to wait, as the other side asked (`Retry-After`).
  public var after: Duration?
  /// An earlier try of the step may have been carried out; known to who made the call.
  var isDoubtful = false

  public init(_ cause: Cause, reason: String, after: Duration? = nil) {
    self.cause = cause
    self.reason = reason
    self.after = after
  }

  /// The other side asked for a wait of at least this length.
  func asksForWait(_ length: Duration) -> Bool { after.map { $0 >= length } ?? false }

  /// The other side may have carried this call out, or an earlier one of the step.
  public var mayHaveHappened: Bool {
    switch cause {
    case .noAnswer, .broken, .serverError, .inProgress, .unclear: true
    case .notMade, .unreachable, .busy, .credentials, .misconfigured: false
    }
  }

  /// Nobody's call would go through: it counts for the circuit breaker, and no payment is given up for it.
  public var isOutage: Bool {
    switch cause {
    case .notMade, .unreachable, .noAnswer, .broken, .serverError, .credentials: true
    case .inProgress, .busy, .misconfigured, .unclear: false
    }
  }

  /// An answer that may be this payment's alone or everybody's: how many payments get it tells which, see ``Breakers``.
  var isJudgedByPayments: Bool { cause == .misconfigured || cause == .unclear }
}

/// Somebody who carries out a step of a payment. Implementations send the idempotency key ``idempotencyKey(_:_:)`` with
/// every try and give up after a time limit; they never throw.
public protocol StepProvider: Sendable {
  /// Makes one try. When the task is cancelled it returns soon, with any outcome.
  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome
}

/// The key of a payment's step: of the intent, not of the try, so that no number of tries has a second effect.
public func idempotencyKey(_ id: PaymentID, _ work: PaymentWork) -> String { "\(id):\(work)" }
