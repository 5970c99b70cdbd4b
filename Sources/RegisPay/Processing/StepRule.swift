/// Decides what becomes of a step after a call, from what the response proves. Pure.
enum StepRule {
  /// The command that records the outcome; nil when the call is to be repeated with the same key.
  ///
  /// Once a try may have been carried out, only a response about that call decides: a success or an explicit decline (402). Any
  /// other refusal may be about the repeat alone ("no such key", "done already") and leaves the outcome unknown.
  /// ``StatusMeaning`` has the closed list of refusals.
  ///
  /// - Parameters:
  ///   - mayHaveHappened: an earlier try of the step may have reached the other side.
  ///   - isExhausted: this failure ends the payment's tries.
  static func command(
    for outcome: CallOutcome, of work: PaymentWork, mayHaveHappened: Bool, isExhausted: Bool
  ) -> PaymentCommand? {
    switch outcome {
    case .done(let command): return command
    case .declined(let reason): return refusal(work, reason)
    case .refused(_, let reason):
      guard mayHaveHappened else { return refusal(work, reason) }
      return .markUnknown(work, reason: "\(reason), and an earlier try may have been carried out")
    case .impossible(let reason):
      guard mayHaveHappened else { return .park(work, reason: reason) }
      return .markUnknown(work, reason: "\(reason), and an earlier try may have been carried out")
    case .unreadable(let reason): return .markUnknown(work, reason: reason)
    case .retry(let failure):
      guard isExhausted else { return nil }
      let reason = "\(failure.reason), repeatedly, while other payments' calls succeeded"
      if mayHaveHappened || failure.mayHaveHappened { return .markUnknown(work, reason: reason) }
      // The PSP has no such call, at this address or at all: the payment continues.
      if work.step == .cancel, failure.cause == .misconfigured {
        return .recordCancellationRefused(reason: "the PSP can't cancel: \(failure.reason)")
      }
      return .park(work, reason: reason)
    }
  }

  private static func refusal(_ work: PaymentWork, _ reason: String) -> PaymentCommand {
    work.step == .cancel ? .recordCancellationRefused(reason: reason) : .decline(work, reason: reason)
  }

  /// The command that needs no call; nil when a call must be made.
  ///
  /// - Parameters:
  ///   - age: the time since the step was first requested: its key can't be older.
  ///   - keyLifetime: how long the other side keeps a key; nil for ever.
  static func commandWithoutCall(
    _ work: PaymentWork, of payment: Payment, mayHaveHappened: Bool, age: Duration, keyLifetime: Duration?
  ) -> PaymentCommand? {
    guard mayHaveHappened else {
      return work.step == .create && payment.isCancellationAsked ? .recordNotCreated : nil
    }
    guard let keyLifetime, age > keyLifetime, work.step.movesMoney else { return nil }
    return .markUnknown(
      work,
      reason:
        "an earlier try may have been carried out, and the PSP keeps its key for \(keyLifetime) only: a repeat could "
        + "do it a second time")
  }
}

extension PaymentStep {
  /// Whether carrying the step out twice costs money, as happens under a key that the other side has forgotten. Cancelling or
  /// notifying twice does not.
  var movesMoney: Bool {
    switch self {
    case .create, .settle, .refund: true
    case .cancel, .notify: false
    }
  }
}
