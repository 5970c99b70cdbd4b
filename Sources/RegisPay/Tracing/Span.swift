/// A span as OpenTelemetry defines it.
struct Span: Sendable {
  /// The numbers of OTLP.
  enum Kind: Int, Sendable {
    case `internal` = 1
    case server = 2
    case client = 3
  }

  var trace: TraceID
  var id: UInt64
  var parent: UInt64?
  var state: String?
  var name: String
  var kind = Kind.internal
  /// Microseconds since 1970.
  var began: UInt64
  /// Nil for a span that is not over.
  var ended: UInt64?
  var attributes: [(name: String, value: String)] = []
  var notes: [PaymentTrace.Note] = []
  var error: String?
}

extension PaymentTrace {
  /// The longest time between a request and its first event that an id is believed: clocks may have been set in between.
  private static let requestLimit: UInt64 = 60_000_000

  /// The operation's spans: the operation itself, in it the request and the steps, and in these their calls. Every span lies within the
  /// one above it.
  func spans(of operation: Operation) -> [Span] {
    let trace = operation.named?.parent.trace ?? payment.traceID
    let state = operation.named?.state
    let root = SpanID.operation(payment, operation.version, in: trace)
    let began = requestBegan(operation) ?? operation.began
    var spans = [
      Span(
        trace: trace, id: root, parent: operation.named?.parent.span, state: state, name: operation.kind.name,
        began: began,
        ended: operation.isOpen ? nil : operation.last.microseconds,
        attributes: [("regispay.payment.id", "\(payment)")], error: operation.error)
    ]
    if began < operation.began {
      spans.append(
        Span(
          trace: trace, id: SpanID.request(payment, operation.version, in: trace), parent: root, state: state,
          name: "request", kind: .server, began: began, ended: operation.began))
    }
    for step in operation.steps {
      let id = SpanID.step(step.work, of: payment, step.version, in: trace)
      spans.append(
        Span(
          trace: trace, id: id, parent: root, state: state, name: step.work.step.rawValue, began: step.began,
          ended: step.ended, attributes: step.work.refund.map { [("regispay.refund", String($0))] } ?? [],
          notes: step.notes, error: step.error))
      for call in step.calls { spans.append(span(of: call, step, id, trace, state)) }
    }
    return spans
  }

  private func span(of call: CallRecord, _ step: Step, _ parent: UInt64, _ trace: TraceID, _ state: String?) -> Span {
    let end = step.ended ?? .max
    // A call's times were taken in another place than its events' times.
    let began = min(max(call.beganMicroseconds, step.began), end)
    let service = step.work.step == .notify ? "notifications" : "psp"
    return Span(
      trace: trace, id: SpanID.call(of: step.work, of: payment, began: call.beganMicroseconds, in: trace),
      parent: parent,
      state: state, name: "\(service) \(step.work.step.rawValue)", kind: .client, began: began,
      ended: min(began + call.durationMicroseconds, end),
      attributes: [("http.request.method", "POST"), ("peer.service", service)]
        + (call.error.map { [("error.type", $0)] } ?? []),
      error: call.error)
  }

  /// When the request arrived that created the payment, to a millisecond; nil for other operations.
  private func requestBegan(_ operation: Operation) -> UInt64? {
    guard operation.version == 1 else { return nil }
    let began = payment.milliseconds &* 1_000
    return began <= operation.began && operation.began - began < Self.requestLimit ? began : nil
  }
}

extension OperationKind {
  /// The name of the operation's span.
  fileprivate var name: String {
    switch self {
    case .payment: "payment"
    case .cancellation: "cancellation"
    case .refund: "refund"
    }
  }
}
