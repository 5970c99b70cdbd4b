import LogStore
import Logging
import Synchronization
import Testing

@testable import RegisPay

private let ten: JSONValue = ["amount": .number("10"), "currency": "GBP"]
private let eleven: JSONValue = ["amount": .number("11"), "currency": "GBP"]

@Suite("The PSP simulator")
struct SimulatorTests {
  @Test("the same key and body get the same response and one charge, also at the same time and after a restart")
  func idempotent() async throws {
    try await withTemporaryFolder { folder in
      let key = "\(PaymentID.random()):create"
      var responses: Set<Simulator.Response> = []
      for _ in 1...2 {
        let store = try openStore(folder)
        let simulator = Simulator(store: store)
        try await withThrowingTaskGroup(of: Simulator.Response.self) { group in
          for _ in 0..<50 { group.addTask { try await simulator.createPayment(key: key, body: ten) } }
          for try await response in group { responses.insert(response) }
        }
        let charges = try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all()
        #expect(charges.map(\.idempotencyKey) == [key])
        try await store.close()
      }
      #expect(responses.count == 1)
      #expect(responses.first?.status == 202)
    }
  }

  @Test("the same key with another body is refused with 422 and charges nothing")
  func anotherBody() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let first = try await simulator.createPayment(key: "k", body: ten)
      #expect(try await simulator.createPayment(key: "k", body: eleven).status == 422)
      #expect(try await simulator.sendNotification(key: "k", body: ["id": "x", "jsonPayload": "{}"]).status == 422)
      #expect(try await simulator.createPayment(key: "k", body: ten) == first)
      // The same amount, written differently, is the same request.
      #expect(
        try await simulator.createPayment(key: "k", body: ["amount": .number("1e1"), "currency": "GBP"]) == first)
      #expect(try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all().count == 1)
    }
  }

  @Test("without a key every request is a charge, as the reference has it")
  func noKey() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      for _ in 0..<3 { _ = try await simulator.createPayment(key: nil, body: ten) }
      let charges = try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all()
      #expect(charges.count == 3)
    }
  }

  @Test("what keeps the log from being written is in a log line")
  func unwritable() async throws {
    try await withTemporaryFolder { folder in
      let lines = Mutex("")
      let writer = LogWriter(.text) { line in lines.withLock { $0 += line } }
      let store = try openStore(folder)
      let simulator = Simulator(store: store, logger: Logger(label: "test") { _ in writer.handler() })
      try await store.close()
      await #expect(throws: LogStoreError.self) { try await simulator.createPayment(key: nil, body: ten) }
      #expect(lines.withLock { $0 }.contains("the simulator's log can't write"))
    }
  }

  @Test("a request without a sound amount, or for a refund in another currency, gets the rule")
  func rules() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      for body: JSONValue in [
        [:], ["amount": .number("-1"), "currency": "GBP"], ["amount": .number("1e400"), "currency": "XXX"],
      ] {
        let response = try await simulator.createPayment(key: nil, body: body)
        #expect(response.status == 400 && response.body["error"]?.text?.contains("above 0") == true)
      }
      let made = try await simulator.createPayment(key: nil, body: ten)
      let reference = try #require(made.body["paymentId"]?.text)
      _ = try await simulator.settlePayment(reference: reference, key: nil)
      let refund = try await simulator.refundPayment(
        reference: reference, key: nil, body: ["amount": .number("1"), "currency": "EUR"])
      #expect(
        refund.status == 422
          && refund.body["error"]?.text == "10.00 GBP of this payment are left to refund, not 1.00 EUR")
    }
  }

  @Test("a payment is settled once: the same key gets the same response, another key is refused")
  func settles() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let ledger = Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader)))
      let created = try await simulator.createPayment(key: "p:create", body: ten)
      let reference = try #require(created.body["paymentId"]?.text)
      #expect(try await ledger.all().map(\.status) == [.created])
      let responses = try await withThrowingTaskGroup(of: Int.self) { group in
        for key in ["p:settle", "p:settle", "other", "p:settle"] {
          group.addTask { try await simulator.settlePayment(reference: reference, key: key).status }
        }
        return try await group.reduce(into: []) { $0.append($1) }.sorted()
      }
      #expect(responses == [202, 202, 202, 422] || responses == [202, 422, 422, 422], "one key wins")
      #expect(try await ledger.all().map(\.status) == [.settled])
      let settlements = try store.reader.stream(Charge.stream(reference)).map(\.type)
      #expect(settlements == ["ChargeCreated", "ChargeSettled"])
    }
  }

  @Test("a request that comes while the same one is carried out gets its response, and is never refused")
  func settledAtOnce() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      for round in 0..<100 {
        let created = try await simulator.createPayment(key: "\(round):create", body: ten)
        let reference = try #require(created.body["paymentId"]?.text)
        let responses = try await withThrowingTaskGroup(of: Int.self) { group in
          for _ in 0..<8 {
            group.addTask { try await simulator.settlePayment(reference: reference, key: "\(round):settle").status }
          }
          return try await group.reduce(into: Set<Int>()) { $0.insert($1) }
        }
        #expect(responses == [202])
      }
    }
  }

  @Test("an unknown payment can't be settled", arguments: ["", "x", "../x", EventID.random().description])
  func unknown(_ reference: String) async throws {
    try await withStore { store in
      let response = try await Simulator(store: store).settlePayment(reference: reference, key: "k")
      #expect(response.status == 404)
    }
  }

  @Test(
    "what is no payment is refused and not remembered",
    arguments: [
      [:], ["amount": .number("0"), "currency": "GBP"], ["amount": .number("-1"), "currency": "GBP"],
      ["amount": "1", "currency": "GBP"], ["amount": .number("1"), "currency": "XXX"],
      ["amount": .number("1.001"), "currency": "GBP"],
    ] as [JSONValue])
  func refused(_ body: JSONValue) async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let refusal = try await simulator.createPayment(key: "k", body: body)
      let response = try await simulator.createPayment(key: "k", body: ten)
      #expect([refusal.status, response.status] == [400, 202])
    }
  }

  @Test("an empty or too long key is refused", arguments: [0, 201, 100_000])
  func keys(_ length: Int) async throws {
    try await withStore { store in
      let key = String(repeating: "k", count: length)
      let response = try await Simulator(store: store).createPayment(key: key, body: ten)
      #expect(response.status == 400)
    }
  }

  @Test("the ledger names a charge's payment by its key")
  func ledger() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let id = PaymentID.random()
      for key in ["\(id):create", "strange"] { _ = try await simulator.createPayment(key: key, body: ten) }
      let charges = try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all().map(\.json)
      #expect(charges.map { $0["paymentId"] } == [.string(id.description), .null])
      #expect(charges.allSatisfy { $0["amount"] == .number("10.00") && $0["currency"] == "GBP" })
    }
  }

  @Test("after concurrent toggles the state follows from their number")
  func toggles() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      await withDiscardingTaskGroup { group in
        for _ in 0..<101 { group.addTask { _ = simulator.toggleErrors() } }
      }
      #expect(simulator.outage?.status == 500)
      #expect(!simulator.toggleErrors())
      #expect(simulator.outage == nil)
    }
  }

  /// A charge of 10.00, optionally settled.
  private func charge(_ simulator: Simulator, settled: Bool) async throws -> String {
    let reference = try #require(try await simulator.createPayment(key: "c", body: ten).body["paymentId"]?.text)
    if settled { _ = try await simulator.settlePayment(reference: reference, key: "s") }
    return reference
  }

  @Test("of a concurrent settlement and cancellation, one is first and the other is refused")
  func cancels() async throws {
    for _ in 0..<20 {
      try await withStore { store in
        let simulator = Simulator(store: store)
        let reference = try await charge(simulator, settled: false)
        async let settlement = simulator.settlePayment(reference: reference, key: "s").status
        async let cancellation = simulator.cancelPayment(reference: reference, key: "x").status
        let responses = try await [settlement, cancellation]
        let statuses = try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all().map(
          \.status)
        #expect(
          responses == [202, 422] && statuses == [.settled] || responses == [422, 202] && statuses == [.cancelled])
        // The same key gets the same response.
        if responses[1] == 202 {
          let again = try await simulator.cancelPayment(reference: reference, key: "x").status
          #expect(again == 202)
        }
      }
    }
  }

  @Test("concurrent refunds never exceed the charge, and a key has one effect")
  func refunds() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let reference = try await charge(simulator, settled: true)
      let four: JSONValue = ["amount": .number("4"), "currency": "GBP"]
      let responses = try await withThrowingTaskGroup(of: Int.self) { group in
        for key in ["1", "1", "2", "2", "3", "3"] {
          group.addTask { try await simulator.refundPayment(reference: reference, key: key, body: four).status }
        }
        return try await group.reduce(into: []) { $0.append($1) }.sorted()
      }
      #expect(responses == [202, 202, 202, 202, 422, 422])
      let charge = try #require(
        try await Ledger(follower: LogFollower(store.reader, DamageStatus(store.reader))).all().first)
      #expect(charge.refunded.decimal == "8.00")
      #expect(charge.refundCount == 2)
      let euros = try await simulator.refundPayment(
        reference: reference, key: "4", body: ["amount": .number("1"), "currency": "EUR"])
      #expect(euros.status == 422)
    }
  }

  @Test("an unsettled payment can't be refunded, and a settled one can't be cancelled")
  func wrongOrder() async throws {
    try await withStore { store in
      let simulator = Simulator(store: store)
      let reference = try await charge(simulator, settled: false)
      #expect(try await simulator.refundPayment(reference: reference, key: "r", body: ten).status == 422)
      _ = try await simulator.settlePayment(reference: reference, key: "s")
      #expect(try await simulator.cancelPayment(reference: reference, key: "x").status == 422)
      #expect(try await simulator.refundPayment(reference: reference, key: "r", body: [:]).status == 400)
      #expect(try await simulator.refundPayment(reference: "x", key: "r", body: ten).status == 404)
    }
  }
}
