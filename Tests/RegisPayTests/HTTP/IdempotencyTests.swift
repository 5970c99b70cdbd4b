import Testing

@testable import RegisPay

@Suite("Idempotency keys, over real HTTP")
struct IdempotencyTests {
  private static let body = #"{"amount":10.00,"currency":"GBP"}"#

  private func post(
    _ server: TestServer, _ path: String, key: String?, _ body: String? = nil
  ) async throws -> TestServer.Response {
    var headers: [(String, String)] = []
    if let key { headers.append(("Idempotency-Key", key)) }
    if body != nil { headers.append(("Content-Type", "application/json")) }
    return try await server.send("POST", path, headers: headers, body: body.map { Array($0.utf8) })
  }

  private func payments(_ server: TestServer) async throws -> Int {
    guard case .array(let charges) = try await server.get("/psp/api/ledger").json()["charges"] else { return -1 }
    return charges.count
  }

  private func wait(_ server: TestServer, _ id: String, _ status: PaymentStatus) async throws {
    try await eventually("\(id) is \(status.rawValue)") {
      try await server.get("/api/v1/payments/\(id)").json()["status"] == .string(status.rawValue)
    }
  }

  /// - Returns: the id of a new payment that is completed.
  private func complete(_ server: TestServer) async throws -> String {
    let created = try await post(server, "/api/v1/payments", key: nil, Self.body)
    let id = try #require(try created.json()["paymentId"]?.text)
    try await wait(server, id, .completed)
    return id
  }

  @Test("the same request under the same key is one payment", arguments: ["/api/payment/create", "/api/v1/payments"])
  func same(_ path: String) async throws {
    try await TestServer.run { server in
      let first = try await post(server, path, key: "order-1", Self.body)
      #expect(first.status == 200)
      let again = try await post(server, path, key: "order-1", Self.body)
      #expect(again.text == first.text)
      #expect(first.headers["idempotent-replayed"] == nil && again.headers["idempotent-replayed"] == "true")
      let id = try #require(try first.json()["paymentId"]?.text)
      try await wait(server, id, .completed)
      #expect(try await post(server, path, key: "order-1", Self.body).text == first.text)
      #expect(try await post(server, path, key: "order-2", Self.body).text != first.text)
      #expect(try await post(server, path, key: nil, Self.body).text != first.text)
      try await eventually("three were asked for") { try await payments(server) == 3 }
    }
  }

  @Test("of 100 concurrent requests one takes effect, and all get its response")
  func atOnce() async throws {
    try await TestServer.run { server in
      let responses = try await withThrowingTaskGroup(of: String.self) { group in
        for _ in 0..<100 {
          group.addTask { try await post(server, "/api/v1/payments", key: "all", Self.body).text }
        }
        return try await group.reduce(into: Set<String>()) { $0.insert($1) }
      }
      #expect(responses.count == 1)
      let response = try JSONReader.read(Array((responses.first ?? "").utf8))
      let id = try #require(response["paymentId"]?.text)
      try await wait(server, id, .completed)
      #expect(try await payments(server) == 1)
    }
  }

  @Test("another request under a key that was used is refused, and changes nothing")
  func reused() async throws {
    try await TestServer.run { server in
      let first = try await post(server, "/api/v1/payments", key: "k", Self.body)
      let id = try #require(try first.json()["paymentId"]?.text)
      try await wait(server, id, .completed)
      for (path, body) in [
        ("/api/v1/payments", #"{"amount":10.01,"currency":"GBP"}"#), ("/api/payment/create", Self.body),
        ("/api/v1/payments/\(id)/refunds", #"{"amount":1}"#), ("/api/v1/payments/\(id)/retry", nil),
      ] {
        let response = try await post(server, path, key: "k", body)
        #expect(response.status == 422)
        #expect(try response.json()["type"] == "/problems/idempotency-key-reused")
      }
      #expect(try await payments(server) == 1)
      #expect(try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed")
    }
  }

  @Test("a refund with a key goes out once, and a repeat gets the first response after the payment has moved on")
  func refunds() async throws {
    try await TestServer.run { server in
      let id = try await complete(server)
      let first = try await post(server, "/api/v1/payments/\(id)/refunds", key: "r", #"{"amount":4}"#)
      #expect(first.status == 202)
      try await eventually("it is done") {
        try await server.get("/api/v1/payments/\(id)").json()["refundedAmount"] == .number("4.00")
      }
      let again = try await post(server, "/api/v1/payments/\(id)/refunds", key: "r", #"{"amount":4}"#)
      #expect(again.status == 202)
      #expect(again.text == first.text)
      let payment = try await server.get("/api/v1/payments/\(id)").json()
      #expect(payment["refundedAmount"] == .number("4.00"))
      // Without a key it is another intent.
      #expect(try await post(server, "/api/v1/payments/\(id)/refunds", key: nil, #"{"amount":4}"#).status == 202)
      try await eventually("a second one is done") {
        try await server.get("/api/v1/payments/\(id)").json()["refundedAmount"] == .number("8.00")
      }
    }
  }

  @Test("a refusal is stored as well")
  func refusals() async throws {
    try await TestServer.run { server in
      let id = try await complete(server)
      let first = try await post(server, "/api/v1/payments/\(id)/cancel", key: "c")
      #expect(first.status == 409)
      let again = try await post(server, "/api/v1/payments/\(id)/cancel", key: "c")
      #expect(again.status == 409)
      #expect(again.text == first.text)
      #expect(first.headers["idempotent-replayed"] == nil && again.headers["idempotent-replayed"] == "true")
      #expect(try first.json()["type"] == "/problems/not-cancellable")
    }
  }

  @Test("a parameter that the route doesn't know refuses the refund of everything")
  func parameters() async throws {
    try await TestServer.run { server in
      let id = try await complete(server)
      #expect(try await post(server, "/api/v1/payments/\(id)/refunds?amount=1", key: "q").status == 400)
      #expect(try await server.get("/api/v1/payments/\(id)").json()["refunds"] == nil)
      #expect(try await server.get("/health?probe=1").status == 200, "what is open to everybody overlooks them")
    }
  }

  @Test("what is wrong in itself takes no key: the request can be mended")
  func mended() async throws {
    try await TestServer.run { server in
      let wrong = try await post(server, "/api/v1/payments", key: "m", #"{"amount":-1,"currency":"GBP"}"#)
      #expect(wrong.status == 400)
      let mended = try await post(server, "/api/v1/payments", key: "m", Self.body)
      #expect(mended.status == 200 && mended.headers["idempotent-replayed"] == nil)
    }
  }

  @Test("an expired key may be used again")
  func expired() async throws {
    try await TestServer.run({ $0.requestLifetime = .zero }) { server in
      let first = try await post(server, "/api/v1/payments", key: "k", Self.body)
      let second = try await post(server, "/api/v1/payments", key: "k", #"{"amount":1,"currency":"EUR"}"#)
      #expect(second.status == 200)
      #expect(first.text != second.text)
    }
  }

  @Test(
    "a key that is none is refused",
    arguments: [[""], [String(repeating: "k", count: 256)], ["caf\u{E9}"], ["a", "b"], ["a\tb"]])
  func malformed(_ keys: [String]) async throws {
    try await TestServer.run { server in
      let response = try await server.send(
        "POST", "/api/v1/payments",
        headers: keys.map { ("Idempotency-Key", $0) } + [("Content-Type", "application/json")],
        body: Array(Self.body.utf8))
      #expect(response.status == 400)
      #expect(response.text.contains("Idempotency-Key"))
      #expect(try await payments(server) == 0)
    }
  }

  @Test("keys are not counted as events that could not be read")
  func unnoticed() async throws {
    try await TestServer.run { server in
      let created = try await post(server, "/api/v1/payments", key: "k", Self.body)
      let id = try #require(try created.json()["paymentId"]?.text)
      try await wait(server, id, .completed)
      #expect(try await server.get("/health").text == "Healthy")
      guard case .array(let rows) = try await server.get("/api/v1/payments").json()["payments"] else {
        Issue.record("no payments")
        return
      }
      #expect(rows.count == 1)
    }
  }
}
