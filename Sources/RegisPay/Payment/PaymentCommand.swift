/// What is asked of a payment: by a person, or by whoever carried out a step.
public enum PaymentCommand: Sendable, Hashable {
  /// The PSP accepted the payment under this reference.
  case recordCreated(reference: String)
  /// The PSP accepted the settlement.
  case recordSettled
  /// The notification was accepted.
  case recordCompleted
  /// The PSP will not settle the payment any more.
  case recordCancelled
  /// The PSP does not cancel it: it has settled it, or can't.
  case recordCancellationRefused(reason: String)
  /// The PSP has sent the money of this refund back.
  case recordRefunded(Int)
  /// The PSP said no.
  case decline(PaymentWork, reason: String)
  /// Given up until a person asks for another try: it isn't known what the other side did, or asking again does not help.
  case giveUp(PaymentWork, reason: String)
  /// The next try is some while away.
  case delay(Delay)

  /// A person wants it not to happen.
  case cancel
  /// A person wants money to go back: so much, or all that is left for nil.
  case refund(Money?)
  /// A person wants everything that was given up, or waits for a time, to be tried again at once.
  case retry
}

/// Why a command is refused. Nothing was changed.
public enum PaymentRefusal: Error, Sendable, Hashable, CustomStringConvertible {
  /// The step that it ends is not due, or not any more.
  case notDue(PaymentStatus)
  case notCancellable(PaymentStatus)
  /// No money has moved, or none is left to go back.
  case nothingToRefund(PaymentStatus)
  case refundTooLarge(asked: Money, left: Money)
  case refundNotPositive
  case otherCurrency(Currency, of: Currency)
  case tooManyRefunds(limit: Int)
  case nothingToRetry(PaymentStatus)

  /// For programs; stable.
  public var name: String {
    switch self {
    case .notDue: "not-due"
    case .notCancellable: "not-cancellable"
    case .nothingToRefund: "nothing-to-refund"
    case .refundTooLarge: "refund-too-large"
    case .refundNotPositive: "refund-not-positive"
    case .otherCurrency: "other-currency"
    case .tooManyRefunds: "too-many-refunds"
    case .nothingToRetry: "nothing-to-retry"
    }
  }

  public var description: String {
    switch self {
    case .notDue(let status): "the payment is \(status.rawValue) already"
    case .notCancellable(let status): "a payment that is \(status.rawValue) can't be cancelled"
    case .nothingToRefund(let status): "a payment that is \(status.rawValue) has nothing to refund"
    case .refundTooLarge(let asked, let left): "\(asked) is more than the \(left) that are left to refund"
    case .refundNotPositive: "a refund must be more than nothing"
    case .otherCurrency(let asked, let own): "the payment is in \(own), not in \(asked)"
    case .tooManyRefunds(let limit): "a payment can have \(limit) refunds"
    case .nothingToRetry(let status): "a payment that is \(status.rawValue) has nothing to try again"
    }
  }
}

extension Payment {
  /// So that a stream stays short enough to be read for each step.
  static let refundLimit = 100

  /// What follows from a command, to be appended at this payment's version; nothing is changed here.
  public func decide(_ command: PaymentCommand) throws(PaymentRefusal) -> [PaymentEvent] {
    switch command {
    case .recordCreated(let reference): return [try due(.create, .created(reference: reference))]
    // Also while a cancellation is asked for: the PSP was faster.
    case .recordSettled where state == .cancelling: return [.settled]
    case .recordSettled: return [try due(.settle, .settled)]
    case .recordCompleted: return [try due(.notify, .completed)]
    case .recordCancelled: return [try due(.cancel, .cancelled)]
    case .recordCancellationRefused(let reason): return [try due(.cancel, .cancellationRefused(reason: reason))]
    case .recordRefunded(let number): return [try due(refund: number, .refunded(number))]
    case .decline(let work, let reason): return [try decline(work, reason)]
    case .giveUp(let work, let reason):
      if let number = work.refund { return [try due(refund: number, .refundFailed(number, reason: reason))] }
      return [try due(work.step, .failed(step: work.step, reason: reason))]
    case .delay(let delay):
      guard isDue(delay.work) else { throw .notDue(status) }
      return [.delayed(delay)]
    case .cancel: return [try cancel()]
    case .refund(let amount): return [try refund(amount)]
    case .retry:
      let works = parked.map(\.work) + delays.map(\.work)
      guard !works.isEmpty else { throw .nothingToRetry(status) }
      return works.map { .retried($0.step, refund: $0.refund) }
    }
  }

  private func due(_ step: PaymentStep, _ event: PaymentEvent) throws(PaymentRefusal) -> PaymentEvent {
    guard step == nextStep else { throw .notDue(status) }
    return event
  }

  private func due(refund number: Int, _ event: PaymentEvent) throws(PaymentRefusal) -> PaymentEvent {
    guard refund(number)?.status == .requested else { throw .notDue(status) }
    return event
  }

  private func decline(_ work: PaymentWork, _ reason: String) throws(PaymentRefusal) -> PaymentEvent {
    if let number = work.refund { return try due(refund: number, .refundDeclined(number, reason: reason)) }
    switch work.step {
    // While a cancellation is asked for, a no to the settlement may be that: not due, the cancellation's answer tells.
    case .create, .settle: return try due(work.step, .declined(step: work.step, reason: reason))
    // Money has moved, or is about not to: a no here ends nothing, somebody has to look.
    case .notify, .cancel, .refund: return try due(work.step, .failed(step: work.step, reason: reason))
    }
  }

  private func cancel() throws(PaymentRefusal) -> PaymentEvent {
    switch state {
    // Nobody settles what is not created.
    case .initiated, .failed(.create, _): return .cancelled
    // The settlement may be under way: only the PSP can tell which is first.
    case .created, .failed(.settle, _): return .cancellationRequested
    default: throw .notCancellable(status)
    }
  }

  private func refund(_ asked: Money?) throws(PaymentRefusal) -> PaymentEvent {
    let left = refundable
    guard left.minorUnits > 0 else { throw .nothingToRefund(status) }
    guard refunds.count < Self.refundLimit else { throw .tooManyRefunds(limit: Self.refundLimit) }
    let amount = asked ?? left
    guard amount.currency == money.currency else { throw .otherCurrency(amount.currency, of: money.currency) }
    guard amount.minorUnits > 0 else { throw .refundNotPositive }
    guard amount.minorUnits <= left.minorUnits else { throw .refundTooLarge(asked: amount, left: left) }
    return .refundRequested(refunds.count + 1, amount)
  }
}
