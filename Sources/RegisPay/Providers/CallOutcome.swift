/// How a call to a dependency ended, as far as processing has to know.
public enum CallOutcome: Sendable, Hashable {
  /// What it did, recorded by this command.
  case done(PaymentCommand)
  /// It may succeed later, or may have succeeded already without our knowing: ask again with the same key.
  case retry(reason: String, after: Duration?, isOutage: Bool)
  /// The other side understood, and says no.
  case declined(reason: String)
  /// Asking again will not help, or what it did can't be told: somebody has to look.
  case impossible(reason: String)
}

/// Somebody who carries out a step of a payment. Implementations send the idempotency key ``idempotencyKey(_:_:)`` with
/// every try and give up after a time limit; they never throw.
public protocol StepProvider: Sendable {
  /// Makes one try. When the task is cancelled it returns soon, with any outcome.
  func perform(_ work: PaymentWork, for payment: Payment) async -> CallOutcome
}

/// The key of a payment's step: of the intent, not of the try, so that no number of tries has a second effect.
public func idempotencyKey(_ id: PaymentID, _ work: PaymentWork) -> String { "\(id):\(work)" }
