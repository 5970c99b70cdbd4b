/// What the log says about the tries of a step so far.
struct StepTrace: Sendable, Hashable {
  /// An earlier process may have made a try that was carried out.
  var mayHaveHappened = false
  /// Where and when the step was first requested: its idempotency key can't be older. See ``PaymentLog/age(of:)``.
  var asked: Asked?

  struct Asked: Sendable, Hashable {
    var offset: UInt64
    /// Since 1970, by the log's time.
    var microseconds: UInt64
  }
}

extension PaymentLog.Loaded {
  /// What the log says about the tries of a step.
  ///
  /// No event is written before a call: at 3,000 payments a second that would be 9,000 more events a second, each synced before
  /// its call, and three more syncs for each payment. The start of the process is proof enough. The process before may have tried
  /// a step that was requested before the log was opened; only this process can have tried a step that was requested since, and
  /// ``Tries`` knows. The price: after a start, all steps that were due count as tried.
  ///
  /// - Parameters:
  ///   - openedAt: the log's end when this process opened it.
  ///   - restorations: those of the log.
  ///   - keyLifetime: how long the PSP keeps an idempotency key; nil for ever.
  func trace(
    of work: PaymentWork, openedAt: UInt64, restorations: LogRestorations = .init(), keyLifetime: Duration? = nil
  ) -> StepTrace {
    var trace = StepTrace()
    for event in events where PaymentEvent.TypeName(rawValue: event.type)?.mayTell(of: work.step) ?? false {
      // An unreadable event was written by a newer program and is skipped, as everywhere.
      guard var known = try? PaymentEvent(type: event.type, payload: event.payload) else { continue }
      known = restorations.weakened(known, at: event.offset)
      if known.work == work {
        if event.offset < openedAt { trace.mayHaveHappened = true }
        if trace.asked == nil,
          let lost = restorations.lostUse(of: work.step, event, in: events[0], keyLifetime: keyLifetime)
        {
          trace = StepTrace(mayHaveHappened: true, asked: lost)
        }
        trace.asked = trace.asked ?? .init(offset: event.offset, microseconds: event.timestampMicroseconds)
        continue
      }
      switch known {
      // The wait may have ended in the process before, which then tried the step.
      case .delayed(let delay) where delay.work == work:
        if delay.mayHaveHappened || event.offset < openedAt { trace.mayHaveHappened = true }
      // These events say whether any try before them may have been carried out.
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
  /// Whether an event of this type can say something about tries of this step.
  fileprivate func mayTell(of step: PaymentStep) -> Bool {
    switch self {
    case .delayed, .outcomeResolved: true
    case .failed: step != .refund
    case .refundFailed: step == .refund
    default: mayRequest(step)
    }
  }
}
