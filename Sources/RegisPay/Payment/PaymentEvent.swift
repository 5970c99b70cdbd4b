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
  case failed(step: PaymentStep, reason: String)
  /// A person asked for another try of a step, or of this refund.
  case retried(PaymentStep, refund: Int?)
  /// A person asked for so much to go back; the number is the refund's, from 1.
  case refundRequested(Int, Money)
  case refunded(Int)
  case refundDeclined(Int, reason: String)
  /// A refund was given up, and may have gone through or not.
  case refundFailed(Int, reason: String)
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
  /// What this event asks to be done next.
  public var work: PaymentWork? {
    switch self {
    case .initiated: PaymentWork(.create)
    case .created, .cancellationRefused: PaymentWork(.settle)
    case .settled: PaymentWork(.notify)
    case .cancellationRequested: PaymentWork(.cancel)
    case .refundRequested(let number, _): PaymentWork(refund: number)
    case .retried(let step, let refund): refund.map(PaymentWork.init(refund:)) ?? PaymentWork(step)
    case .completed, .declined, .cancelled, .failed, .refunded, .refundDeclined, .refundFailed: nil
    }
  }
}
