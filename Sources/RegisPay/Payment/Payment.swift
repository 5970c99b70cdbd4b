/// A payment as its events tell it. A pure value: no I/O, no clock.
///
/// ```
/// initiated ── created ── settled ── completed      refunds are asked for from `settled` on
///     │  ╲        │  ╲        ╲
///     │  declined │  declined  failed(notify)
///     │           │
///     ╰────── cancelling ── cancelled, or back to created when the PSP refuses
/// ```
/// A step that was given up leads to `failed`, and a retry back to where it was. A step that may have been carried out,
/// though no answer says so, leads to `outcomeUnknown`, until a person says what happened.
public struct Payment: Sendable, Hashable {
  public enum State: Sendable, Hashable {
    case initiated
    /// The PSP knows the payment under ``Payment/reference``; no money has moved.
    case created
    /// A person asked to cancel it. With a ``Payment/reference`` the PSP is asked whether that comes before the settlement;
    /// without one the creation may be in flight, and what it turns out to have created is cancelled then.
    case cancelling
    /// The money has moved.
    case settled
    case completed
    /// The PSP said no, at this step; no money has moved.
    case declined(step: PaymentStep, reason: String)
    /// No money has moved, and none will.
    case cancelled
    /// A step was given up, until a person asks for another try.
    ///
    /// - Parameter mayHaveHappened: a try may have reached the other side; false when it is known that none did anything.
    case failed(step: PaymentStep, reason: String, mayHaveHappened: Bool = true)
    /// A step may or may not have been carried out, until a person says which. Nothing is called for meanwhile.
    case outcomeUnknown(step: PaymentStep, reason: String)
  }

  public let id: PaymentID
  public let money: Money
  public private(set) var state: State
  /// The PSP's id of the payment, once it has given one.
  public private(set) var reference: String?
  /// A person asked to cancel before the PSP had given a reference.
  public private(set) var isCancellationAsked = false
  /// In the order in which they were asked for; the first has the number 1.
  public private(set) var refunds: [Refund] = []
  /// What is due and waits for a time, at most one of each step and refund.
  public private(set) var delays: [Delay] = []

  /// A payment begins with this event, and only with this one.
  public init(_ event: PaymentEvent) throws(IllegalTransition) {
    guard case .initiated(let id, let money) = event else { throw IllegalTransition(payment: nil, event: event) }
    self.id = id
    self.money = money
    self.state = .initiated
  }

  /// The payment that a stream's events tell; nil for none.
  public init?(_ events: some Sequence<PaymentEvent>) throws(IllegalTransition) {
    var payment: Payment?
    for event in events {
      if payment == nil { payment = try Payment(event) } else { try payment?.apply(event) }
    }
    guard let payment else { return nil }
    self = payment
  }

  /// What happened moves the payment on.
  ///
  /// - Throws: when it can't happen in this state; the payment is unchanged.
  public mutating func apply(_ event: PaymentEvent) throws(IllegalTransition) {
    if case .delayed(let delay) = event {
      guard isDue(delay.work) else { throw IllegalTransition(payment: self, event: event) }
      delays.removeAll { $0.work == delay.work }
      delays.append(delay)
      return
    }
    if case .retried(let step, let refund) = event, let work = PaymentWork(step, refund: refund), delay(of: work) != nil
    {
      delays.removeAll { $0.work == work }
      return
    }
    try move(by: event)
    if !delays.isEmpty { delays = delays.filter { isDue($0.work) } }
  }

  private mutating func move(by event: PaymentEvent) throws(IllegalTransition) {
    switch (state, event) {
    case (.initiated, .created(let reference)): created(reference)
    // The cancellation is asked for next, by an event that comes with this one.
    case (.cancelling, .created(let reference)) where self.reference == nil: created(reference)
    case (.created, .settled): state = .settled
    // A settlement that was in flight when somebody asked to cancel: it was first.
    case (.cancelling, .settled) where reference != nil: state = .settled
    case (.settled, .completed): state = .completed
    case (.initiated, .declined(.create, let reason)): state = .declined(step: .create, reason: reason)
    case (.cancelling, .declined(.create, let reason)) where reference == nil:
      state = .declined(step: .create, reason: reason)
    case (.created, .declined(.settle, let reason)): state = .declined(step: .settle, reason: reason)
    case (.initiated, .cancellationRequested):
      state = .cancelling
      isCancellationAsked = true
    case (.created, .cancellationRequested), (.failed(.settle, _, _), .cancellationRequested): state = .cancelling
    case (.cancelling, .cancellationRefused) where reference != nil: state = .created
    // Earlier versions cancelled at once what the PSP had not answered yet.
    case (.initiated, .cancelled), (.failed(.create, _, _), .cancelled), (.cancelling, .cancelled): state = .cancelled
    case (_, .failed(let step, let reason, let mayHaveHappened)) where step == nextStep:
      state = .failed(step: step, reason: reason, mayHaveHappened: mayHaveHappened)
    case (.failed(let step, _, _), .retried(let retried, refund: nil)) where step == retried:
      state = state(before: step)
    case (_, .outcomeUnknown(let work, let reason)) where work.refund == nil && work.step == nextStep:
      state = .outcomeUnknown(step: work.step, reason: reason)
    case (.outcomeUnknown(let step, _), .outcomeResolved(let work, _)) where work.refund == nil && work.step == step:
      state = state(before: step)
    default: try applyToRefund(event)
    }
  }

  private mutating func created(_ reference: String) {
    state = .created
    self.reference = reference
    isCancellationAsked = false
  }

  private mutating func applyToRefund(_ event: PaymentEvent) throws(IllegalTransition) {
    switch event {
    case .refundRequested(let number, let amount)
    where number == refunds.count + 1 && amount.currency == money.currency && amount.minorUnits > 0
      && amount.minorUnits <= refundable.minorUnits:
      refunds.append(Refund(number: number, amount: amount, status: .requested))
    case .refunded(let number) where refund(number)?.status == .requested:
      refunds[number - 1].status = .done
    case .refundDeclined(let number, let reason) where refund(number)?.status == .requested:
      refunds[number - 1].status = .declined(reason: reason)
    case .refundFailed(let number, let reason, _) where refund(number)?.status == .requested:
      refunds[number - 1].status = .failed(reason: reason)
    case .outcomeUnknown(let work, let reason):
      guard let number = work.refund, refund(number)?.status == .requested else {
        throw IllegalTransition(payment: self, event: event)
      }
      refunds[number - 1].status = .unknown(reason: reason)
    case .outcomeResolved(let work, _):
      guard let number = work.refund, case .unknown = refund(number)?.status else {
        throw IllegalTransition(payment: self, event: event)
      }
      refunds[number - 1].status = .requested
    case .retried(.refund, let number?):
      guard case .failed = refund(number)?.status else { throw IllegalTransition(payment: self, event: event) }
      refunds[number - 1].status = .requested
    default: throw IllegalTransition(payment: self, event: event)
    }
  }

  /// The state in which a step is due.
  private func state(before step: PaymentStep) -> State {
    switch step {
    case .create: isCancellationAsked ? .cancelling : .initiated
    case .settle: .created
    case .cancel: .cancelling
    case .notify: .settled
    // A refund has a status of its own; this step never fails as the payment's.
    case .refund: preconditionFailure("a refund is no state of its payment")
    }
  }

  /// What has to be done next for the payment itself; nil when nothing is. Refunds go on beside it.
  public var nextStep: PaymentStep? {
    switch state {
    case .initiated: .create
    case .created: .settle
    // What is not known to be created can't be cancelled yet.
    case .cancelling: reference == nil ? .create : .cancel
    case .settled: .notify
    case .completed, .declined, .cancelled, .failed, .outcomeUnknown: nil
    }
  }

  /// Whether this is to be done now.
  public func isDue(_ work: PaymentWork) -> Bool {
    if work.step == .refund { return work.refund.flatMap { refund($0) }?.status == .requested }
    return work.step == nextStep
  }

  /// Until when this is not to be tried; nil for at once.
  public func delay(of work: PaymentWork) -> Delay? { delays.first { $0.work == work } }

  public func refund(_ number: Int) -> Refund? {
    refunds.indices.contains(number - 1) ? refunds[number - 1] : nil
  }

  /// The PSP has moved the money to the merchant.
  public var isMoneyMoved: Bool {
    switch state {
    case .settled, .completed, .failed(.notify, _, _), .outcomeUnknown(.notify, _): true
    default: false
    }
  }

  /// What has gone back.
  public var refunded: Money { total { $0.status == .done } }

  /// What was asked back and has no outcome yet.
  public var refunding: Money { total { $0.status == .requested } }

  /// What may still be asked back: what was settled, less all refunds that are done or may be.
  public var refundable: Money {
    guard isMoneyMoved else { return Money(minorUnits: 0, currency: money.currency) }
    let taken = total { if case .declined = $0.status { false } else { true } }
    return Money(minorUnits: money.minorUnits - taken.minorUnits, currency: money.currency)
  }

  private func total(_ isCounted: (Refund) -> Bool) -> Money {
    // Never over the payment's own amount, which `apply` sees to: no overflow.
    Money(
      minorUnits: refunds.reduce(0) { isCounted($1) ? $0 + $1.amount.minorUnits : $0 }, currency: money.currency)
  }

  /// The state's name, as the API and the page show it: what is unknown before all else, then what is given up, then the
  /// payment's own state. Money that goes back is an amount beside the state, ``refunded``: only a payment of which all goes
  /// back, or has gone back, is no completed one any more.
  public var status: PaymentStatus {
    if refunds.contains(where: { if case .unknown = $0.status { true } else { false } }) { return .outcomeUnknown }
    return switch state {
    case .initiated: .initiated
    case .created: .created
    case .cancelling: .cancelling
    case .declined: .declined
    case .cancelled: .cancelled
    case .failed: .failed
    case .outcomeUnknown: .outcomeUnknown
    case .settled, .completed: refundStatus ?? (state == .settled ? .settled : .completed)
    }
  }

  private var refundStatus: PaymentStatus? {
    if refunds.contains(where: { if case .failed = $0.status { true } else { false } }) { return .failed }
    if refunded == money { return .refunded }
    // No overflow: both together are never over the payment's amount, which `apply` sees to.
    return refunded.minorUnits + refunding.minorUnits == money.minorUnits ? .refunding : nil
  }

  /// Everything that was given up and waits for a person, with the reason.
  public var parked: [(work: PaymentWork, reason: String)] {
    var parked: [(work: PaymentWork, reason: String)] = []
    if case .failed(let step, let reason, _) = state { parked.append((PaymentWork(step), reason)) }
    for refund in refunds {
      if case .failed(let reason) = refund.status { parked.append((PaymentWork(refund: refund.number), reason)) }
    }
    return parked
  }

  /// Every step and refund that may or may not have been carried out, with the reason why that is not known.
  public var unknown: [(work: PaymentWork, reason: String)] {
    var unknown: [(work: PaymentWork, reason: String)] = []
    if case .outcomeUnknown(let step, let reason) = state { unknown.append((PaymentWork(step), reason)) }
    for refund in refunds {
      if case .unknown(let reason) = refund.status { unknown.append((PaymentWork(refund: refund.number), reason)) }
    }
    return unknown
  }
}

/// Money on its way back, in full or in part.
public struct Refund: Sendable, Hashable {
  public enum Status: Sendable, Hashable {
    case requested
    case done
    /// The PSP said no: nothing has gone back, and the amount may be asked for again.
    case declined(reason: String)
    /// Given up, until a person asks for another try. The amount stays taken.
    case failed(reason: String)
    /// The PSP may or may not have sent the money back, until a person says which. The amount stays taken.
    case unknown(reason: String)
  }

  /// From 1, in its payment.
  public let number: Int
  public let amount: Money
  public internal(set) var status: Status
}

/// The names of a payment's states.
public enum PaymentStatus: String, Sendable, Hashable, CaseIterable {
  case initiated = "Initiated"
  case created = "Created"
  case settled = "Settled"
  case completed = "Completed"
  case declined = "Declined"
  case cancelling = "Cancelling"
  case cancelled = "Cancelled"
  case refunding = "Refunding"
  case refunded = "Refunded"
  case failed = "Failed"
  case outcomeUnknown = "OutcomeUnknown"
}

/// An event that can't happen to a payment as it is; `payment` is nil for one that has not begun.
public struct IllegalTransition: Error, Sendable, Hashable, CustomStringConvertible {
  public var payment: Payment?
  public var event: PaymentEvent

  public var description: String {
    "\(event.type) can't follow \(payment.map { "state \($0.status.rawValue)" } ?? "nothing")"
  }
}
