/// What can be on a payment's stream. No reason has a secret in it.
public enum PaymentEvent: Sendable, Hashable {
  case initiated(PaymentID, Money)
  /// The PSP accepted the payment under its own reference.
  case created(reference: String)
  case settled
  /// The customer was notified; nothing is left to do.
  case completed
  /// The PSP said no.
  case declined(step: PaymentStep, reason: String)
  /// A person asked to cancel; the PSP is asked next.
  case cancellationRequested
  /// The PSP does not cancel the payment any more; it goes on.
  case cancellationRefused(reason: String)
  case cancelled
  /// A step was given up, with a reason a person can act on.
  ///
  /// - Parameter mayHaveHappened: false when it is known that no try did anything at the other side. Events of earlier
  ///   versions don't say, and are read as true.
  case failed(step: PaymentStep, reason: String, mayHaveHappened: Bool = true)
  /// A try failed, and the next one is some while away: the payment's consumer need not keep its place for it.
  case delayed(Delay)
  /// A person asked for another try of a step, or of this refund.
  case retried(PaymentStep, refund: Int?)
  /// A person asked for so much to go back; the number is the refund's, from 1.
  case refundRequested(Int, Money)
  case refunded(Int)
  case refundDeclined(Int, reason: String)
  /// A refund was given up. ``mayHaveHappened`` as with ``failed(step:reason:mayHaveHappened:)``.
  case refundFailed(Int, reason: String, mayHaveHappened: Bool = true)
  /// A try of this step may have been carried out, and no answer that decides is to be had: a person has to say.
  case outcomeUnknown(PaymentWork, reason: String)
  /// A person, or a late answer, said what became of it. The events that follow from this come with it.
  case outcomeResolved(PaymentWork, happened: Bool)
}

/// Until when a step of a payment waits, and what for.
public struct Delay: Sendable, Hashable {
  public var work: PaymentWork
  /// In microseconds since 1970.
  public var untilMicroseconds: UInt64
  /// Tries that have failed so far.
  public var attempts: Int
  /// Those of them that failed while others went through.
  public var ownFailures: Int
  /// Why the last one failed.
  public var reason: String
  /// One of the tries may have been carried out. Events of earlier versions don't say, and are read as true.
  public var mayHaveHappened: Bool
  /// The last try was not answered in time: the next one most likely takes as long. Events of earlier versions don't say,
  /// and are read as true.
  public var isUnanswered: Bool
  /// When it began to wait, by the same clock as ``untilMicroseconds``. Events of earlier versions don't say.
  public var beganMicroseconds: UInt64?

  public init(
    _ work: PaymentWork, untilMicroseconds: UInt64, attempts: Int, ownFailures: Int, reason: String,
    mayHaveHappened: Bool = true, isUnanswered: Bool = true, beganMicroseconds: UInt64? = nil
  ) {
    self.work = work
    self.untilMicroseconds = untilMicroseconds
    self.attempts = attempts
    self.ownFailures = ownFailures
    self.reason = reason
    self.mayHaveHappened = mayHaveHappened
    self.isUnanswered = isUnanswered
    self.beganMicroseconds = beganMicroseconds
  }
}

/// What has to be done for a payment, each step by a call to somebody else.
public enum PaymentStep: String, Sendable, Hashable, CaseIterable {
  case create
  case settle
  case cancel
  case notify
  case refund
}

/// A step of a payment, or of one of its refunds: what is called for, retried and given up by itself.
public struct PaymentWork: Sendable, Hashable, CustomStringConvertible {
  public let step: PaymentStep
  /// The refund's number; only with the step `refund`, and always with it.
  public let refund: Int?

  /// Nil if the one doesn't go with the other.
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
  /// What this event asks to be done next, at once.
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
