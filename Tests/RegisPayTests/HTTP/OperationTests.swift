import Foundation
import Testing

@testable import RegisPay

/// What a person asks of a payment, over real HTTP, with the simulator as PSP.
@Suite("Cancelling, refunding and retrying")
struct OperationTests {
  private func create(_ server: TestServer, _ amount: String = "10.00") async throws -> String {
    let response = try await server.create(#"{"amount":\#(amount),"currency":"GBP"}"#)
    return try #require(try response.json()["paymentId"]?.text)
  }

  private func wait(_ server: TestServer, _ id: String, _ status: PaymentStatus) async throws {
    try await eventually("\(id) is \(status.rawValue)") {
      try await server.get("/api/v1/payments/\(id)").json()["status"] == .string(status.rawValue)
    }
  }

  private func post(_ server: TestServer, _ path: String, _ body: String? = nil) async throws -> TestServer.Response {
    try await server.send(
      "POST", "/api/v1/payments/\(path)", headers: body == nil ? [] : [("Content-Type", "application/json")],
      body: body.map { Array($0.utf8) })
  }

  private func charge(_ server: TestServer, _ id: String) async throws -> JSONValue? {
    guard case .array(let charges) = try await server.get("/psp/api/ledger").json()["charges"] else { return nil }
    return charges.first { $0["paymentId"]?.text == id }
  }

  @Test("an open breaker that a person has try now lets payments through long before its wait is over")
  func tryNow() async throws {
    try await TestServer.run({ $0.breaker = .init(openDuration: .seconds(600), quietDuration: .zero) }) { server in
      let json = [("Content-Type", "application/json")]
      func set(_ faults: String) async throws {
        let response = try await server.send("PUT", "/psp/api/faults", headers: json, body: Array(faults.utf8))
        #expect(response.status == 200)
      }
      func breaker() async throws -> JSONValue? {
        let consumers = try await server.get("/api/v1/consumers").json()["consumers"]
        guard case .array(let all)? = consumers else { return nil }
        return all.first { $0["name"] == "payment-create" }?["breaker"]
      }
      try await set(#"{"failBefore":1}"#)
      for _ in 0..<20 {
        let body = Array(#"{"amount":1,"currency":"GBP"}"#.utf8)
        _ = try await server.send("POST", "/api/v1/payments", headers: json, body: body)
      }
      try await eventually("the breaker is open") { try await breaker()?["state"] == "open" }
      try await set("{}")
      try await eventually("all complete") {
        _ = try await server.send("POST", "/api/v1/consumers/payment-create/try")
        return try await server.get("/api/v1/payments/count?status=Completed").json()["count"]?.unsigned == 20
      }
      #expect(try await breaker()?["state"] == "closed")
      #expect(try await server.send("POST", "/api/v1/consumers/payment-completed/try").status == 404)
      #expect(try await server.send("POST", "/api/v1/consumers/x/try").status == 404)
    }
  }

  @Test("the log says how old the latest backup is, and why it can't be used")
  func backup() async throws {
    try await withTemporaryFolder { folder in
      let target = folder + "/backup"
      try await TestServer.run({
        $0.directory = folder + "/data"
        ($0.backup, $0.backupInterval) = (target, .milliseconds(20))
      }) { server in
        func shown() async throws -> JSONValue? { try await server.get("/api/v1/log").json()["backup"] }
        try await eventually("there is none") { try await shown()?["fault"]?.text != nil }
        #expect(try await shown()?["time"] == .null)
        for _ in 0..<3 { _ = try await create(server) }
        try await eventually("all complete") {
          try await server.get("/api/v1/payments/count?status=Completed").json()["count"]?.unsigned == 3
        }
        _ = try DataBackup(of: folder + "/data", to: target, keep: .seconds(3_600)).run()
        try await eventually("it is seen") { try await shown()?["fault"] == .null }
        let backup = try #require(try await shown())
        #expect(
          backup["events"]?.unsigned ?? 0 >= 12 && backup["lag"]?.unsigned == 0 && backup["directory"]?.text == target)
        #expect(backup["time"]?.text.flatMap { microseconds(timestamp: $0) } ?? 0 > 0)
        _ = try await create(server)
        try await eventually("it falls behind") { try await shown()?["lag"]?.unsigned ?? 0 >= 4 }
        let file = URL(fileURLWithPath: target + "/backup.json")
        let id = try #require(try await server.get("/api/v1/log").json()["storeId"]?.text)
        let other = String(id.map { $0 == "0" ? "1" : "0" })
        try String(contentsOf: file, encoding: .utf8).replacing(id, with: other).write(
          to: file, atomically: true, encoding: .utf8)
        try await eventually("it is another log's") { try await shown()?["fault"]?.text?.contains(other) == true }
      }
    }
    try await TestServer.run { server in
      let log = try await server.get("/api/v1/log").json()
      #expect(log["backup"] == .null, "none is named")
    }
  }

  @Test("the log's segments cover all of its events, each once, the latest first")
  func segments() async throws {
    try await TestServer.run({ $0.segmentBytes = ServerOptions.segmentByteRange.lowerBound }) { server in
      for _ in 0..<150 {
        let body = Array(#"{"amount":1,"currency":"GBP"}"#.utf8)
        let json = [("Content-Type", "application/json")]
        _ = try await server.send("POST", "/api/v1/payments", headers: json, body: body)
      }
      try await eventually("all complete") {
        try await server.get("/api/v1/payments/count?status=Completed").json()["count"]?.unsigned == 150
      }
      let log = try await server.get("/api/v1/log").json()
      guard case .array(let segments)? = log["segments"], case .array(let cursors)? = log["cursors"] else {
        Issue.record("\(log)")
        return
      }
      let end = try #require(log["endOffset"]?.unsigned)
      #expect(end >= 600 && segments.count > 1 && log["segmentCount"]?.unsigned == UInt64(segments.count))
      var next = end
      for (number, segment) in segments.enumerated() {
        let offset = try #require(segment["offset"]?.unsigned)
        #expect(offset + (segment["events"]?.unsigned ?? 0) == next)
        #expect(segment["state"]?.text == (number == 0 ? "open" : "finished"))
        next = offset
      }
      #expect(next == 0)
      #expect(cursors.contains { $0["name"] == "payment-create" && $0["checkpoint"]?.unsigned ?? 0 > 0 })
      #expect(log["failure"] == .null && log["gaps"] == .array([]))
      #expect((log["commits"]?["count"]?.unsigned ?? 0) > 0)
    }
  }

  @Test("a payment is shown as of each of its events")
  func past() async throws {
    try await TestServer.run { server in
      let json = [("Content-Type", "application/json")]
      let body = Array(#"{"amount":1,"currency":"GBP"}"#.utf8)
      let made = try await server.send("POST", "/api/v1/payments", headers: json, body: body)
      let id = try #require(try made.json()["paymentId"]?.text)
      try await eventually("it completes") {
        try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
      }
      for (version, status) in zip(1...4, ["Initiated", "Created", "Settled", "Completed"]) {
        let payment = try await server.get("/api/v1/payments/\(id)?version=\(version)").json()
        #expect(payment["status"]?.text == status && payment["version"]?.unsigned == UInt64(version))
      }
      #expect(try await server.get("/api/v1/payments/\(id)?version=5").status == 404)
      for query in ["version=0", "version=x", "version=1&version=1", "vesion=1"] {
        #expect(try await server.get("/api/v1/payments/\(id)?\(query)").status == 400, "\(query)")
      }
    }
  }

  @Test("the log's events are paged by offset, by type and by stream, and one is shown with its bytes")
  func logEvents() async throws {
    try await TestServer.run { server in
      var ids: [String] = []
      for _ in 0..<5 { ids.append(try await create(server)) }
      for id in ids { try await wait(server, id, .completed) }
      func page(_ query: String) async throws -> JSONValue {
        try await server.get("/api/v1/log/events?\(query)").json()
      }
      func all(_ query: String) async throws -> [JSONValue] {
        var (found, from): ([JSONValue], UInt64?) = ([], nil)
        repeat {
          let page = try await page(query + (from.map { "&from=\($0)" } ?? ""))
          guard case .array(let events)? = page["events"] else { return [] }
          #expect(events.count <= 3)
          found += events
          from = page["next"]?.unsigned
        } while from != nil
        return found
      }
      let events = try await all("limit=3")
      let end = try #require(try await page("limit=1")["endOffset"]?.unsigned)
      #expect(events.compactMap { $0["offset"]?.unsigned } == Array(0..<end) && end >= 20)
      let settled = try await all("limit=3&type=PaymentSettled")
      #expect(settled == events.filter { $0["type"] == "PaymentSettled" } && settled.count == 5)
      let stream = try await all("limit=3&stream=pay:\(ids[2])")
      #expect(stream == events.filter { $0["stream"]?.text == "pay:\(ids[2])" } && stream.count == 4)
      #expect(try await page("limit=3&stream=pay:\(ids[2])&from=3")["events"] == .array(Array(stream[2...])))
      #expect(
        try await page("from=\(end + 10)") == [
          "events": .array([]), "next": .null, "endOffset": .integer(end), "missing": .array([]),
        ])
      #expect(try await page("stream=nothing")["events"] == .array([]))
      #expect(try await page("stream=pay:\(ids[2])&type=PaymentSettled")["events"] == .array([stream[2]]))
      for query in [
        "from=-1", "from=01", "from=%2B1", "limit=0", "limit=201", "stream=", "x=1", "from=1&from=1",
      ] {
        #expect(try await server.get("/api/v1/log/events?\(query)").status == 400, "\(query)")
      }
      let one = try await server.get("/api/v1/log/events/3").json()
      #expect(one["type"] == events[3]["type"] && one["data"] == events[3]["data"])
      let bytes = try #require(one["base64"]?.text.flatMap { Data(base64Encoded: $0) })
      guard case .object(let members) = try JSONReader.read(Array(bytes)) else {
        return #expect(Bool(false), "\(one)")
      }
      // The metadata are in the bytes, and shown beside the data.
      #expect(
        .object(members.filter { $0.key != "metadata" }) == one["data"] && one["bytes"]?.unsigned == UInt64(bytes.count)
      )
      for offset in ["\(end)", "x", "-1", "9007199254740993", "99999999999999999999999"] {
        #expect(try await server.get("/api/v1/log/events/\(offset)").status == 404, "\(offset)")
      }
    }
  }

  @Test("what persons have commanded is listed newest first, page by page, and nothing else")
  func actions() async throws {
    try await TestServer.run { server in
      let json = [("Content-Type", "application/json")]
      var ids: [String] = []
      for _ in 0..<7 {
        let body = Array(#"{"amount":1,"currency":"GBP"}"#.utf8)
        let made = try await server.send("POST", "/api/v1/payments", headers: json, body: body)
        ids.append(try #require(try made.json()["paymentId"]?.text))
      }
      try await eventually("all complete") {
        try await server.get("/api/v1/payments/count?status=Completed").json()["count"]?.unsigned == 7
      }
      for id in ids {
        #expect(try await server.send("POST", "/api/v1/payments/\(id)/refunds").status == 202)
      }
      var found: [String] = []
      var before: UInt64?
      repeat {
        let page = try await server.get("/api/v1/actions?limit=3" + (before.map { "&before=\($0)" } ?? "")).json()
        guard case .array(let events)? = page["events"] else { break }
        #expect(events.count <= 3 && events.allSatisfy { $0["type"] == "PaymentRefundRequested" })
        found += events.compactMap { $0["stream"]?.text.map { String($0.dropFirst(4)) } }
        before = page["next"]?.unsigned
      } while before != nil
      #expect(found == ids.reversed())
      for query in ["limit=0", "limit=201", "before=x", "before=-1", "limit=1&limit=1", "after=1"] {
        #expect(try await server.get("/api/v1/actions?\(query)").status == 400, "\(query)")
      }
    }
  }

  @Test("money goes back in parts and then in full, once each, and never more than was settled")
  func refunds() async throws {
    try await TestServer.run { server in
      let id = try await create(server)
      try await wait(server, id, .completed)
      let first = try await post(server, "\(id)/refunds", #"{"amount":4}"#)
      #expect(first.status == 202)
      #expect(try first.json()["status"] == "Completed" && first.json()["refundingAmount"] == .number("4.00"))
      try await eventually("a part is back, and the payment is a completed one still") {
        let payment = try await server.get("/api/v1/payments/\(id)").json()
        #expect(payment["status"] == "Completed")
        return payment["refundedAmount"] == .number("4.00") && payment["refundingAmount"] == nil
      }
      try await eventually("the list says so") {
        let path = "/api/v1/payments?status=Completed&refunded="
        func count(_ part: String) async throws -> Int {
          guard case .array(let all) = try await server.get(path + part).json()["payments"] else { return -1 }
          return all.count
        }
        let counts = (try await count("none"), try await count("part"), try await count("all"))
        return counts == (0, 1, 0)
      }
      let tooMuch = try await post(server, "\(id)/refunds", #"{"amount":6.01}"#)
      #expect(tooMuch.status == 409)
      #expect(try tooMuch.json()["type"] == "/problems/refund-too-large")
      #expect(try await post(server, "\(id)/refunds").status == 202)
      try await eventually("both are refunded") {
        let payment = try await server.get("/api/v1/payments/\(id)").json()
        return payment["status"] == "Refunded" && payment["refundedAmount"] == .number("10.00")
      }
      #expect(try await post(server, "\(id)/refunds").json()["type"] == "/problems/nothing-to-refund")
      #expect(try await charge(server, id)?["refunded"] == .number("10.00"))
      #expect(try await charge(server, id)?["refunds"] == .number("2"))
    }
  }

  @Test(
    "a refund that makes no sense says what is wrong, and nothing is refunded",
    arguments: [
      ("{}x", 400), ("[]", 400), (#"{"amount":0}"#, 400), (#"{"amount":-1}"#, 400), (#"{"amount":"1"}"#, 400),
      (#"{"amount":1.001}"#, 400), (#"{"amount":1,"currency":"EUR"}"#, 409), (#"{"amout":1}"#, 400),
      (#"{"currency":"EUR"}"#, 409), (#"{"amount":1,"currency":"JPY"}"#, 400), (#"{"currency":null}"#, 400),
      (#"{"amount":null}"#, 400), (#"{"amount":1e400}"#, 400),
    ])
  func malformedRefunds(_ body: String, _ status: Int) async throws {
    try await TestServer.run { server in
      let id = try await create(server)
      try await wait(server, id, .completed)
      let response = try await post(server, "\(id)/refunds", body)
      #expect(response.status == status)
      #expect(response.headers["content-type"] == "application/problem+json")
      #expect(try await server.get("/api/v1/payments/\(id)").json()["refunds"] == nil)
    }
  }

  @Test("what is completed can't be cancelled or retried, and what is not there is not found")
  func refused() async throws {
    try await TestServer.run { server in
      let id = try await create(server)
      try await wait(server, id, .completed)
      #expect(try await post(server, "\(id)/cancel").json()["type"] == "/problems/not-cancellable")
      #expect(try await post(server, "\(id)/retry").json()["type"] == "/problems/nothing-to-retry")
      for action in ["cancel", "retry", "refunds"] {
        #expect(try await post(server, "\(PaymentID.random())/\(action)").status == 404)
        #expect(try await server.get("/api/v1/payments/\(id)/\(action)").status == 405)
      }
    }
  }

  @Test("a payment that is cancelled while the PSP is down is never charged")
  func cancelledBeforeCreation() async throws {
    try await TestServer.run { server in
      _ = try await server.send("POST", "/toggle-errors")
      let id = try await create(server)
      let response = try await post(server, "\(id)/cancel")
      // The creation may have reached the PSP, which is asked again.
      #expect([200, 202].contains(response.status))
      _ = try await server.send("POST", "/toggle-errors")
      let other = try await create(server)
      try await wait(server, other, .completed)
      try await wait(server, id, .cancelled)
      let status = try await charge(server, id)?["status"]
      #expect(status == nil || status == "cancelled", "nothing is held")
    }
  }

  @Test("a cancellation beside the settlement is decided by the PSP: cancelled or completed, and charged accordingly")
  func cancelledBesideSettlement() async throws {
    try await TestServer.run { server in
      var ends: Set<String> = []
      // The PSP's responses take long enough for the cancellation to come in between. How long that is depends on the
      // machine and what else it does: the delay grows until both ends were seen.
      var mean = 10
      for attempt in 1...200 where attempt <= 40 || ends.count < 2 {
        if attempt % 20 == 1 {
          let faults = #"{"delay":{"exponentialMean":\#(mean)}}"#
          _ = try await server.send(
            "PUT", "/psp/api/faults", headers: [("Content-Type", "application/json")], body: Array(faults.utf8))
          mean *= 2
        }
        let id = try await create(server)
        try await eventually("it is created") {
          try await server.get("/api/v1/payments/\(id)").json()["status"] != "Initiated"
        }
        let response = try await post(server, "\(id)/cancel")
        #expect([200, 202, 409].contains(response.status))
        try await eventually("it ends") {
          let status = try await server.get("/api/v1/payments/\(id)").json()["status"]
          return status == "Completed" || status == "Cancelled"
        }
        let status = try #require(try await server.get("/api/v1/payments/\(id)").json()["status"]?.text)
        ends.insert(status)
        #expect(try await charge(server, id)?["status"] == (status == "Completed" ? "settled" : "cancelled"))
      }
      #expect(ends == ["Completed", "Cancelled"], "each of the two happened")
    }
  }
}
