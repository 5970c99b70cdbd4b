/// A payment: the state that follows from its events. A pure value: no I/O, no clock.
///
/// ```
/// initiated ── created ── settled ── completed      refunds can be requested from `settled` on
///     │  ╲        │  ╲        ╲
///     │  declined │  declined  failed(notify)
///     │           │
///     ╰────── cancelling ── cancelled, or back to created when the PSP refuses
/// ```
/// A parked step leads to `failed`; a retry leads back to the state before. A step that may have been carried out, though no
/// response proves it, leads to `outcomeUnknown` until a person says what happened.
public struct Payment: Sendable, Hashable {
  public enum State: Sendable, Hashable {
    case initiated
    /// The PSP knows the payment under ``Payment/reference``; no money has moved.
    case created
    /// A person asked to cancel. With a ``Payment/reference``, the PSP decides whether the cancellation comes before the
    /// settlement. Without one, the creation may be in flight: if it succeeds, the created payment is cancelled next.
    case cancelling
    /// The money has moved.
    case settled
    case completed
    /// The PSP declined this step; no money has moved.
    case declined(step: PaymentStep, reason: String)
    /// No money has moved, and none will.
    case cancelled
    /// A step is parked until a person retries it.
    ///
    /// - Parameter mayHaveHappened: a try may have reached the other side; false when it is known that no try had an effect.
    case failed(step: PaymentStep, reason: String, mayHaveHappened: Bool = true)
    /// A step may or may not have been carried out. No call is made until a person says which.
    case outcomeUnknown(step: PaymentStep, reason: String)
  }

  public let id: PaymentID
  public let money: Money
  public private(set) var state: State
  /// The PSP's id of the payment; nil until the PSP has created it.
  public private(set) var reference: String?
  /// A person asked to cancel before the PSP had returned a reference.
  public private(set) var isCancellationAsked = false
  /// In the order of the requests; the first has the number 1.
  public private(set) var refunds: [Refund] = []
  /// Steps and refunds that are due and wait for a time; at most one entry for each.
  public private(set) var delays: [Delay] = []

  /// Begins a payment. Only `initiated` can be the first event.
  public init(_ event: PaymentEvent) throws(IllegalTransition) {
    guard case .initiated(let id, let money) = event else { throw IllegalTransition(payment: nil, event: event) }
    self.id = id
    self.money = money
    self.state = .initiated
  }

  /// The payment that follows from a stream's events; nil when there are none.
  public init?(_ events: some Sequence<PaymentEvent>) throws(IllegalTransition) {
    var payment: Payment?
    for event in events {
      if payment == nil { payment = try Payment(event) } else { try payment?.apply(event) }
    }
    guard let payment else { return nil }
    self = payment
  }

  /// What a call needs of a payment, in a process that has no log: it has no state that decides anything.
  ///
  /// - Parameter refund: the one that the call is for.
  init(forCallOf id: PaymentID, _ money: Money, reference: String?, refund: Refund?) {
    (self.id, self.money, self.reference) = (id, money, reference)
    state = .initiated
    // A refund is found by its number, which the caller has bounded.
    refunds = refund.map { refund in Array(repeating: refund, count: refund.number) } ?? []
  }

  /// Applies an event to the payment.
  ///
  /// - Throws: when the event can't happen in this state; the payment is unchanged.
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
    // The same append holds the event that requests the cancellation.
    case (.cancelling, .created(let reference)) where self.reference == nil: created(reference)
    case (.created, .settled): state = .settled
    // The settlement was in flight when somebody asked to cancel, and came first.
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
    // Earlier versions cancelled at once while the creation was still in flight.
    case (.initiated, .cancelled), (.failed(.create, _, _), .cancelled), (.cancelling, .cancelled): state = .cancelled
    case (_, .failed(let step, let reason, let mayHaveHappened)) where step == nextStep:
      state = .failed(step: step, reason: reason, mayHaveHappened: mayHaveHappened)
    case (.failed(let step, _, _), .retried(let retried, refund: nil)) where step == retried:
      state = state(before: step)
    case (_, .outcomeUnknown(let work, let reason)) where work.refund == nil && work.step == nextStep:
      state = .outcomeUnknown(step: work.step, reason: reason)
    case (_, .outcomeUnknown(let work, let reason)) where isContestable(work.step):
      state = .outcomeUnknown(step: work.step, reason: reason)
    case (.outcomeUnknown(let step, _), .outcomeResolved(let work, _)) where work.refund == nil && work.step == step:
      state = state(before: step)
    default: try applyToRefund(event)
    }
  }

  /// Whether the other side may yet say the opposite of what was recorded of this step: only a person can tell then what holds.
  private func isContestable(_ step: PaymentStep) -> Bool {
    switch (step, state) {
    case (.create, .declined(.create, _)), (.settle, .declined(.settle, _)): true
    case (.settle, .cancelled): reference != nil
    // Refunds prove that money has moved.
    case (.settle, .settled), (.settle, .completed): refunds.isEmpty
    default: false
    }
  }

  private mutating func created(_ reference: String) {
    state = .created
    self.reference = reference
    isCancellationAsked = false
  }

  /// A declined refund takes its amount again, if there is so much left.
  func isContestable(refund number: Int) -> Bool {
    guard let refund = refund(number), case .declined = refund.status else { return false }
    return refund.amount.minorUnits <= refundable.minorUnits
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
      guard let number = work.refund, refund(number)?.status == .requested || isContestable(refund: number) else {
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
    // A refund has a status of its own and is never the payment's next step.
    case .refund: preconditionFailure("a refund is not a state of its payment")
    }
  }

  /// The payment's next step; nil when there is none. Refunds proceed independently of it.
  public var nextStep: PaymentStep? {
    switch state {
    case .initiated: .create
    case .created: .settle
    // The creation must have an outcome before the PSP can cancel.
    case .cancelling: reference == nil ? .create : .cancel
    case .settled: .notify
    case .completed, .declined, .cancelled, .failed, .outcomeUnknown: nil
    }
  }

  /// Whether this step or refund is due.
  public func isDue(_ work: PaymentWork) -> Bool {
    if work.step == .refund { return work.refund.flatMap { refund($0) }?.status == .requested }
    return work.step == nextStep
  }

  /// The wait before the next try; nil when it may be tried at once.
  public func delay(of work: PaymentWork) -> Delay? { delays.first { $0.work == work } }

  public func refund(_ number: Int) -> Refund? {
    refunds.indices.contains(number - 1) ? refunds[number - 1] : nil
  }

  /// Whether this step was carried out, as far as is recorded.
  func isDone(_ work: PaymentWork) -> Bool {
    switch work.step {
    case .create: reference != nil
    case .settle: isMoneyMoved
    case .cancel: state == .cancelled
    case .notify: state == .completed
    case .refund: work.refund.flatMap { refund($0) }?.status == .done
    }
  }

  /// Whether the PSP has moved the money to the merchant.
  public var isMoneyMoved: Bool {
    switch state {
    case .settled, .completed, .failed(.notify, _, _), .outcomeUnknown(.notify, _): true
    default: false
    }
  }

  /// The total of refunds that are done.
  public var refunded: Money { total { $0.status == .done } }

  /// The total of refunds that have no outcome yet.
  public var refunding: Money { total { $0.status == .requested } }

  /// The amount that can still be refunded: the settled amount less all refunds that are done or may be.
  public var refundable: Money {
    guard isMoneyMoved else { return Money(minorUnits: 0, currency: money.currency) }
    let taken = total { if case .declined = $0.status { false } else { true } }
    return Money(minorUnits: money.minorUnits - taken.minorUnits, currency: money.currency)
  }

  private func total(_ isCounted: (Refund) -> Bool) -> Money {
    // No overflow: `apply` keeps the total within the payment's amount.
    Money(
      minorUnits: refunds.reduce(0) { isCounted($1) ? $0 + $1.amount.minorUnits : $0 }, currency: money.currency)
  }

  /// The status that the API and the page show. An unknown outcome comes first, then a parked step or refund, then the
  /// payment's own state. A partial refund doesn't change the status; ``refunded`` shows it. Only when the whole amount is being
  /// refunded, or is refunded, does the status say so.
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
    // No overflow: `apply` keeps the sum within the payment's amount.
    return refunded.minorUnits + refunding.minorUnits == money.minorUnits ? .refunding : nil
  }

  /// All parked steps and refunds, which wait for a person, with the reason of each.
  public var parked: [(work: PaymentWork, reason: String)] {
    var parked: [(work: PaymentWork, reason: String)] = []
    if case .failed(let step, let reason, _) = state { parked.append((PaymentWork(step), reason)) }
    for refund in refunds {
      if case .failed(let reason) = refund.status { parked.append((PaymentWork(refund: refund.number), reason)) }
    }
    return parked
  }

  /// All steps and refunds whose outcome is unknown, with the reason of each. The notification comes last, because it moves no
  /// money.
  public var unknown: [(work: PaymentWork, reason: String)] {
    var unknown: [(work: PaymentWork, reason: String)] = []
    for refund in refunds {
      if case .unknown(let reason) = refund.status { unknown.append((PaymentWork(refund: refund.number), reason)) }
    }
    // There are refunds only of a settled payment, so of its steps only the notification can be unknown beside them.
    if case .outcomeUnknown(let step, let reason) = state { unknown.append((PaymentWork(step), reason)) }
    return unknown
  }
}

/// A refund of all or a part of a payment.
public struct Refund: Sendable, Hashable {
  public enum Status: Sendable, Hashable {
    case requested
    case done
    /// The PSP declined: no money has gone back, and the amount can be refunded again.
    case declined(reason: String)
    /// Parked until a person retries it. The amount stays taken.
    case failed(reason: String)
    /// The PSP may or may not have sent the money back. The amount stays taken until a person says which.
    case unknown(reason: String)
  }

  /// Counts from 1 within the payment.
  public let number: Int
  public let amount: Money
  public internal(set) var status: Status
}

/// A payment's status, as the API names it.
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

/// An event that can't follow the payment's state; `payment` is nil when no payment has begun.
public struct IllegalTransition: Error, Sendable, Hashable, CustomStringConvertible {
  public var payment: Payment?
  public var event: PaymentEvent

  public var description: String {
    "\(event.type) can't follow \(payment.map { "state \($0.status.rawValue)" } ?? "nothing")"
  }
}
