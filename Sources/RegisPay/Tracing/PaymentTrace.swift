import LogStore

/// What happened to a payment, as operations of steps of calls, made from its events alone. So it is the same whether the server
/// was killed in between or not. A pure value.
struct PaymentTrace: Sendable {
  /// What somebody asked for, with all that followed from it.
  struct Operation: Sendable {
    let kind: OperationKind
    /// Of the event that began it.
    let version: UInt64
    let began: UInt64
    /// That the request named; nil if it named none.
    let named: TraceContext?
    fileprivate(set) var steps: [Step] = []
    /// Of the last event that belongs to it.
    fileprivate(set) var last: (version: UInt64, microseconds: UInt64)

    var isOpen: Bool { steps.contains { $0.ended == nil } }
    /// Why it did not succeed; nil if it did, or is not over.
    var error: String? { isOpen ? nil : steps.last?.error }
  }

  struct Step: Sendable {
    let work: PaymentWork
    /// Of the event that requested it.
    let version: UInt64
    let began: UInt64
    fileprivate(set) var ended: UInt64?
    fileprivate(set) var error: String?
    fileprivate(set) var calls: [CallRecord] = []
    fileprivate(set) var notes: [Note] = []
  }

  /// Something that happened in between.
  struct Note: Sendable {
    var name: String
    var microseconds: UInt64
    var reason: String?
  }

  let payment: PaymentID
  /// In the order of their begins.
  private(set) var operations: [Operation] = []

  init(_ loaded: PaymentLog.Loaded) {
    payment = loaded.payment.id
    for event in loaded.events {
      // An event of a newer program is skipped, as everywhere.
      guard let known = try? PaymentEvent(type: event.type, payload: event.payload) else { continue }
      apply(known, event, EventMetadata(payload: event.payload))
    }
  }

  /// The operation that an event belongs to: for one that changes no step, the operation before it. Nil if all before it is of a newer
  /// program.
  func operation(at version: UInt64) -> Operation? {
    operations.last { $0.version <= version && version <= $0.last.version } ?? operations.last { $0.version <= version }
  }

  // MARK: - Events

  private mutating func apply(_ known: PaymentEvent, _ event: Event, _ metadata: EventMetadata) {
    switch known {
    case .initiated, .cancellationRequested, .refundRequested, .retried, .outcomeResolved:
      if let work = known.asksFor { ask(for: work, known, event, metadata) }
    case .created, .settled, .completed, .refunded:
      if let work = known.done { end(work, event, metadata) }
      if case .settled = known { end(PaymentWork(.cancel), event, error: "the settlement came first") }
      if let next = known.work { begin(next, event) }
    case .declined(let step, let reason):
      end(PaymentWork(step), event, metadata, error: "declined: \(reason)")
      endAll(event)
    case .cancellationRefused(let reason):
      end(PaymentWork(.cancel), event, metadata, error: "refused: \(reason)")
      if let next = known.work { begin(next, event) }
    case .cancelled:
      end(PaymentWork(.cancel), event, metadata)
      endAll(event)
    case .failed(let step, let reason, _):
      end(PaymentWork(step), event, metadata, error: "parked: \(reason)")
      endAll(event)
    case .refundDeclined(let number, let reason):
      end(PaymentWork(refund: number), event, metadata, error: "declined: \(reason)")
    case .refundFailed(let number, let reason, _):
      end(PaymentWork(refund: number), event, metadata, error: "parked: \(reason)")
    case .outcomeUnknown(let work, let reason):
      end(work, event, metadata, error: "outcome unknown: \(reason)")
      if work.refund == nil { endAll(event) }
    case .delayed(let delay):
      change(delay.work, event) { step in
        step.calls += metadata.calls
        step.notes.append(Note(name: "delayed", microseconds: event.timestampMicroseconds, reason: delay.reason))
      }
    }
  }

  private mutating func ask(for work: PaymentWork, _ known: PaymentEvent, _ event: Event, _ metadata: EventMetadata) {
    let kind = OperationKind(work)
    if openStep(work) != nil {
      switch known {
      // The creation that was waited for has succeeded.
      case .cancellationRequested: return change(work, event) { _ in }
      case .retried where metadata.trace == nil:
        return change(work, event) { step in
          step.notes.append(Note(name: "retried", microseconds: event.timestampMicroseconds, reason: nil))
        }
      default: break
      }
    }
    end(work, event)
    operations.append(
      Operation(
        kind: kind, version: event.version, began: event.timestampMicroseconds,
        // A retry that names no trace belongs to the trace of the operation before it.
        named: metadata.trace ?? operations.last { $0.kind == kind }?.named,
        last: (event.version, event.timestampMicroseconds)))
    begin(work, event)
  }

  private mutating func begin(_ work: PaymentWork, _ event: Event) {
    let kind = OperationKind(work)
    guard openStep(work) == nil, let index = operations.lastIndex(where: { $0.kind == kind }) else { return }
    operations[index].steps.append(Step(work: work, version: event.version, began: event.timestampMicroseconds))
    operations[index].last = (event.version, event.timestampMicroseconds)
  }

  private mutating func end(
    _ work: PaymentWork, _ event: Event, _ metadata: EventMetadata = .init(), error: String? = nil
  ) {
    change(work, event) { step in
      step.calls += metadata.calls
      step.ended = event.timestampMicroseconds
      step.error = error
    }
  }

  /// Nothing of the payment goes on, but for refunds.
  private mutating func endAll(_ event: Event) {
    for step in PaymentStep.allCases where step != .refund { end(PaymentWork(step), event) }
  }

  private mutating func change(_ work: PaymentWork, _ event: Event, _ change: (inout Step) -> Void) {
    guard let (operation, step) = openStep(work) else { return }
    change(&operations[operation].steps[step])
    operations[operation].last = (event.version, event.timestampMicroseconds)
  }

  private func openStep(_ work: PaymentWork) -> (operation: Int, step: Int)? {
    for (number, operation) in operations.enumerated().reversed() {
      if let step = operation.steps.lastIndex(where: { $0.work == work && $0.ended == nil }) { return (number, step) }
    }
    return nil
  }
}

extension PaymentEvent {
  /// The step that succeeded with this event; nil for other events.
  fileprivate var done: PaymentWork? {
    switch self {
    case .created: PaymentWork(.create)
    case .settled: PaymentWork(.settle)
    case .completed: PaymentWork(.notify)
    case .refunded(let number): PaymentWork(refund: number)
    default: nil
    }
  }
}
