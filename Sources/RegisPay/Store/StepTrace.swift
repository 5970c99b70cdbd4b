/// What the log says about the tries of a step so far.
struct StepTrace: Sendable, Hashable {
  /// An earlier process may have made a try that was carried out.
  var mayHaveHappened = false
  /// Where on the log the step was first asked for, and when: its idempotency key can't be older. See
  /// ``PaymentLog/age(of:)``.
  var asked: Asked?

  struct Asked: Sendable, Hashable {
    var offset: UInt64
    /// Since 1970, by the log's times.
    var microseconds: UInt64
  }
}

extension PaymentLog.Loaded {
  /// What the log says about the tries of a step.
  ///
  /// There is no record before each call: at 3,000 payments a second it would be 9,000 more events a second, each synced
  /// before its call, and a payment would take three more syncs. The start of the process is proof enough. What was asked
  /// for before the log was opened may have been tried by the process before; what was asked for since then was tried by
  /// this process, if at all, and ``Tries`` knows. The price is that after a start all steps that were due count as tried.
  ///
  /// - Parameter openedAt: the log's end when this process opened it.
  func trace(of work: PaymentWork, openedAt: UInt64) -> StepTrace {
    var trace = StepTrace()
    for event in events where PaymentEvent.TypeName(rawValue: event.type)?.mayTell(of: work.step) ?? false {
      // What can't be read was written by a newer program, and is passed over as everywhere.
      guard let known = try? PaymentEvent(type: event.type, payload: event.payload) else { continue }
      if known.work == work {
        if event.offset < openedAt { trace.mayHaveHappened = true }
        trace.asked = trace.asked ?? .init(offset: event.offset, microseconds: event.timestampMicroseconds)
        continue
      }
      switch known {
      // Its time may have come in the process before, and then it was tried.
      case .delayed(let delay) where delay.work == work:
        if delay.mayHaveHappened || event.offset < openedAt { trace.mayHaveHappened = true }
      // These say what became of all tries before.
      case .failed(work.step, _, let mayHaveHappened): trace.mayHaveHappened = mayHaveHappened
      case .refundFailed(let number, _, let mayHaveHappened) where number == work.refund:
        trace.mayHaveHappened = mayHaveHappened
      case .outcomeResolved(work, happened: false): trace.mayHaveHappened = false
      default: break
      }
    }
    return trace
  }
}

extension PaymentEvent.TypeName {
  /// Whether an event of this type can say something about tries of a step.
  fileprivate func mayTell(of step: PaymentStep) -> Bool {
    switch self {
    case .delayed, .outcomeResolved: true
    case .failed: step != .refund
    case .refundFailed: step == .refund
    default: mayAsk(for: step)
    }
  }
}
