import LogStore
import SeededRandom
import Testing

@testable import RegisPay

@Suite("A payment's trace")
struct PaymentTraceTests {
  private static let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
  private static let money = Money(minorUnits: 1_050, currency: Currency.supported[0])
  private static let cursor = CursorCommit(name: "test", checkpoint: 0)

  private static func context(_ text: String, _ state: String? = nil) throws -> TraceContext {
    TraceContext(parent: try #require(TraceParent(text)), state: state)
  }

  @Test("has the steps and calls that were made, each within the one above it, in the trace that the request named")
  func whole() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try #require(
        try await log.initiate(Self.money, for: nil, trace: Self.context(Self.parent, "shop=1")))
      let began = log.microseconds
      try await record(.recordCreated(reference: "r"), .create, id, log, [call(began, "timeout"), call(began + 5)])
      try await record(.recordSettled, .settle, id, log, [call(log.microseconds)])
      try await record(.recordCompleted, .notify, id, log, [call(log.microseconds)])
      let trace = PaymentTrace(try #require(try log.load(id)))
      let spans = try spans(trace)
      #expect(
        spans.map(\.name) == [
          "payment", "request", "create", "psp create", "psp create", "settle", "psp settle", "notify",
          "notifications notify",
        ])
      #expect(spans.allSatisfy { $0.trace.text == "0af7651916cd43dd8448eb211c80319c" && $0.state == "shop=1" })
      #expect(spans[0].parent.map(spanText) == "b7ad6b7169203331")
      #expect(spans.map(\.error) == [nil, nil, nil, "timeout", nil, nil, nil, nil, nil])
      #expect(spans[1].kind == .server && spans[3].kind == .client && spans[2].kind == .internal)
    }
  }

  @Test("a payment whose request named no trace has one with its own id")
  func derived() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      try await record(.decline(PaymentWork(.create), reason: "no funds"), .create, id, log, [call(log.microseconds)])
      let spans = try spans(PaymentTrace(try #require(try log.load(id))))
      #expect(spans.allSatisfy { $0.trace.text == id.description.filter { $0 != "-" } && $0.state == nil })
      #expect(spans[0].parent == nil && spans[0].error == "declined: no funds" && spans[0].ended != nil)
    }
  }

  @Test("a refund's request has a trace of its own, and events that follow from it name it; other events do not")
  func refund() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      try await record(.recordCreated(reference: "r"), .create, id, log)
      try await record(.recordSettled, .settle, id, log)
      _ = try await log.request(.refund(nil), of: id, trace: Self.context(Self.parent))
      try await record(.recordCompleted, .notify, id, log)
      try await record(.recordRefunded(1), PaymentWork(refund: 1), id, log)
      let loaded = try #require(try log.load(id))
      let named = loaded.events.map { EventMetadata.trace(in: $0.payload) != nil }
      #expect(named == [false, false, false, true, false, true])
      let trace = PaymentTrace(loaded)
      #expect(trace.operations.map(\.kind) == [.payment, .refund(1)])
      #expect(trace.operations.map { $0.named != nil } == [false, true])
      let refund = trace.spans(of: trace.operations[1])
      #expect(refund.map(\.name) == ["refund", "refund"] && refund[0].parent.map(spanText) == "b7ad6b7169203331")
      _ = try spans(trace)
      // Messages about the events have their operation as parent.
      for (version, operation) in [(1, 0), (4, 1), (5, 0), (6, 1)] {
        let upTo = try #require(try log.load(id, upTo: UInt64(version)))
        let context = Tracing().context(ofLastEventOf: upTo)
        #expect(context?.parent.span == trace.spans(of: trace.operations[operation])[0].id, "version \(version)")
      }
    }
  }

  @Test("a wait on the log shows its calls; a retry of a parked step stays in the same trace, unless it names another")
  func retried() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try #require(try await log.initiate(Self.money, for: nil, trace: Self.context(Self.parent)))
      let create = PaymentWork(.create)
      let delay = Delay(create, untilMicroseconds: 0, attempts: 3, ownFailures: 3, reason: "502")
      try await record(.delay(delay), create, id, log, [call(log.microseconds, "server_error")])
      _ = try await log.request(.retry, of: id)
      try await record(.park(create, reason: "404"), create, id, log, [call(log.microseconds, "misconfigured")])
      _ = try await log.request(.retry, of: id)
      try await record(.park(create, reason: "404"), create, id, log, [call(log.microseconds, "misconfigured")])
      let other = Self.parent.replacing("0af7", with: "ffff")
      _ = try await log.request(.retry, of: id, trace: Self.context(other))
      try await record(.recordCreated(reference: "r"), create, id, log)
      let trace = PaymentTrace(try #require(try log.load(id)))
      #expect(trace.operations.map(\.steps.count) == [1, 1, 2])
      #expect(trace.operations[0].steps[0].notes.map(\.name) == ["delayed", "retried"])
      #expect(trace.operations[0].steps[0].calls.map(\.error) == ["server_error", "misconfigured"])
      #expect(trace.operations.map { $0.named?.parent.field } == [Self.parent, Self.parent, other])
      #expect(trace.operations.map(\.isOpen) == [false, false, true])
      _ = try spans(trace)
    }
  }

  @Test("a cancellation is an operation of its own; with it the payment's ends")
  func cancelled() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      _ = try await log.request(.cancel, of: id)
      try await record(.recordCreated(reference: "r"), .create, id, log)
      try await record(.recordCancelled, .cancel, id, log)
      let trace = PaymentTrace(try #require(try log.load(id)))
      #expect(trace.operations.map(\.kind) == [.payment, .cancellation])
      #expect(trace.operations.allSatisfy { !$0.isOpen && $0.error == nil })
      _ = try spans(trace)
    }
  }

  @Test("after any events the spans form trees, in which each lies within the one above it")
  func anyEvents() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      var random = SeededGenerator(20_261_129)
      for _ in 0..<150 {
        let id = try #require(
          try await log.initiate(
            Self.money, for: nil, trace: Bool.random(using: &random) ? Self.context(Self.parent) : nil))
        for _ in 0..<12 {
          let refund = PaymentWork(refund: Int.random(in: 1...2, using: &random))
          let work =
            [PaymentWork(.create), PaymentWork(.settle), PaymentWork(.cancel), PaymentWork(.notify), refund]
            .randomElement(using: &random) ?? refund
          let commands: [PaymentCommand] = [
            .recordCreated(reference: "r"), .recordSettled, .recordCompleted, .recordCancelled,
            .recordCancellationRefused(reason: "late"), .recordRefunded(1), .recordRefunded(2),
            .decline(work, reason: "no"), .park(work, reason: "404"), .markUnknown(work, reason: "lost"),
            .delay(Delay(work, untilMicroseconds: 1, attempts: 1, ownFailures: 1, reason: "502")),
          ]
          let requests: [PaymentCommand] = [
            .cancel, .refund(Money(minorUnits: 500, currency: Self.money.currency)), .retry,
            .resolve(work, .happened(reference: "x")), .resolve(work, .didNotHappen),
          ]
          if Int.random(in: 0..<3, using: &random) == 0 {
            let named =
              Bool.random(using: &random) ? try Self.context(Self.parent.replacing("0af7", with: "abcd")) : nil
            _ = try await log.request(requests.randomElement(using: &random) ?? .retry, of: id, trace: named)
          } else {
            let command = commands.randomElement(using: &random) ?? .recordSettled
            try await record(command, work, id, log, [call(log.microseconds)])
          }
        }
        let loaded = try #require(try log.load(id))
        let trace = PaymentTrace(loaded)
        let spans = try spans(trace)
        // No call is lost that an event of its step tells of.
        #expect(spans.count { $0.kind == .client } <= loaded.events.count)
        if loaded.payment.nextStep == nil, !loaded.payment.refunds.contains(where: { $0.status == .requested }) {
          #expect(trace.operations.allSatisfy { !$0.isOpen }, "\(loaded.events.map(\.type))")
        }
        for version in 1...loaded.version { #expect(trace.operation(at: version) != nil) }
      }
    }
  }

  @Test("metadata is one more member of an event's data, whatever the data hold, and changes nothing else of it")
  func metadata() throws {
    let metadata = EventMetadata(
      trace: try Self.context(Self.parent, "a=\"b\""), calls: [call(7), call(8, "timeout")])
    for event in [PaymentEvent.settled, .created(reference: "r}"), .initiated(.random(), Self.money)] {
      #expect(EventMetadata().added(to: event.payload) == event.payload)
      let payload = metadata.added(to: event.payload)
      #expect(EventMetadata(payload: payload) == metadata && EventMetadata.trace(in: payload) == metadata.trace)
      #expect(try PaymentEvent(type: event.type, payload: payload) == event)
    }
  }

  // MARK: -

  private func call(_ began: UInt64, _ error: String? = nil) -> CallRecord {
    CallRecord(beganMicroseconds: began, durationMicroseconds: 1_000_000, error: error)
  }

  private func record(
    _ command: PaymentCommand, _ work: PaymentWork, _ id: PaymentID, _ log: PaymentLog, _ calls: [CallRecord] = []
  ) async throws {
    _ = try await log.record(command, of: work, on: id, calls: calls, cursor: Self.cursor)
  }

  private func record(
    _ command: PaymentCommand, _ step: PaymentStep, _ id: PaymentID, _ log: PaymentLog, _ calls: [CallRecord] = []
  ) async throws {
    try await record(command, PaymentWork(step), id, log, calls)
  }

  /// All spans, which are checked.
  private func spans(_ trace: PaymentTrace) throws -> [Span] {
    var all: [Span] = []
    for operation in trace.operations {
      let spans = trace.spans(of: operation)
      let byID = Dictionary(uniqueKeysWithValues: spans.map { ($0.id, $0) })
      for span in spans.dropFirst() {
        let parent = try #require(span.parent.flatMap { byID[$0] })
        #expect(parent.began <= span.began && (span.ended ?? .max) <= (parent.ended ?? .max), "\(span.name)")
        #expect(span.began <= (span.ended ?? .max))
      }
      #expect(operation.isOpen == (spans[0].ended == nil))
      all += spans
    }
    #expect(Set(all.map { [$0.trace.high, $0.trace.low, $0.id] }).count == all.count)
    return all
  }
}
