/// Decides which traces are recorded, the same for all parts of one. The samplers of the OpenTelemetry specification
/// (https://opentelemetry.io/docs/specs/otel/trace/sdk/#built-in-samplers).
struct TraceSampler: Sendable, Hashable {
  /// Of the traces that begin here, from 0 to 1.
  var ratio: Double
  /// A trace that began elsewhere is recorded if it is recorded there.
  var followsParent = true

  static let none = TraceSampler(ratio: 0)

  /// - Parameter parent: nil for a trace that begins here.
  func records(_ trace: TraceID, parent: TraceParent?) -> Bool {
    if followsParent, let parent { return parent.isSampled }
    // The specification's rule for random ids: their last 56 bits.
    return trace.low & 0xFF_FFFF_FFFF_FFFF < UInt64(ratio * 0x1p56)
  }
}

/// Which trace a payment's calls belong to.
public struct Tracing: Sendable {
  var sampler = TraceSampler.none

  /// Traces that begin here are not recorded.
  public init() {}

  init(sampler: TraceSampler) { self.sampler = sampler }

  /// For a call of a step, to send with it.
  ///
  /// - Parameter began: the call's begin, in microseconds since 1970.
  func context(of work: PaymentWork, in loaded: PaymentLog.Loaded, began: UInt64) -> TraceContext {
    let named = loaded.namedTrace(of: work)
    let trace = named?.parent.trace ?? loaded.payment.id.traceID
    return TraceContext(
      parent: TraceParent(
        trace, span: SpanID.call(of: work, of: loaded.payment.id, began: began, in: trace),
        isSampled: sampler.records(trace, parent: named?.parent)), state: named?.state)
  }

  /// For a message about an event of a payment: its parent is the operation that the event belongs to. Nil for an event that this
  /// program doesn't know.
  ///
  /// - Parameter loaded: the payment up to the event.
  func context(ofLastEventOf loaded: PaymentLog.Loaded) -> TraceContext? {
    let payment = loaded.payment.id
    var (version, named) = (UInt64(1), loaded.events.first.flatMap { EventMetadata.trace(in: $0.payload) })
    // Most payments have one operation, and need not be read again.
    if loaded.events.contains(where: { PaymentEvent.TypeName(rawValue: $0.type)?.mayBeginAgain ?? false }) {
      guard let operation = PaymentTrace(loaded).operation(at: loaded.version) else { return nil }
      (version, named) = (operation.version, operation.named)
    }
    let trace = named?.parent.trace ?? payment.traceID
    return TraceContext(
      parent: TraceParent(
        trace, span: SpanID.operation(payment, version, in: trace),
        isSampled: sampler.records(trace, parent: named?.parent)), state: named?.state)
  }
}

extension PaymentEvent.TypeName {
  /// Whether an event of this type may begin an operation other than a payment's first.
  fileprivate var mayBeginAgain: Bool {
    switch self {
    case .cancellationRequested, .refundRequested, .retried, .outcomeResolved: true
    default: false
    }
  }
}

/// The ids of a payment's spans. They follow from what they stand for, so they are the same in each process and each time the trace
/// is made from the log.
enum SpanID {
  /// - Parameter version: of the event that began the operation.
  static func operation(_ payment: PaymentID, _ version: UInt64, in trace: TraceID) -> UInt64 {
    trace.span(payment.traceID.high, payment.traceID.low, 1, version)
  }

  static func request(_ payment: PaymentID, _ version: UInt64, in trace: TraceID) -> UInt64 {
    trace.span(payment.traceID.high, payment.traceID.low, 2, version)
  }

  /// - Parameter version: of the event that requested the step.
  static func step(_ work: PaymentWork, of payment: PaymentID, _ version: UInt64, in trace: TraceID) -> UInt64 {
    trace.span(payment.traceID.high, payment.traceID.low, 3, version, number(work))
  }

  static func call(of work: PaymentWork, of payment: PaymentID, began: UInt64, in trace: TraceID) -> UInt64 {
    trace.span(payment.traceID.high, payment.traceID.low, 4, began, number(work))
  }

  private static func number(_ work: PaymentWork) -> UInt64 {
    let step: UInt64 =
      switch work.step {
      case .create: 1
      case .settle: 2
      case .cancel: 3
      case .notify: 4
      case .refund: 5
      }
    return UInt64(work.refund ?? 0) << 8 | step
  }
}
