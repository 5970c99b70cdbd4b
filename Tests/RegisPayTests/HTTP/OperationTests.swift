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
