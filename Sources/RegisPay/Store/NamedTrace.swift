/// Which of a payment's operations a step or an event belongs to: what somebody asked for, with all that followed from it.
enum OperationKind: Sendable, Hashable {
  /// To create, settle and notify.
  case payment
  case cancellation
  case refund(Int)

  init(_ work: PaymentWork) {
    self =
      switch (work.step, work.refund) {
      case (_, let number?): .refund(number)
      case (.cancel, _): .cancellation
      default: .payment
      }
  }
}

extension PaymentLog.Loaded {
  /// The trace that the request for a step named: the last one, as a person may have asked again. Nil if none did.
  func namedTrace(of work: PaymentWork) -> TraceContext? {
    let kind = OperationKind(work)
    for event in events.reversed() {
      guard let trace = EventMetadata.trace(in: event.payload), asks(event.type, event.payload) == kind else {
        continue
      }
      return trace
    }
    return nil
  }

  /// The operation that somebody asked for with an event; nil if the event is a consequence.
  private func asks(_ type: String, _ payload: [UInt8]) -> OperationKind? {
    // An event of a newer program is skipped, as everywhere.
    guard let event = try? PaymentEvent(type: type, payload: payload) else { return nil }
    return event.asksFor.map(OperationKind.init)
  }
}

extension PaymentEvent {
  /// The step that somebody asks for with this event; nil if nobody does.
  var asksFor: PaymentWork? {
    switch self {
    case .initiated, .cancellationRequested, .refundRequested, .retried: work
    case .outcomeResolved(let work, _): work
    case .created, .settled, .completed, .declined, .cancellationRefused, .cancelled, .failed, .delayed, .refunded,
      .refundDeclined, .refundFailed, .outcomeUnknown:
      nil
    }
  }
}
