/// How a call to a dependency ended, as far as processing needs to know.
public enum CallOutcome: Sendable, Hashable {
  /// The step is done; this command records it.
  case done(PaymentCommand)
  /// No response that decides: retry with the same key.
  case retry(CallRetry)
  /// The other side declines this very call (402). Decides, whatever happened before.
  case declined(reason: String)
  /// 400, 410 or 422: the payment is at fault. A certain refusal only while no earlier try of the step can have reached the
  /// other side: in response to a repeat it may mean that the first try was carried out.
  case refused(status: Int, reason: String)
  /// A retry can't help, and this call did nothing: a person has to look.
  case impossible(reason: String)
  /// The other side accepted the call, and its response can't be read: a person has to look.
  case unreadable(reason: String)
}

/// A call without a response that decides.
public struct CallRetry: Sendable, Hashable {
  public enum Cause: Sendable, Hashable, CaseIterable {
    /// No call was made, since the payment could not be read; or its outcome could not be appended.
    case notMade
    /// No connection could be made: nothing has reached the other side.
    case unreachable
    /// The call was sent, and no response came within the time limit.
    case timeout
    /// The connection broke after the call may have been sent, or the response can't be read.
    case broken
    /// 408 or 5xx: the other side may have carried the call out before it failed.
    case serverError
    /// 409, 423 or 425: another call with the same key, or about the same payment, is in progress. It may be an earlier call of
    /// ours.
    case inProgress
    /// 429: too many requests; this call did nothing.
    case busy
    /// 401 or 403: the other side rejects our credentials; this call did nothing.
    case credentials
    /// 404, 405, 413, 414 or 415: the address or the form of the call is wrong; this call did nothing.
    case misconfigured
    /// Another 4xx, which doesn't say whether the call was carried out.
    case unclear
  }

  public var cause: Cause
  /// For a person; without secrets.
  public var reason: String
  /// The shortest wait that the other side asks for (`Retry-After`).
  public var after: Duration?
  /// An earlier try of the step may have been carried out. Set by the code that makes the call.
  var isDoubtful = false
  /// The response may belong to no call, so it says nothing about this one.
  var isUnconfirmed = false
  /// The call's span. Set by the code that makes the call.
  var span: TraceParent?

  public init(_ cause: Cause, reason: String, after: Duration? = nil) {
    self.cause = cause
    self.reason = reason
    self.after = after
  }

  /// Whether the other side asks for a wait of at least this length.
  func asksForWait(_ length: Duration) -> Bool { after.map { $0 >= length } ?? false }

  /// Whether the other side may have carried out this call or an earlier one of the step.
  public var mayHaveHappened: Bool {
    switch cause {
    case .timeout, .broken, .serverError, .inProgress, .unclear: true
    case .busy, .credentials, .misconfigured: isUnconfirmed
    case .notMade, .unreachable: false
    }
  }

  /// Whether no payment's call would go through. Counts for the circuit breaker; no payment is parked for it.
  public var isOutage: Bool {
    switch cause {
    case .notMade, .unreachable, .timeout, .broken, .serverError, .credentials: true
    case .inProgress, .busy, .misconfigured, .unclear: false
    }
  }

  /// Whether the failure may concern this payment alone or all payments: the number of payments that get it decides, see
  /// ``Breakers``.
  var isJudgedByPayments: Bool { cause == .misconfigured || cause == .unclear }
}

/// Carries out steps of payments. An implementation sends the idempotency key ``idempotencyKey(_:_:)`` with every try, ends
/// the try after a time limit, and never throws.
public protocol StepProvider: Sendable {
  /// Makes one try. Returns soon when the task is cancelled, with any outcome.
  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome
}

/// The idempotency key of a payment's step. It names the intent, not the try: no number of tries has a second effect.
public func idempotencyKey(_ id: PaymentID, _ work: PaymentWork) -> String { "\(id):\(work)" }
