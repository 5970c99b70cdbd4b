import LogStore
import Testing

@testable import RegisPay

/// Workers' questions and reports, on a real log.
@Suite("A desk that hands calls to workers")
struct WorkDeskTests {
  private struct Parts {
    var parts: ConsumerParts
    var consumer: StepConsumer
    var desk: WorkDesk
    var count: HandedCount
  }

  private static func withDesk(
    _ parts: ConsumerParts, timeLimit: Duration = .seconds(60),
    _ change: (inout StepConsumer.Options) -> Void = { _ in },
    _ work: (Parts) async throws -> Void
  ) async throws {
    var options = ConsumerParts.quick
    change(&options)
    let count = HandedCount()
    let consumer = StepConsumer(
      .create, log: parts.log, delays: parts.delays, provider: HandedProvider(), breaker: parts.breaker,
      retryStatus: parts.retryStatus, health: parts.health, options: options, handed: { count.value }, logger: silent)
    let desk = WorkDesk(
      of: consumer, log: parts.log, timeLimit: timeLimit, reportLimit: .milliseconds(1),
      retryStatus: parts.retryStatus, options: options, count: count)
    let run = Task { try await consumer.run() }
    let deskRun = Task { await desk.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work(Parts(parts: parts, consumer: consumer, desk: desk, count: count)))
    } catch {
      result = .failure(error)
    }
    desk.stop()
    consumer.stop()
    await deskRun.value
    try await run.value
    try result.get()
  }

  private static func order(_ answer: WorkAnswer) throws -> WorkOrder {
    guard case .call(let order) = answer else {
      Issue.record("no call: \(answer)")
      throw CancellationError()
    }
    return order
  }

  @Test("hands out a step that is due, once, and takes its outcome once; the checkpoint follows")
  func once() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let id = try await parts.initiate(1)[0]
      try await Self.withDesk(parts) { all in
        let order = try Self.order(await all.desk.ask(id))
        #expect(order.payment.id == id && order.work == PaymentWork(.create))
        #expect(all.count.value == 1)
        guard case .wait = await all.desk.ask(id) else {
          Issue.record("a second worker does not wait")
          return
        }
        #expect(await all.desk.work(of: order.token) == PaymentWork(.create))
        #expect(await all.desk.report("another", .created) == nil)
        #expect(await all.desk.report(order.token, .created) == .acknowledge)
        #expect(await all.desk.report(order.token, .created) == nil)
        #expect(try parts.log.load(id)?.payment.status == .created)
        #expect(await all.desk.ask(id) == .acknowledge)
        #expect(await all.desk.ask(.random()) == .acknowledge)
        #expect(all.count.value == 0)
        try await eventually("the checkpoint is past it") { await all.consumer.status.checkpoint > 0 }
      }
    }
  }

  @Test("a worker that reports nothing may have made the call: a later refusal leaves the outcome unknown")
  func silence() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let id = try await parts.initiate(1)[0]
      try await Self.withDesk(parts, timeLimit: .milliseconds(20)) { all in
        let first = try Self.order(await all.desk.ask(id))
        var second: WorkOrder?
        try await eventually("it is handed out again") {
          if case .call(let order) = await all.desk.ask(id) { second = order }
          return second != nil
        }
        let order = try #require(second)
        #expect(order.token != first.token)
        #expect(await all.desk.report(first.token, .created) == nil)
        _ = await all.desk.report(order.token, .refused(status: 422, reason: "no"))
        #expect(try parts.log.load(id)?.payment.status == .outcomeUnknown)
        #expect(parts.breaker.state == .closed)
      }
    }
  }

  @Test("an outage opens the breaker and keeps the messages; a payment's own failure gives its message back")
  func failures() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let ids = try await parts.initiate(7)
      try await Self.withDesk(parts) { all in
        let own = try Self.order(await all.desk.ask(ids[6]))
        guard case .giveBack = await all.desk.report(own.token, .busy) else {
          Issue.record("busy is no outage")
          return
        }
        for id in ids.prefix(5) {
          let order = try Self.order(await all.desk.ask(id))
          guard case .wait = await all.desk.report(order.token, .outage) else {
            Issue.record("an outage counts no delivery")
            return
          }
        }
        // Its time may be over at once on a busy machine; without a success it does not close.
        #expect(parts.breaker.state != .closed)
        try await eventually("a trial is handed out, and ends the outage") {
          guard case .call(let order) = await all.desk.ask(ids[5]) else { return false }
          return await all.desk.report(order.token, .created) == .acknowledge
        }
      }
    }
  }

  @Test("a payment that hangs waits on the log instead of a message, and is handed out without one")
  func hanging() async throws {
    try await withStore { store in
      var parts = ConsumerParts(log: PaymentLog(store))
      parts.delays = DelaysOfLog(log: parts.log)
      let ids = try await parts.initiate(2)
      let (id, other) = (ids[0], ids[1])
      try await Self.withDesk(parts) { all in
        var answer = WorkAnswer.wait(.zero)
        try await eventually("it waits on the log after two time-outs") {
          guard case .call(let order) = await all.desk.ask(id) else { return false }
          answer = await all.desk.report(order.token, .retry(CallRetry(.timeout, reason: "slow"))) ?? answer
          return answer == .acknowledge
        }
        #expect(try parts.log.load(id)?.payment.delays.count == 1)
        #expect(await all.desk.ask(id) == .acknowledge)
        try await eventually("it is handed out without a message") {
          guard case .call(let order) = await all.desk.askDue() else { return false }
          #expect(order.payment.id == id)
          return await all.desk.report(order.token, .created) == .acknowledge
        }
        #expect(try parts.log.load(id)?.payment.status == .created)
        // Both are done or on the log, but for the other one.
        let order = try Self.order(await all.desk.ask(other))
        #expect(await all.desk.report(order.token, .created) == .acknowledge)
      }
    }
  }

  @Test(
    "a payment with an event of a newer program, whose wait on the log is over, is not handed out, and not skipped again and again"
  )
  func newerEvent() async throws {
    try await withStore { store in
      var parts = ConsumerParts(log: PaymentLog(store))
      parts.delays = DelaysOfLog(log: parts.log)
      let ids = try await parts.initiate(2)
      try await Self.withDesk(parts) { all in
        for id in ids {
          try await eventually("it waits on the log") {
            guard case .call(let order) = await all.desk.ask(id) else { return false }
            return await all.desk.report(order.token, .retry(CallRetry(.timeout, reason: "slow"))) == .acknowledge
          }
        }
        _ = try await store.append(
          Append(NewEvent(stream: ids[0].stream, type: "PaymentCharmed", payload: Array("{}".utf8))))
        try await eventually("the other one is handed out") {
          guard case .call(let order) = await all.desk.askDue() else { return false }
          #expect(order.payment.id == ids[1])
          return await all.desk.report(order.token, .created) == .acknowledge
        }
        #expect(parts.log.damage.summary.skipped.isEmpty)
      }
    }
  }

  @Test("hands out nothing after a stop, and ends though a worker reports nothing")
  func stop() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let ids = try await parts.initiate(2)
      try await Self.withDesk(parts) { all in
        let order = try Self.order(await all.desk.ask(ids[0]))
        all.desk.stop()
        try await eventually("it hands out nothing") {
          if case .wait = await all.desk.ask(ids[1]) { true } else { false }
        }
        try await eventually("the call is given up") { await all.desk.work(of: order.token) == nil }
      }
      #expect(try parts.log.load(ids[0])?.payment.status == .initiated)
    }
  }

  @Test("tracked work is looked at once, and what is not done again in turn")
  func tracker() {
    var tracker = WorkTracker()
    let request = StepRequest(id: .random(), work: PaymentWork(.create))
    for offset in 0..<1_000 { tracker.read(request, at: UInt64(offset)) }
    let all = tracker.takeToCheck()
    #expect(all.count == 1_000 && tracker.count == 1_000)
    tracker.add(Array(all.dropFirst(100)))
    #expect(tracker.count == 900)
    let first = tracker.takeToCheck().map(\.offset)
    #expect(first == Array(100..<612))
    tracker.add([])
    #expect(tracker.takeToCheck().map(\.offset) == Array(612..<1_000))
  }
}

@Suite("What server and worker say to each other")
struct WorkWireTests {
  private let id = PaymentID.random()

  private func order(_ work: PaymentWork, refund: Refund? = nil, trace: TraceContext? = nil) -> WorkOrder {
    WorkOrder(
      token: "t", work: work,
      payment: Payment(
        forCallOf: id, Money(minorUnits: 1_234, currency: Currency.supported[0]), reference: "r", refund: refund),
      trace: trace, timeLimit: .seconds(10))
  }

  @Test("comes out as it went in")
  func answers() throws {
    let currency = Currency.supported[0]
    let parent = try #require(TraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    let refund = Refund(number: 3, amount: Money(minorUnits: 50, currency: currency), status: .requested)
    let answers: [WorkAnswer] = [
      .acknowledge, .wait(.milliseconds(250)), .giveBack(.seconds(2)), .call(order(PaymentWork(.settle))),
      .call(order(PaymentWork(refund: 3), refund: refund)),
      .call(order(PaymentWork(.create), trace: TraceContext(parent: parent, state: "a=b"))),
    ]
    for answer in answers {
      #expect(WorkWire.answer(try JSONReader.read(WorkWire.json(answer).bytes)) == answer)
    }
  }

  @Test("an outcome comes out as it went in, for the work that it is of")
  func outcomes() throws {
    var retry = CallRetry(.busy, reason: "later", after: .seconds(3))
    retry.isUnconfirmed = true
    let outcomes: [(PaymentWork, CallOutcome)] = [
      (PaymentWork(.create), .done(.recordCreated(reference: "r"))), (PaymentWork(.settle), .done(.recordSettled)),
      (PaymentWork(.cancel), .done(.recordCancelled)), (PaymentWork(.notify), .done(.recordCompleted)),
      (PaymentWork(refund: 2), .done(.recordRefunded(2))), (PaymentWork(.create), .declined(reason: "no")),
      (PaymentWork(.create), .refused(status: 422, reason: "no")), (PaymentWork(.create), .impossible(reason: "x")),
      (PaymentWork(.create), .unreadable(reason: "x")), (PaymentWork(.create), .retry(retry)),
    ]
    for (work, outcome) in outcomes {
      let json = try JSONReader.read(JSONValue.object(WorkWire.members(outcome)).bytes)
      #expect(WorkWire.outcome(json, of: work) == outcome)
    }
    for cause in CallRetry.Cause.allCases {
      let outcome = CallOutcome.retry(CallRetry(cause, reason: "x"))
      #expect(WorkWire.outcome(.object(WorkWire.members(outcome)), of: PaymentWork(.notify)) == outcome)
    }
  }

  @Test(
    "what a worker does not say is no outcome",
    arguments: [
      #"{}"#, #"{"outcome":"done"}"#, #"{"outcome":"accepted"}"#, #"{"outcome":"accepted","reference":""}"#,
      #"{"outcome":"refused","reason":"x"}"#, #"{"outcome":"retry","cause":"tired"}"#,
      #"{"outcome":"retry","cause":"busy","afterMilliseconds":-1}"#, #"{"outcome":7}"#, #"[]"#,
    ])
  func refused(_ text: String) throws {
    #expect(WorkWire.outcome(try JSONReader.read(Array(text.utf8)), of: PaymentWork(.create)) == nil)
  }

  @Test("a reason is cut, and its lines are joined")
  func reasons() throws {
    let json: JSONValue = ["outcome": "declined", "reason": .string("a\nb" + String(repeating: "x", count: 1_000))]
    guard case .declined(let reason) = WorkWire.outcome(json, of: PaymentWork(.create)) else {
      Issue.record("it is declined")
      return
    }
    #expect(reason.hasPrefix("a bxx") && reason.count == 500)
  }
}
