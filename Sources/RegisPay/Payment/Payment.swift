/// A payment as its events tell it. A pure value: no I/O, no clock.
public struct Payment: Sendable, Hashable {
  public enum State: Sendable, Hashable {
    case initiated
    case created(reference: String)
    case settled(reference: String)
    case completed(reference: String)
    /// Given up at a step; `reference` is the PSP's, if it had given one.
    case failed(step: PaymentStep, reason: String, reference: String?)
  }

  public let id: PaymentID
  public let money: Money
  public private(set) var state: State

  /// A payment begins with this event, and only with this one.
  public init(_ event: PaymentEvent) throws(IllegalTransition) {
    guard case .initiated(let id, let money) = event else { throw IllegalTransition(state: nil, event: event) }
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
    state =
      switch (state, event) {
      case (.initiated, .created(let reference)): .created(reference: reference)
      case (.created(let reference), .settled): .settled(reference: reference)
      case (.settled(let reference), .completed): .completed(reference: reference)
      case (_, .failed(let step, let reason)) where step == nextStep:
        .failed(step: step, reason: reason, reference: reference)
      default: throw IllegalTransition(state: state, event: event)
      }
  }

  /// What has to be done next; nil when nothing is.
  public var nextStep: PaymentStep? {
    switch state {
    case .initiated: .create
    case .created: .settle
    case .settled: .notify
    case .completed, .failed: nil
    }
  }

  /// The PSP's id of the payment, once it has given one.
  public var reference: String? {
    switch state {
    case .initiated: nil
    case .created(let reference), .settled(let reference), .completed(let reference): reference
    case .failed(_, _, let reference): reference
    }
  }

  /// The state's name, as the API and the page show it.
  public var status: PaymentStatus {
    switch state {
    case .initiated: .initiated
    case .created: .created
    case .settled: .settled
    case .completed: .completed
    case .failed: .failed
    }
  }
}

/// The names of a payment's states.
public enum PaymentStatus: String, Sendable, Hashable, CaseIterable {
  case initiated = "Initiated"
  case created = "Created"
  case settled = "Settled"
  case completed = "Completed"
  case failed = "Failed"
}

/// An event that can't happen in a state; `state` is nil for a payment that has not begun.
public struct IllegalTransition: Error, Sendable, Hashable, CustomStringConvertible {
  public var state: Payment.State?
  public var event: PaymentEvent

  public var description: String {
    "\(event.type) can't follow \(state.map { "state \($0)" } ?? "nothing")"
  }
}

/// What is asked of a payment.
public enum PaymentCommand: Sendable, Hashable {
  /// The PSP accepted the payment under this reference.
  case recordCreated(reference: String)
  /// The PSP accepted the settlement.
  case recordSettled
  /// The notification was accepted.
  case recordCompleted
  /// The step can't succeed.
  case giveUp(PaymentStep, reason: String)

  /// The step that this command ends.
  public var step: PaymentStep {
    switch self {
    case .recordCreated: .create
    case .recordSettled: .settle
    case .recordCompleted: .notify
    case .giveUp(let step, _): step
    }
  }
}

/// Why a command is refused: its step is not the one to be done now.
public struct PaymentRefusal: Error, Sendable, Hashable, CustomStringConvertible {
  public var state: Payment.State
  public var command: PaymentCommand

  public var description: String { "\(command) is refused in state \(state)" }
}

extension Payment {
  /// What follows from a command, to be appended at this payment's version; nothing is changed here.
  public func decide(_ command: PaymentCommand) throws(PaymentRefusal) -> PaymentEvent {
    guard command.step == nextStep else { throw PaymentRefusal(state: state, command: command) }
    return switch command {
    case .recordCreated(let reference): .created(reference: reference)
    case .recordSettled: .settled
    case .recordCompleted: .completed
    case .giveUp(let step, let reason): .failed(step: step, reason: reason)
    }
  }
}
