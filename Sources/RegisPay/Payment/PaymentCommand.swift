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
  /// A person asked to cancel, and the PSP was never asked to create the payment.
  case recordNotCreated
  /// The PSP said no.
  case decline(PaymentWork, reason: String)
  /// Given up until a person asks for another try: asking again does not help, and no try has done anything.
  case giveUp(PaymentWork, reason: String)
  /// Given up, and a try may have been carried out: a person has to say whether it was.
  case markUnknown(PaymentWork, reason: String)
  /// The next try is some while away.
  case delay(Delay)

  /// A person wants it not to happen.
  case cancel
  /// A person wants money to go back: so much, or all that is left for nil.
  case refund(Money?)
  /// A person wants everything that was given up, or waits for a time, to be tried again at once.
  case retry
  /// A person says what became of a step whose outcome is unknown.
  case resolve(PaymentWork, Resolution)

  public enum Resolution: Sendable, Hashable {
    /// - Parameter reference: the PSP's, which only a creation needs.
    case happened(reference: String? = nil)
    case didNotHappen
  }
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
  /// Nobody knows yet whether this step was carried out; what is asked could do it a second time.
  case outcomeUnknown(PaymentWork)
  /// The outcome of this step is not unknown, or not any more.
  case notUnknown(PaymentWork, PaymentStatus)
  /// A creation that happened has a reference at the PSP, and without it nothing can be done to it.
  case referenceMissing

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
    case .outcomeUnknown: "outcome-unknown"
    case .notUnknown: "not-unknown"
    case .referenceMissing: "reference-missing"
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
    case .outcomeUnknown(let work):
      "the outcome of \(work) is unknown: look at the other side whether it happened, and resolve it first"
    case .notUnknown(let work, let status):
      "the outcome of \(work) is not unknown; the payment is \(status.rawValue)"
    case .referenceMissing: "a creation that happened needs the PSP's reference of the payment"
    }
  }
}

extension Payment {
  /// So that a stream stays short enough to be read for each step.
  static let refundLimit = 100

  /// What follows from a command, to be appended at this payment's version; nothing is changed here.
  public func decide(_ command: PaymentCommand) throws(PaymentRefusal) -> [PaymentEvent] {
    switch command {
    case .recordCreated(let reference):
      return try ended(PaymentWork(.create), by: [.created(reference: reference)] + cancellation)
    case .recordSettled: return try settle()
    case .recordCompleted: return try ended(PaymentWork(.notify), by: [.completed])
    case .recordCancelled: return try ended(PaymentWork(.cancel), by: [.cancelled])
    case .recordCancellationRefused(let reason): return [try due(.cancel, .cancellationRefused(reason: reason))]
    case .recordRefunded(let number): return try ended(PaymentWork(refund: number), by: [.refunded(number)])
    case .recordNotCreated:
      guard isCancellationAsked else { throw .notDue(status) }
      return [try due(.create, .cancelled)]
    case .decline(let work, let reason): return [try decline(work, reason)]
    case .giveUp(let work, let reason):
      let event: PaymentEvent =
        if let number = work.refund { .refundFailed(number, reason: reason, mayHaveHappened: false) } else {
          .failed(step: work.step, reason: reason, mayHaveHappened: false)
        }
      guard isDue(work) else { throw .notDue(status) }
      return [event]
    case .markUnknown(let work, let reason):
      guard isDue(work) else { throw .notDue(status) }
      return [.outcomeUnknown(work, reason: reason)]
    case .resolve(let work, let resolution): return try resolve(work, resolution)
    case .delay(let delay):
      guard isDue(delay.work) else { throw .notDue(status) }
      return [.delayed(delay)]
    case .cancel: return try cancel()
    case .refund(let amount): return [try refund(amount)]
    case .retry:
      let works = parked.map(\.work) + delays.map(\.work)
      guard !works.isEmpty else {
        if let unknown = unknown.first { throw .outcomeUnknown(unknown.work) }
        throw .nothingToRetry(status)
      }
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

  /// The other side says that it was carried out. That decides also what was unknown: an answer may be late.
  private func ended(_ work: PaymentWork, by events: [PaymentEvent]) throws(PaymentRefusal) -> [PaymentEvent] {
    if unknown.contains(where: { $0.work == work }) { return [.outcomeResolved(work, happened: true)] + events }
    guard isDue(work) else { throw .notDue(status) }
    return events
  }

  /// What was asked for before there was something to cancel.
  private var cancellation: [PaymentEvent] { isCancellationAsked ? [.cancellationRequested] : [] }

  /// Also while a cancellation is asked for, or was given up: the settlement was first, so there was none.
  private func settle() throws(PaymentRefusal) -> [PaymentEvent] {
    switch state {
    case .cancelling where reference != nil: [.settled]
    case .failed(.cancel, _, _): [.retried(.cancel, refund: nil), .settled]
    case .outcomeUnknown(.cancel, _): [.outcomeResolved(PaymentWork(.cancel), happened: false), .settled]
    default: try ended(PaymentWork(.settle), by: [.settled])
    }
  }

  private func resolve(
    _ work: PaymentWork, _ resolution: PaymentCommand.Resolution
  ) throws(PaymentRefusal) -> [PaymentEvent] {
    guard unknown.contains(where: { $0.work == work }) else { throw .notUnknown(work, status) }
    let reason = "it did not happen, as a person found"
    switch resolution {
    case .happened(let reference):
      let events: [PaymentEvent]
      switch work.step {
      case .create:
        guard let reference else { throw .referenceMissing }
        events = [.created(reference: reference)] + cancellation
      case .settle: events = [.settled]
      case .cancel: events = [.cancelled]
      case .notify: events = [.completed]
      case .refund: events = work.refund.map { [.refunded($0)] } ?? []
      }
      return [.outcomeResolved(work, happened: true)] + events
    case .didNotHappen:
      let event: PaymentEvent
      switch work.step {
      case .create where isCancellationAsked: event = .cancelled
      case .create, .settle: event = .declined(step: work.step, reason: reason)
      // Never on to the settlement of what somebody wanted to cancel: a retry asks for the cancellation again.
      case .cancel, .notify: event = .failed(step: work.step, reason: reason, mayHaveHappened: false)
      case .refund: event = .refundDeclined(work.refund ?? 0, reason: reason)
      }
      return [.outcomeResolved(work, happened: false), event]
    }
  }

  private func decline(_ work: PaymentWork, _ reason: String) throws(PaymentRefusal) -> PaymentEvent {
    if let number = work.refund { return try due(refund: number, .refundDeclined(number, reason: reason)) }
    switch work.step {
    // While a cancellation is asked for, a no to the settlement may be that: not due, the cancellation's answer tells.
    case .create, .settle: return try due(work.step, .declined(step: work.step, reason: reason))
    // Money has moved, or is about not to: a no here ends nothing, somebody has to look.
    case .notify, .cancel, .refund:
      return try due(work.step, .failed(step: work.step, reason: reason, mayHaveHappened: false))
    }
  }

  private func cancel() throws(PaymentRefusal) -> [PaymentEvent] {
    switch state {
    // The creation may be in flight, or have reached the PSP: what it created there is cancelled then. It is not waited
    // for a time, as somebody waits for it.
    case .initiated where delay(of: PaymentWork(.create)) != nil:
      [.retried(.create, refund: nil), .cancellationRequested]
    case .initiated: [.cancellationRequested]
    case .failed(.create, _, mayHaveHappened: true) where isCancellationAsked: [.retried(.create, refund: nil)]
    case .failed(.create, _, mayHaveHappened: true): [.retried(.create, refund: nil), .cancellationRequested]
    // The PSP knows nothing of it.
    case .failed(.create, _, mayHaveHappened: false): [.cancelled]
    // The settlement may be in flight: only the PSP can tell which is first.
    case .created, .failed(.settle, _, _): [.cancellationRequested]
    case .outcomeUnknown(let step, _): throw .outcomeUnknown(PaymentWork(step))
    default: throw .notCancellable(status)
    }
  }

  private func refund(_ asked: Money?) throws(PaymentRefusal) -> PaymentEvent {
    // Whether the customer was notified changes nothing about the money.
    if let unknown = unknown.first(where: { $0.work.step != .notify }) { throw .outcomeUnknown(unknown.work) }
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
