import Foundation
import HummingbirdCore
import LogStore
import Testing

@testable import RegisPay

@Suite("Batches")
struct BatchTests {
  private func post(_ server: TestServer, _ path: String, _ body: String = "{}") async throws -> TestServer.Response {
    try await server.send(
      "POST", path, headers: [("Content-Type", "application/json")], body: Array(body.utf8))
  }

  private func create(_ server: TestServer, _ amount: Int) async throws -> String {
    let response = try await post(server, "/api/v1/payments", #"{"amount":\#(amount),"currency":"GBP"}"#)
    return try #require(try response.json()["paymentId"]?.text)
  }

  private func count(_ server: TestServer, _ filters: String) async throws -> UInt64? {
    try await server.get("/api/v1/payments/count?\(filters)").json()["count"]?.unsigned
  }

  private func ended(_ server: TestServer, _ begun: TestServer.Response) async throws -> JSONValue {
    #expect(begun.status == 202, "\(begun.text)")
    let id = try #require(try begun.json()["id"]?.text)
    var batch = try begun.json()
    try await eventually("the batch has ended") {
      batch = try await server.get("/api/v1/batches/\(id)").json()
      return batch["state"]?.text != "running"
    }
    return batch
  }

  @Test("a refund of all that match reaches each of them once, over several pages, and no other payment")
  func refund() async throws {
    try await TestServer.run { server in
      let number = PaymentQuery.pageLimit + 30
      var ids: [String] = []
      for _ in 0..<number { ids.append(try await create(server, 7)) }
      let other = try await create(server, 8)
      try await eventually("all are complete") { try await count(server, "status=Completed") == UInt64(number) + 1 }
      let batch = try await ended(
        server, try await post(server, "/api/v1/batches/refund", #"{"filter":{"amount":"7.00","status":"Completed"}}"#))
      #expect(batch["state"]?.text == "done" && batch["reason"] == .null, "\(batch)")
      #expect(batch["accepted"]?.unsigned == UInt64(number) && batch["refused"]?.unsigned == 0)
      #expect(batch["expected"]?.unsigned == UInt64(number))
      try await eventually("all are refunded") { try await count(server, "refunded=all") == UInt64(number) }
      let events = try await server.get("/api/v1/payments/\(ids[3])/events").text
      #expect(events.components(separatedBy: "PaymentRefundRequested").count == 2)
      #expect(try await server.get("/api/v1/payments/\(other)").json()["status"]?.text == "Completed")
      // Once more: nothing is left to refund.
      let again = try await ended(
        server, try await post(server, "/api/v1/batches/refund", #"{"filter":{"amount":"7"}}"#))
      #expect(again["accepted"]?.unsigned == 0, "\(again)")
    }
  }

  @Test("the number to confirm is that of the payments that may allow the action, and it is what the batch tries")
  func counted() async throws {
    try await TestServer.run { server in
      for _ in 0..<3 { _ = try await create(server, 7) }
      try await eventually("all are complete") { try await count(server, "status=Completed") == 3 }
      for (action, number) in [("refund", UInt64(3)), ("cancel", 0), ("retry", 0)] {
        #expect(try await count(server, "action=\(action)") == number)
        let batch = try await ended(server, try await post(server, "/api/v1/batches/\(action)", #"{"filter":{}}"#))
        #expect(batch["expected"]?.unsigned == number && batch["accepted"]?.unsigned == number, "\(batch)")
      }
      #expect(try await count(server, "action=refund&status=Declined") == 0)
      for query in ["action=pay", "action=refund&action=refund", "action="] {
        #expect(try await server.get("/api/v1/payments/count?\(query)").status == 400, "\(query)")
      }
    }
  }

  @Test("while the list of payments is rebuilt no batch begins: it would miss payments and say that it is done")
  func incomplete() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let log = PaymentLog(store)
      _ = try await log.initiate(Money(minorUnits: 700, currency: Currency.supported[0]))
      // Opened and not run: it has nothing of the log.
      let projection = try PaymentProjection.open(folder, log: log, health: Health(stores: []), logger: silent)
      let batches = Batches(log: log, projection: projection, logger: silent)
      await #expect(throws: Batches.IncompleteList.self) {
        try await batches.begin(.cancel, PaymentQuery(), filter: [:], limit: nil, by: nil, isStillAllowed: { true })
      }
      #expect(batches.all.isEmpty)
      await projection.close()
      try await store.close()
    }
  }

  @Test("a limit holds: no more payments are tried, the oldest first")
  func limit() async throws {
    try await TestServer.run { server in
      var ids: [String] = []
      for _ in 0..<5 { ids.append(try await create(server, 7)) }
      try await eventually("all are complete") { try await count(server, "status=Completed") == 5 }
      let batch = try await ended(
        server, try await post(server, "/api/v1/batches/refund", #"{"filter":{},"limit":2}"#))
      #expect(batch["accepted"]?.unsigned == 2 && batch["expected"]?.unsigned == 2)
      try await eventually("two are refunded") { try await count(server, "refunded=all") == 2 }
      for id in ids.prefix(2) {
        #expect(try await server.get("/api/v1/payments/\(id)").json()["refundedAmount"] == .number("7.00"))
      }
    }
  }

  /// Completed payments in a list that does not follow the log any more, and what carries out batches of them.
  private func withBatches(
    payments: Int, limits: Batches.Limits = .init(),
    _ work: (Batches, PaymentLog, [PaymentID], LogStore) async throws -> Void
  ) async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let log = PaymentLog(store)
      let nowhere = CursorCommit(name: "test", checkpoint: 0)
      var ids: [PaymentID] = []
      for _ in 0..<payments {
        let id = try await log.initiate(Money(minorUnits: 700, currency: Currency.supported[0]))
        for command in [PaymentCommand.recordCreated(reference: "r"), .recordSettled, .recordCompleted] {
          _ = try await log.record(command, on: id, cursor: nowhere)
        }
        ids.append(id)
      }
      let projection = try PaymentProjection.open(folder, log: log, health: Health(stores: []), logger: silent)
      let run = Task { await projection.run() }
      try await eventually("the list is complete") {
        !projection.status.isCatchingUp && projection.status.nextOffset == store.reader.endOffset
      }
      run.cancel()
      await run.value
      let batches = Batches(log: log, projection: projection, logger: silent, limits: limits)
      try await work(batches, log, ids, store)
      await projection.close()
      try await store.close()
    }
  }

  private func end(of id: String, _ batches: Batches) async throws -> Batch {
    try await eventually("it has ended") { batches[id]?.state != .running }
    return try #require(batches[id])
  }

  @Test("what refuses is counted by its reason, and the rest goes on; the actor is kept with each event")
  func refused() async throws {
    try await withBatches(payments: 5) { batches, log, ids, _ in
      // The list shows it as it was.
      _ = try await log.request(.refund(nil), of: ids[1])
      let begun = try await batches.begin(
        .refund, PaymentQuery(), filter: [:], limit: nil, by: KeyHolder(keyID: "k1", name: "anna"),
        isStillAllowed: { true })
      let batch = try await end(of: begun.id, batches)
      #expect(batch.state == .done && batch.accepted == 4 && batch.refused == 1 && batch.expected == 5)
      #expect(batch.refusals.map(\.value) == [1])
      let loaded = try #require(try log.load(ids[2]))
      let last = try #require(loaded.events.last)
      #expect(last.type == "PaymentRefundRequested" && EventMetadata(payload: last.payload).actor?.name == "anna")
    }
  }

  @Test("a batch that is stopped ends soon, and what it has carried out counts")
  func stopped() async throws {
    try await withBatches(payments: 300, limits: .init(commands: 1)) { batches, log, ids, _ in
      let begun = try await batches.begin(
        .refund, PaymentQuery(), filter: [:], limit: nil, by: nil, isStillAllowed: { true })
      try await eventually("it is on its way") { (batches[begun.id]?.accepted ?? 0) > 2 }
      #expect(batches.stop(begun.id, "anna stopped it")?.state == .stopped)
      // The one command that was being carried out counts when it has ended.
      var refunded = 0
      try await eventually("all that was carried out counts") {
        refunded = try ids.filter { try log.load($0)?.payment.refunds.isEmpty == false }.count
        return batches[begun.id]?.accepted == refunded
      }
      try await Task.sleep(for: .milliseconds(50))
      #expect(try ids.filter { try log.load($0)?.payment.refunds.isEmpty == false }.count <= refunded + 1)
      let batch = try #require(batches[begun.id])
      #expect(batch.reason == "anna stopped it" && refunded < 300, "\(batch)")
      #expect(batches.stop("x", "") == nil)
    }
  }

  @Test("a batch ends when the key of the one who began it does, and with the server")
  func ended() async throws {
    try await withBatches(payments: 3) { batches, log, ids, _ in
      let begun = try await batches.begin(
        .refund, PaymentQuery(), filter: [:], limit: nil, by: KeyHolder(keyID: "k1", name: "anna"),
        isStillAllowed: { false })
      let batch = try await end(of: begun.id, batches)
      #expect(batch.state == .stopped && batch.reason?.contains("key") == true && batch.accepted == 0)
      let run = Task { await batches.run() }
      run.cancel()
      await run.value
      await #expect(throws: Batches.TooMany.self) {
        try await batches.begin(.refund, PaymentQuery(), filter: [:], limit: nil, by: nil, isStillAllowed: { true })
      }
    }
  }

  @Test("while the log can't be written a batch waits, and fails then with the reason; nothing is carried out")
  func unwritable() async throws {
    let limits = Batches.Limits(pauses: [.milliseconds(1), .milliseconds(2)])
    try await withBatches(payments: 3, limits: limits) { batches, _, _, store in
      try await store.close()
      let begun = try await batches.begin(
        .refund, PaymentQuery(), filter: [:], limit: nil, by: nil, isStillAllowed: { true })
      let batch = try await end(of: begun.id, batches)
      #expect(batch.state == .failed && batch.reason?.contains("the log can't") == true && batch.accepted == 0)
    }
  }

  @Test("no more batches run at once than the limit, and the last ones are remembered")
  func bounded() async throws {
    try await withBatches(payments: 1, limits: .init(running: 1, remembered: 3)) { batches, _, _, _ in
      var last = ""
      for _ in 0..<5 {
        try await eventually("there is room") {
          do {
            last = try await batches.begin(
              .cancel, PaymentQuery(), filter: [:], limit: nil, by: nil, isStillAllowed: { true }
            ).id
            return true
          } catch is Batches.TooMany {
            return false
          }
        }
      }
      #expect(batches.all.count == 3 && batches.all.first?.id == last)
    }
  }

  @Test(
    "what can't be a batch is refused by name, and nothing is done",
    arguments: [
      ("refund", "{}", "filter"), ("refund", "[]", "body"), ("refund", #"{"filter":"x"}"#, "filter"),
      ("refund", #"{"filter":{},"max":1}"#, "max"), ("refund", #"{"filter":{},"limit":0}"#, "limit"),
      ("refund", #"{"filter":{},"limit":1.5}"#, "limit"), ("refund", #"{"filter":{"stauts":"Failed"}}"#, "stauts"),
      ("refund", #"{"filter":{"limit":"3"}}"#, "filter.limit"),
      ("refund", #"{"filter":{"amount":3}}"#, "filter.amount"),
      ("refund", #"{"filter":{"amount":"x"}}"#, "amount"),
      ("refund", #"{"filter":{},"limit":9007199254740992}"#, "limit"),
      ("cancel", #"{"filter":{"createdFrom":"yesterday"}}"#, "createdFrom"),
      ("cancel", #"{"filter":{"step":"pay"}}"#, "step"),
    ])
  func mistakes(action: String, body: String, name: String) async throws {
    try await TestServer.run { server in
      let response = try await post(server, "/api/v1/batches/\(action)", body)
      #expect(response.status == 400 && response.text.contains(name), "\(response.text)")
      #expect(try await server.get("/api/v1/batches").json()["batches"] == .array([]))
    }
  }

  @Test(
    "a plus sign in a query is a space, as browsers and curl write one, and in a time it is the plus sign that it was")
  func spaces() async throws {
    let parameters = URI("/x?a=b+c%2Bd&e=f").formParameters
    #expect(parameters["a"] == "b c+d" && parameters["e"] == "f")
    let query = try PaymentQuery(URI("/x?createdFrom=1970-01-01T01:00:01+01:00").formParameters)
    #expect(query.createdFrom == 1_000_000)
  }

  @Test("an action that no payment with the filter's status allows is refused, and nothing is begun")
  func impossible() async throws {
    try await TestServer.run { server in
      for (action, status) in [("retry", "Completed"), ("cancel", "Settled"), ("refund", "Declined")] {
        let response = try await post(
          server, "/api/v1/batches/\(action)", #"{"filter":{"status":"\#(status)"},"limit":5.0}"#)
        #expect(response.status == 422 && response.text.contains(status), "\(response.text)")
      }
      #expect(try await server.get("/api/v1/batches").json()["batches"] == .array([]))
    }
  }

  @Test("a batch that has ended stays as it is when it is stopped, and an unknown one is not found")
  func stoppedLate() async throws {
    try await TestServer.run { server in
      _ = try await create(server, 7)
      try await eventually("it is complete") { try await count(server, "status=Completed") == 1 }
      let batch = try await ended(server, try await post(server, "/api/v1/batches/refund", #"{"filter":{}}"#))
      let id = try #require(batch["id"]?.text)
      let stopped = try await post(server, "/api/v1/batches/\(id)/stop")
      #expect(try stopped.json() == batch)
      #expect(try await post(server, "/api/v1/batches/00000000-0000-4000-8000-000000000000/stop").status == 404)
    }
  }
}
