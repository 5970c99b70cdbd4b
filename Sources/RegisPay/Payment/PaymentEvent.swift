/// An event on a payment's stream. No reason holds a secret.
public enum PaymentEvent: Sendable, Hashable {
  case initiated(PaymentID, Money)
  /// The PSP accepted the payment under its own reference.
  case created(reference: String)
  case settled
  /// The customer was notified; the payment is complete.
  case completed
  /// The PSP declined.
  case declined(step: PaymentStep, reason: String)
  /// A person asked to cancel; the PSP is called next.
  case cancellationRequested
  /// The PSP does not cancel the payment any more; processing continues.
  case cancellationRefused(reason: String)
  case cancelled
  /// A step was parked, with a reason that a person can act on.
  ///
  /// - Parameter mayHaveHappened: false when it is known that no try had an effect at the other side. Events of earlier versions
  ///   lack it and are read as true.
  case failed(step: PaymentStep, reason: String, mayHaveHappened: Bool = true)
  /// A try failed, and the next one waits on the log: the consumer's checkpoint moves past the step.
  case delayed(Delay)
  /// A person retried a step, or this refund.
  case retried(PaymentStep, refund: Int?)
  /// A person requested a refund of this amount. The number is the refund's, from 1.
  case refundRequested(Int, Money)
  case refunded(Int)
  case refundDeclined(Int, reason: String)
  /// A refund was parked. `mayHaveHappened` as with ``failed(step:reason:mayHaveHappened:)``.
  case refundFailed(Int, reason: String, mayHaveHappened: Bool = true)
  /// A try of this step may have been carried out, and no response that decides will come: a person has to say what happened.
  case outcomeUnknown(PaymentWork, reason: String)
  /// A person or a late response said what happened. The same append holds the events that follow.
  case outcomeResolved(PaymentWork, happened: Bool)
}

/// A step's wait on the log: until when, and why.
public struct Delay: Sendable, Hashable {
  public var work: PaymentWork
  /// The end of the wait, in microseconds since 1970.
  public var untilMicroseconds: UInt64
  /// Failed tries so far.
  public var attempts: Int
  /// Those of them that failed while others' calls succeeded.
  public var ownFailures: Int
  /// Why the last try failed.
  public var reason: String
  /// A try may have been carried out. Events of earlier versions lack it and are read as true.
  public var mayHaveHappened: Bool
  /// The last try timed out: the next one most likely takes as long. Events of earlier versions lack it and are read as true.
  /// On the log it is `unanswered`.
  public var didTimeOut: Bool
  /// The start of the wait, by the same clock as ``untilMicroseconds``. Events of earlier versions lack it.
  public var beganMicroseconds: UInt64?

  public init(
    _ work: PaymentWork, untilMicroseconds: UInt64, attempts: Int, ownFailures: Int, reason: String,
    mayHaveHappened: Bool = true, didTimeOut: Bool = true, beganMicroseconds: UInt64? = nil
  ) {
    self.work = work
    self.untilMicroseconds = untilMicroseconds
    self.attempts = attempts
    self.ownFailures = ownFailures
    self.reason = reason
    self.mayHaveHappened = mayHaveHappened
    self.didTimeOut = didTimeOut
    self.beganMicroseconds = beganMicroseconds
  }
}

/// A step of a payment. Each is one call to a dependency.
public enum PaymentStep: String, Sendable, Hashable, CaseIterable {
  case create
  case settle
  case cancel
  case notify
  case refund
}

/// A step of a payment, or of one of its refunds: the unit that is called, retried and parked.
public struct PaymentWork: Sendable, Hashable, CustomStringConvertible {
  public let step: PaymentStep
  /// The refund's number; set exactly for the step `refund`.
  public let refund: Int?

  /// Nil when the step needs a number that is missing, or has one that it must not have.
  init?(_ step: PaymentStep, refund: Int?) {
    guard (step == .refund) == (refund != nil) else { return nil }
    self.step = step
    self.refund = refund
  }

  /// - Parameter step: any but `refund`.
  public init(_ step: PaymentStep) {
    precondition(step != .refund, "a refund has a number")
    self.step = step
    self.refund = nil
  }

  public init(refund number: Int) {
    self.step = .refund
    self.refund = number
  }

  /// Such as `settle` or `refund:2`.
  public var description: String { refund.map { "\(step.rawValue):\($0)" } ?? step.rawValue }
}

extension PaymentEvent {
  /// The work that this event requests, at once; nil for none.
  public var work: PaymentWork? {
    switch self {
    case .initiated: PaymentWork(.create)
    case .created, .cancellationRefused: PaymentWork(.settle)
    case .settled: PaymentWork(.notify)
    case .cancellationRequested: PaymentWork(.cancel)
    case .refundRequested(let number, _): PaymentWork(refund: number)
    case .retried(let step, let refund): refund.map(PaymentWork.init(refund:)) ?? PaymentWork(step)
    case .completed, .declined, .cancelled, .failed, .delayed, .refunded, .refundDeclined, .refundFailed,
      .outcomeUnknown, .outcomeResolved:
      nil
    }
  }
}
