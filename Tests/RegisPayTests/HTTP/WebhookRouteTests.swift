import Testing

@testable import RegisPay

@Suite("Webhooks over HTTP")
struct WebhookRouteTests {
  private func send(
    _ server: TestServer, _ method: String, _ path: String, _ body: String? = nil
  ) async throws -> TestServer.Response {
    try await server.send(
      method, "/api/v1/webhooks" + path, headers: body == nil ? [] : [("Content-Type", "application/json")],
      body: body.map { Array($0.utf8) })
  }

  private func create(_ server: TestServer, _ url: String = "https://example.org/hook") async throws -> JSONValue {
    let response = try await send(server, "POST", "", #"{"url":"\#(url)"}"#)
    #expect(response.status == 201)
    return try response.json()
  }

  @Test("an endpoint is created, shown, changed and removed, and its secret is shown only at its creation")
  func life() async throws {
    try await TestServer.run { server in
      let response = try await send(
        server, "POST", "", #"{"url":"https://Example.org","description":"shop","events":["payment.settled"]}"#)
      #expect(response.status == 201)
      let made = try response.json()
      let id = try #require(made["id"]?.text)
      #expect(response.headers["location"] == "/api/v1/webhooks/\(id)")
      let secret = try #require(made["secret"]?.text)
      #expect(WebhookSecret(secret) != nil)
      #expect(made["url"] == "https://example.org/" && made["enabled"] == true)
      #expect(made["events"] == .array(["payment.settled"]))
      let rotated = try await send(server, "POST", "/\(id)/rotate").json()
      let newSecret = try #require(rotated["secret"]?.text)
      #expect(newSecret != secret && rotated["previousSecretUntil"]?.text != nil)
      let changed = try await send(server, "PATCH", "/\(id)", #"{"events":null,"enabled":false,"description":"x"}"#)
      #expect(changed.status == 200)
      #expect(try changed.json()["events"] == .null)
      #expect(try changed.json()["disabledReason"] == "A request disabled it.")
      let shown = [
        changed, try await send(server, "GET", ""), try await send(server, "GET", "/\(id)"),
        try await send(server, "GET", "/\(id)/deliveries"),
        try await send(server, "POST", "/\(id)/replay", #"{"from":0}"#),
        try await server.get("/health"),
      ]
      for response in shown {
        #expect(response.status == 200 || response.status == 202)
        #expect(!response.text.contains("secret\"") && !response.text.contains("whsec_"))
        for secret in [secret, newSecret] { #expect(!response.text.contains(secret.dropFirst(6))) }
      }
      #expect(try await send(server, "DELETE", "/\(id)").status == 204)
      for (method, path) in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/deliveries")] {
        #expect(try await send(server, method, "/\(id)\(path)", "{}").status == 404)
      }
      #expect(try await send(server, "GET", "").json()["webhooks"] == .array([]))
    }
  }

  @Test(
    "a registration that makes no sense says what is wrong with which member",
    arguments: [
      ("[]", "body"), ("{", "body"), ("{}", "url"), (#"{"url":1}"#, "url"), (#"{"url":"http://example.org/"}"#, "url"),
      (#"{"url":"https://127.1/"}"#, "url"), (#"{"url":"https://0x7f000001/"}"#, "url"),
      (#"{"url":"https://[::ffff:10.0.0.1]/"}"#, "url"), (#"{"url":"https://a@example.org/"}"#, "url"),
      (#"{"url":"https://example.org:22/"}"#, "url"), (#"{"url":"https://localhost/"}"#, "url"),
      (#"{"url":"https://example.org/","event":["payment.settled"]}"#, "event"),
      (#"{"url":"https://example.org/","events":[]}"#, "events"),
      (#"{"url":"https://example.org/","events":["payment.setled"]}"#, "events"),
      (#"{"url":"https://example.org/","events":"payment.settled"}"#, "events"),
      (#"{"url":"https://example.org/","description":1}"#, "description"),
      (#"{"url":"https://example.org/","enabled":false}"#, "enabled"),
    ])
  func malformed(_ body: String, _ field: String) async throws {
    try await TestServer.run { server in
      let response = try await send(server, "POST", "", body)
      #expect(response.status == 400)
      #expect(response.headers["content-type"] == "application/problem+json")
      #expect(try response.json()["errors"]?[field] != nil, "\(response.text)")
      #expect(try await send(server, "GET", "").json()["webhooks"] == .array([]))
    }
  }

  @Test("a change that makes no sense changes nothing")
  func malformedChanges() async throws {
    try await TestServer.run { server in
      let id = try #require(try await create(server)["id"]?.text)
      // The log goes on meanwhile: what persons did is on it.
      func settings() async throws -> [JSONValue.Member] {
        guard case .object(let members) = try await send(server, "GET", "/\(id)").json() else { return [] }
        return members.filter { !["offset", "logEnd"].contains($0.key) }
      }
      let before = try await settings()
      #expect(before.count > 5)
      for body in [
        "", "[]", #"{"url":"https://10.0.0.1/"}"#, #"{"enabled":1}"#, #"{"secret":"a"}"#,
        #"{"description":"b","events":[1]}"#,
      ] {
        #expect(try await send(server, "PATCH", "/\(id)", body).status == 400, "\(body)")
      }
      for body in [
        "{}", #"{"from":-1}"#, #"{"from":"yesterday"}"#, #"{"event":"msg_1"}"#, #"{"from":0,"event":"a"}"#,
        #"{"to":1}"#, #"{"from":1.5}"#, #"{"from":9007199254740992}"#, #"{"from":1e30}"#,
      ] {
        #expect(try await send(server, "POST", "/\(id)/replay", body).status == 400, "\(body)")
      }
      let unknown = WebhookMessage.id(of: .random(), version: 1)
      #expect(try await send(server, "POST", "/\(id)/replay", #"{"event":"\#(unknown)"}"#).status == 409)
      for from in ["7.0", "70e-1", "9007199254740991", "\"1627-01-13T06:00:19Z\""] {
        #expect(try await send(server, "POST", "/\(id)/replay", "{\"from\":\(from)}").status == 202, "\(from)")
      }
      for query in ["limit=0", "limit=201", "after=0", "after=x", "before=1"] {
        #expect(try await send(server, "GET", "/\(id)/deliveries?\(query)").status == 400, "\(query)")
      }
      #expect(try await send(server, "PUT", "/\(id)").status == 405)
      #expect(try await send(server, "GET", "/\(id)/rotate").status == 405)
      #expect(try await settings() == before)
    }
  }

  @Test("no more endpoints are made than the limit allows")
  func limit() async throws {
    try await TestServer.run({ $0.webhooks.endpointLimit = 2 }) { server in
      let id = try #require(try await create(server)["id"]?.text)
      _ = try await create(server)
      let third = try await send(server, "POST", "", #"{"url":"https://example.org/hook"}"#)
      #expect(third.status == 409)
      #expect(try third.json()["type"] == "/problems/too-many-webhooks")
      #expect(try await send(server, "DELETE", "/\(id)").status == 204)
      _ = try await create(server)
    }
  }

  @Test("a payment's events are delivered, listed page by page, and sent again by id and by time")
  func deliveries() async throws {
    try await FakeReceiver.run { receiver in
      try await TestServer.run({ $0.webhooks.allowsPrivate = true }) { server in
        let id = try #require(try await create(server, receiver.url)["id"]?.text)
        let payment = try await server.create(#"{"amount":1.5,"currency":"GBP"}"#)
        #expect(payment.status == 200)
        try await eventually("all events are delivered") { receiver.received.count == 4 }
        #expect(
          Set(try receiver.received.map { try $0.json()["type"]?.text }) == [
            "payment.initiated", "payment.created", "payment.settled", "payment.completed",
          ])
        try await eventually("all is noted") {
          guard case .array(let all) = try await send(server, "GET", "/\(id)/deliveries").json()["deliveries"] else {
            return false
          }
          return all.count == 4
        }
        let payments = try #require(try payment.json()["paymentId"]?.text)
        let about = try await server.get("/api/v1/payments/\(payments)/deliveries").json()["deliveries"]
        guard case .array(let sent)? = about else {
          Issue.record("\(about ?? .null)")
          return
        }
        #expect(sent.count == 4 && sent.allSatisfy { $0["webhook"]?.text == id && $0["url"]?.text == receiver.url })
        #expect(sent.allSatisfy { $0["event"]?.text?.contains(payments) == true && $0["status"]?.unsigned == 200 })
        // Tries are listed as they ended, and messages go out beside each other.
        #expect(Set(sent.compactMap { $0["type"]?.text }).count == 4)
        let other = try await server.get("/api/v1/payments/\(PaymentID.random())/deliveries")
        #expect(other.status == 404, "\(other.text)")
        #expect(try await server.get("/api/v1/payments/x/deliveries").status == 404)
        var seen: [String] = []
        var after: String?
        repeat {
          let page = try await send(server, "GET", "/\(id)/deliveries?limit=3" + (after.map { "&after=\($0)" } ?? ""))
            .json()
          guard case .array(let entries) = page["deliveries"] else { break }
          #expect(entries.count <= 3)
          seen += entries.compactMap { $0["event"]?.text }
          after = page["next"]?.text
        } while after != nil
        #expect(seen.count == 4 && Set(seen) == Set(receiver.ids))
        let one = try await send(server, "POST", "/\(id)/replay", #"{"event":"\#(seen[0])"}"#)
        #expect(one.status == 202)
        try await eventually("it is sent again") { receiver.received.count == 5 }
        #expect(receiver.ids.last == seen[0])
        let all = try await send(server, "POST", "/\(id)/replay", #"{"from":"2020-01-01T00:00:00Z"}"#)
        #expect(all.status == 202)
        try await eventually("all is sent again") { receiver.received.count >= 8 }
        let test = try await send(server, "POST", "/\(id)/test").json()
        #expect(test["status"] == .number("200") && test["outcome"] == "delivered" && test["type"] == "webhook.test")
      }
    }
  }

  @Test("a delivery shows the request that was sent, and how the response began; a test has no request")
  func deliveryDetails() async throws {
    let answer = "no \u{7}way: " + String(repeating: "é", count: 400)
    try await FakeReceiver.run({ _ in .init(status: 418, body: answer) }) { receiver in
      try await TestServer.run({ $0.webhooks.allowsPrivate = true }) { server in
        let id = try #require(try await create(server, receiver.url)["id"]?.text)
        _ = try await server.create(#"{"amount":1.5,"currency":"GBP"}"#)
        func list() async throws -> [JSONValue] {
          guard
            case .array(let all)? = try await send(server, "GET", "/\(id)/deliveries?limit=200").json()["deliveries"]
          else { return [] }
          return all
        }
        try await eventually("a try of each event is noted") {
          try await Set(list().compactMap { $0["event"]?.text }).count == 4
        }
        let delivery = try #require(try await list().last)
        let number = try #require(delivery["id"]?.text)
        let shown = try await send(server, "GET", "/\(id)/deliveries/\(number)")
        #expect(shown.status == 200, "\(shown.text)")
        let json = try shown.json()
        let received = try #require(receiver.received.first { $0.id == delivery["event"]?.text })
        #expect(json["request"]?["body"]?.text == received.body && json["request"]?["url"]?.text == receiver.url)
        for name in ["content-type", "webhook-id", "traceparent"] {
          guard case .object(let headers)? = json["request"]?["headers"] else { break }
          #expect(headers.first { $0.key.lowercased() == name }?.value.text == received.headers[name], "\(name)")
        }
        #expect(!shown.text.contains("webhook-signature"))
        let text = try #require(json["response"]?.text)
        #expect(
          text.hasPrefix("no \u{FFFD}way: éé") && text.hasSuffix("…") && text.utf8.count < 530
            && json["status"] == .number("418"))
        #expect(delivery["response"]?.text == text)
        let test = try await send(server, "POST", "/\(id)/test").json()
        #expect(test["response"]?.text == text && test["id"] == .null)
        try await eventually("the test is noted") { try await list().contains { $0["type"] == "webhook.test" } }
        let kept = try #require(try await list().first { $0["type"] == "webhook.test" }?["id"]?.text)
        #expect(try await send(server, "GET", "/\(id)/deliveries/\(kept)").json()["request"] == .null)
        for other in ["0", "x", "-1", "99999999", "9999999999999999999999"] {
          #expect(try await send(server, "GET", "/\(id)/deliveries/\(other)").status == 404, "\(other)")
        }
      }
    }
  }

  @Test("a test of an endpoint that does not respond gives the reason")
  func failingTest() async throws {
    try await TestServer.run({ $0.webhooks.allowsPrivate = true }) { server in
      let id = try #require(try await create(server, "http://127.0.0.1:1025/")["id"]?.text)
      let test = try await send(server, "POST", "/\(id)/test").json()
      #expect(test["outcome"] == "failed" && test["status"] == .null && test["error"]?.text?.isEmpty == false)
      #expect(try await send(server, "GET", "/\(id)").json()["failuresInRow"] == .number("0"))
    }
  }
}
