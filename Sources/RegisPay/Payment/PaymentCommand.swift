/// A command to a payment, from a person or from the consumer that carried out a step.
public enum PaymentCommand: Sendable, Hashable {
  /// The PSP accepted the payment under this reference.
  case recordCreated(reference: String)
  /// The PSP accepted the settlement.
  case recordSettled
  /// The notification was accepted.
  case recordCompleted
  /// The PSP has cancelled the payment and will not settle it.
  case recordCancelled
  /// The PSP does not cancel the payment: it has settled it, or can't cancel.
  case recordCancellationRefused(reason: String)
  /// The PSP has carried out the refund with this number.
  case recordRefunded(Int)
  /// A person asked to cancel, and the PSP was never asked to create the payment.
  case recordNotCreated
  /// The PSP declined the step.
  case decline(PaymentWork, reason: String)
  /// Parks the step until a person retries it: a retry now can't help, and no try had an effect.
  case park(PaymentWork, reason: String)
  /// A try may have been carried out, and no response that decides will come: a person has to say what happened.
  case markUnknown(PaymentWork, reason: String)
  /// The next try waits, on the log.
  case delay(Delay)

  /// A person cancels the payment.
  case cancel
  /// A person refunds this amount; nil for all that is left.
  case refund(Money?)
  /// A person retries at once everything that is parked or waits for a time.
  case retry
  /// A person says what happened in a step whose outcome is unknown.
  case resolve(PaymentWork, Resolution)

  public enum Resolution: Sendable, Hashable {
    /// - Parameter reference: the PSP's id of the payment; needed for a creation only.
    case happened(reference: String? = nil)
    case didNotHappen
  }
}

/// Why a command is refused. Nothing has changed.
public enum PaymentRefusal: Error, Sendable, Hashable, CustomStringConvertible {
  /// The step that the command ends is not due, or no longer due.
  case notDue(PaymentStatus)
  case notCancellable(PaymentStatus)
  /// No money has moved, or all of it is refunded.
  case nothingToRefund(PaymentStatus)
  case refundTooLarge(asked: Money, left: Money)
  case refundNotPositive
  case otherCurrency(Currency, of: Currency)
  case tooManyRefunds(limit: Int)
  case nothingToRetry(PaymentStatus)
  /// The outcome of this step is unknown; the command could carry it out a second time.
  case outcomeUnknown(PaymentWork)
  /// The outcome of this step is known.
  case notUnknown(PaymentWork, PaymentStatus)
  /// A creation that happened has a reference at the PSP; without it no later call can name the payment.
  case referenceMissing

  /// A stable name for programs.
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
    case .tooManyRefunds(Payment.refundLimit):
      "a payment can have \(Payment.refundLimit) refunds that are not declined; all that is left can still be refunded at once"
    case .tooManyRefunds(let limit): "a payment can have \(limit) refunds, those included that are declined"
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
  /// Refunds of a payment that are not declined. Another one is possible only for all that is left.
  static let refundLimit = 100
  /// All refunds of a payment: its stream has to be short enough to be read for each step.
  static let refundRequestLimit = 1_000

  /// Decides which events follow from a command. The caller appends them at this payment's version; the payment itself stays
  /// unchanged.
  public func decide(_ command: PaymentCommand) throws(PaymentRefusal) -> [PaymentEvent] {
    switch command {
    case .recordCreated(let reference):
      if case .declined(.create, _) = state {
        return [contested(PaymentWork(.create), "created it as \(reference), and it had been declined")]
      }
      return try ended(PaymentWork(.create), by: [.created(reference: reference)] + cancellation)
    case .recordSettled: return try settle()
    case .recordCompleted: return try ended(PaymentWork(.notify), by: [.completed])
    case .recordCancelled: return try cancelled()
    case .recordCancellationRefused(let reason): return [try due(.cancel, .cancellationRefused(reason: reason))]
    case .recordRefunded(let number):
      if isContestable(refund: number) {
        return [contested(PaymentWork(refund: number), "confirmed it, and it had been declined")]
      }
      return try ended(PaymentWork(refund: number), by: [.refunded(number)])
    case .recordNotCreated:
      guard isCancellationAsked else { throw .notDue(status) }
      return [try due(.create, .cancelled)]
    case .decline(let work, let reason): return [try decline(work, reason)]
    case .park(let work, let reason):
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
      // A person decides first: until then no call of this payment moves money.
      if let unknown = unknown.first { throw .outcomeUnknown(unknown.work) }
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

  /// The events of a step that the other side has carried out. Also resolves an unknown outcome: a response may be late.
  private func ended(_ work: PaymentWork, by events: [PaymentEvent]) throws(PaymentRefusal) -> [PaymentEvent] {
    if unknown.contains(where: { $0.work == work }) { return [.outcomeResolved(work, happened: true)] + events }
    guard isDue(work) else { throw .notDue(status) }
    return events
  }

  /// Requests the cancellation that a person asked for before the payment was created.
  private var cancellation: [PaymentEvent] { isCancellationAsked ? [.cancellationRequested] : [] }

  /// Records a settlement, also while a cancellation is requested or parked: the settlement came first, so there was no
  /// cancellation.
  private func settle() throws(PaymentRefusal) -> [PaymentEvent] {
    switch state {
    case .cancelling where reference != nil: [.settled]
    case .failed(.cancel, _, _): [.retried(.cancel, refund: nil), .settled]
    case .outcomeUnknown(.cancel, _): [.outcomeResolved(PaymentWork(.cancel), happened: false), .settled]
    case .cancelled where reference != nil:
      [contested(PaymentWork(.settle), "confirmed it, and the cancellation had been confirmed, too")]
    case .declined(.settle, _): [contested(PaymentWork(.settle), "confirmed it, and it had been declined")]
    default: try ended(PaymentWork(.settle), by: [.settled])
    }
  }

  private func cancelled() throws(PaymentRefusal) -> [PaymentEvent] {
    switch state {
    case .settled where refunds.isEmpty, .completed where refunds.isEmpty:
      [contested(PaymentWork(.settle), "confirmed it, and then the cancellation, too")]
    default: try ended(PaymentWork(.cancel), by: [.cancelled])
    }
  }

  /// The other side has said the opposite of what was recorded, itself or by a person: only a person can tell what holds.
  private func contested(_ work: PaymentWork, _ what: String) -> PaymentEvent {
    .outcomeUnknown(work, reason: "the PSP \(what)")
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
      // A payment that somebody wanted to cancel must not go on to settlement: a retry requests the cancellation again.
      case .cancel, .notify: event = .failed(step: work.step, reason: reason, mayHaveHappened: false)
      case .refund: event = .refundDeclined(work.refund ?? 0, reason: reason)
      }
      return [.outcomeResolved(work, happened: false), event]
    }
  }

  private func decline(_ work: PaymentWork, _ reason: String) throws(PaymentRefusal) -> PaymentEvent {
    if let number = work.refund { return try due(refund: number, .refundDeclined(number, reason: reason)) }
    switch work.step {
    // While a cancellation is requested, settlement is not due: its refusal may be the cancellation's effect, and the response
    // to the cancellation decides.
    case .create, .settle: return try due(work.step, .declined(step: work.step, reason: reason))
    // Money has moved, or a cancellation was requested: a refusal here ends nothing, a person has to look.
    case .notify, .cancel, .refund:
      return try due(work.step, .failed(step: work.step, reason: reason, mayHaveHappened: false))
    }
  }

  private func cancel() throws(PaymentRefusal) -> [PaymentEvent] {
    switch state {
    // The creation may be in flight or have reached the PSP: what it creates is cancelled next. A person waits, so the delay
    // ends.
    case .initiated where delay(of: PaymentWork(.create)) != nil:
      [.retried(.create, refund: nil), .cancellationRequested]
    case .initiated: [.cancellationRequested]
    case .failed(.create, _, mayHaveHappened: true) where isCancellationAsked: [.retried(.create, refund: nil)]
    case .failed(.create, _, mayHaveHappened: true): [.retried(.create, refund: nil), .cancellationRequested]
    // The PSP knows nothing of the payment.
    case .failed(.create, _, mayHaveHappened: false): [.cancelled]
    // The settlement may be in flight: only the PSP knows which comes first.
    case .created, .failed(.settle, _, _): [.cancellationRequested]
    case .outcomeUnknown(let step, _): throw .outcomeUnknown(PaymentWork(step))
    default: throw .notCancellable(status)
    }
  }

  private func refund(_ asked: Money?) throws(PaymentRefusal) -> PaymentEvent {
    // A notification with an unknown outcome doesn't affect the money.
    if let unknown = unknown.first(where: { $0.work.step != .notify }) { throw .outcomeUnknown(unknown.work) }
    let left = refundable
    guard left.minorUnits > 0 else { throw .nothingToRefund(status) }
    guard refunds.count < Self.refundRequestLimit else { throw .tooManyRefunds(limit: Self.refundRequestLimit) }
    let amount = asked ?? left
    guard amount.currency == money.currency else { throw .otherCurrency(amount.currency, of: money.currency) }
    guard amount.minorUnits > 0 else { throw .refundNotPositive }
    guard amount.minorUnits <= left.minorUnits else { throw .refundTooLarge(asked: amount, left: left) }
    let accepted = refunds.count { if case .declined = $0.status { false } else { true } }
    guard accepted < Self.refundLimit || amount == left else { throw .tooManyRefunds(limit: Self.refundLimit) }
    return .refundRequested(refunds.count + 1, amount)
  }
}
