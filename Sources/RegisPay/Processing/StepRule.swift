/// What becomes of a step after a call, by what the answer proves. Pure.
enum StepRule {
  /// What is to be recorded; nil when the call is to be made again with the same key.
  ///
  /// Once a try may have been carried out, only an answer about that call decides: a success, or a decline in so many
  /// words. Any other refusal may be about the repeat alone ("no such key", "done already"), and leaves the outcome
  /// unknown. Which answers are a refusal at all is told by ``StatusMeaning``: a closed list.
  ///
  /// - Parameters:
  ///   - mayHaveHappened: an earlier try of the step may have reached the other side.
  ///   - isExhausted: this failure ends the payment's tries.
  static func command(
    for outcome: CallOutcome, of work: PaymentWork, mayHaveHappened: Bool, isExhausted: Bool
  ) -> PaymentCommand? {
    switch outcome {
    case .done(let command): return command
    case .declined(let reason): return no(work, reason)
    case .refused(_, let reason):
      guard mayHaveHappened else { return no(work, reason) }
      return .markUnknown(work, reason: "\(reason), and an earlier try may have been carried out")
    case .impossible(let reason):
      guard mayHaveHappened else { return .giveUp(work, reason: reason) }
      return .markUnknown(work, reason: "\(reason), and an earlier try may have been carried out")
    case .unreadable(let reason): return .markUnknown(work, reason: reason)
    case .retry(let failure):
      guard isExhausted else { return nil }
      let reason = "\(failure.reason), again and again, while others went through"
      if mayHaveHappened || failure.mayHaveHappened { return .markUnknown(work, reason: reason) }
      // It knows no such call, at this address or at all: the payment goes on.
      if work.step == .cancel, failure.cause == .misconfigured {
        return .recordCancellationRefused(reason: "the PSP can't cancel: \(failure.reason)")
      }
      return .giveUp(work, reason: reason)
    }
  }

  private static func no(_ work: PaymentWork, _ reason: String) -> PaymentCommand {
    work.step == .cancel ? .recordCancellationRefused(reason: reason) : .decline(work, reason: reason)
  }

  /// What can be recorded without a call; nil when one is to be made.
  ///
  /// - Parameters:
  ///   - age: how long ago the step was first asked for, and its key can have been used first.
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
  /// A second effect of it costs money: what is done under a key that the other side has forgotten. To cancel twice, or
  /// to notify twice, does not.
  var movesMoney: Bool {
    switch self {
    case .create, .settle, .refund: true
    case .cancel, .notify: false
    }
  }
}
