import Testing

@testable import RegisPay

@Suite("The HTTP routes")
struct RouteTests {
  private func create(_ server: TestServer, _ count: Int) async throws -> [String] {
    var ids: [String] = []
    for index in 1...count {
      let response = try await server.create(#"{"amount":\#(index),"currency":"GBP"}"#)
      ids.append(try #require(try response.json()["paymentId"]?.text))
    }
    return ids
  }

  private func waitForCompletion(_ server: TestServer, _ ids: [String]) async throws {
    for id in ids {
      try await eventually("\(id) completes") {
        try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
      }
    }
  }

  @Test("requests that make no sense get a 4xx problem that says what is wrong")
  func malformed() async throws {
    let cases: [(method: String, path: String, status: Int)] = [
      ("GET", "/nothing", 404), ("POST", "/nothing", 404), ("GET", "/api", 404), ("GET", "/api/v1/payments/x", 404),
      ("GET", "/api/v1/payments/00000000-0000-4000-8000-000000000000", 404),
      ("GET", "/api/v1/payments/00000000-0000-4000-8000-000000000000/events", 404),
      ("GET", "/api/v1/payments/%00", 404), ("GET", "/api/v1/payments/..%2F..%2Fetc", 404),
      ("GET", "/api/v1/payments/\(String(repeating: "x", count: 5_000))", 404),
      ("GET", "/api/payment/create", 405), ("DELETE", "/api/v1/payments", 405), ("PUT", "/api/payment/create", 405),
      ("POST", "/", 405), ("POST", "/health", 405), ("GET", "/toggle-errors", 405), ("PATCH", "/psp/api/ledger", 405),
      ("GET", "/api/v1/payments/", 404), ("POST", "/api/v1/payments/", 404), ("GET", "/api/v1//payments", 404),
      ("GET", "//api/v1/payments", 404), ("GET", "/health/", 404), ("GET", "//", 404), ("GET", "/nothing?x=1", 404),
      ("GET", "/api/v1/payments?amount=-1", 400), ("GET", "/api/v1/payments?amount=1e2", 400),
      ("GET", "/api/v1/payments?limit=%2B5", 400), ("GET", "/api/v1/payments/troubles?status=Completed", 400),
      ("POST", "/api/v1/payments?amount=1", 400), ("POST", "/api/payment/create?x", 400),
      ("POST", "/api/v1/payments/00000000-0000-4000-8000-000000000000/refunds?amount=1", 400),
      ("POST", "/api/v1/payments/00000000-0000-4000-8000-000000000000/cancel?reason=x", 400),
      ("POST", "/api/v1/webhooks?url=x", 400), ("POST", "/toggle-errors?on", 400),
      ("DELETE", "/psp/api/faults?x=1", 400),
      ("PUT", "/psp/api/faults?failRate=1", 400), ("GET", "/api/v1/consumers?name=x", 400),
      ("GET", "/api/v1/payments/00000000-0000-4000-8000-000000000000?full=1", 400),
      ("GET", "/api/v1/payments?limit=0", 400), ("GET", "/api/v1/payments?limit=201", 400),
      ("GET", "/api/v1/payments?limit=x", 400), ("GET", "/api/v1/payments?limit=99999999999999999999", 400),
      ("GET", "/api/v1/payments?limit=", 400), ("GET", "/api/v1/payments?after=-1", 400),
      ("GET", "/api/v1/payments?after=x", 400), ("GET", "/api/v1/payments?after=amount_1_999999", 404),
      ("GET", "/api/v1/payments?status=completed", 400),
      ("GET", "/api/v1/payments?status=", 400), ("GET", "/api/v1/events?from=x", 400),
      ("GET", "/api/v1/events?from=-1", 400),
    ]
    try await TestServer.run { server in
      for (method, path, status) in cases {
        let response = try await server.send(method, path)
        #expect(response.status == status, "\(method) \(path)")
        #expect(response.headers["content-type"] == "application/problem+json", "\(method) \(path)")
        let json = try response.json()
        #expect(json["status"] == .number("\(status)"), "\(method) \(path)")
        #expect(json["detail"]?.text?.isEmpty == false, "\(method) \(path)")
        #expect((response.headers["allow"] != nil) == (status == 405), "\(method) \(path)")
      }
    }
  }

  @Test("a payment is shown by its id, with its events")
  func payment() async throws {
    try await TestServer.run { server in
      let ids = try await create(server, 1)
      try await waitForCompletion(server, ids)
      let payment = try await server.get("/api/v1/payments/\(ids[0])").json()
      #expect(payment["paymentId"]?.text == ids[0])
      #expect(payment["version"] == .number("4"))
      #expect(payment["paymentReference"]?.text?.isEmpty == false)
      #expect(payment["createdAt"]?.text?.hasSuffix("Z") == true)
      let events = try await server.get("/api/v1/payments/\(ids[0])/events").json()
      guard case .array(let list)? = events["events"] else {
        Issue.record("no events")
        return
      }
      #expect(list.map { $0["version"] } == (1...4).map { .number("\($0)") })
      #expect(list[0]["data"]?["amount"] == .number("1.00"))
      #expect(list[1]["data"]?["paymentReference"] == payment["paymentReference"])
      let upper = try await server.get("/api/v1/payments/\(ids[0].uppercased())")
      #expect(upper.status == 200)
    }
  }

  @Test("the list is newest first, and its pages hold every payment once, also while others are created")
  func pages() async throws {
    try await TestServer.run { server in
      let ids = try await create(server, 25)
      try await waitForCompletion(server, ids)
      var seen: [String] = []
      var after = ""
      repeat {
        let page = try await server.get("/api/v1/payments?limit=4\(after)").json()
        guard case .array(let payments)? = page["payments"] else { break }
        seen += payments.compactMap { $0["paymentId"]?.text }
        _ = try await create(server, 1)
        after = page["next"]?.text.map { "&after=\($0)" } ?? ""
      } while !after.isEmpty
      #expect(seen == ids.reversed())
    }
  }

  @Test("the list shows only those in a state")
  func statusFilter() async throws {
    try await TestServer.run { server in
      let done = try await create(server, 3)
      try await waitForCompletion(server, done)
      _ = try await server.send("POST", "/toggle-errors")
      let waiting = try await create(server, 2)
      try await eventually("the list shows them") {
        let page = try await server.get("/api/v1/payments?status=Initiated").json()
        guard case .array(let payments)? = page["payments"] else { return false }
        return payments.compactMap { $0["paymentId"]?.text } == waiting.reversed()
      }
      let completed = try await server.get("/api/v1/payments?status=Completed&limit=2").json()
      guard case .array(let payments)? = completed["payments"] else { return }
      #expect(payments.compactMap { $0["paymentId"]?.text } == [done[2], done[1]])
      _ = try await server.send("POST", "/toggle-errors")
      try await waitForCompletion(server, waiting)
    }
  }

  @Test("a browser gets the page, whose every part comes from here; others get a line of text")
  func page() async throws {
    try await TestServer.run { server in
      let page = try await server.get("/", accept: "text/html,application/xhtml+xml,*/*;q=0.8")
      #expect(page.status == 200)
      #expect(page.headers["content-type"] == "text/html; charset=utf-8")
      let policy = try #require(page.headers["content-security-policy"])
      #expect(policy.hasPrefix("default-src 'none'") && !policy.contains("unsafe"))
      #expect(!page.text.contains("http://") && !page.text.contains("https://"))
      for path in ["/assets/page.css", "/assets/main.js"] { #expect(page.text.contains(path)) }
      for accept in [nil, "*/*", "application/json"] {
        let hello = try await server.get("/", accept: accept)
        #expect(hello.headers["content-type"] == "text/plain; charset=utf-8")
        #expect(hello.text.hasPrefix("Hello"))
      }
      #expect(try await server.send("HEAD", "/health").status == 200)
    }
  }

  @Test("a page's report about its policy is counted and logged without secrets; a flood of them fills no log")
  func policyReports() async throws {
    let collector = LineCollector()
    try await TestServer.run(logger: collector.logger) { server in
      func report(_ body: String) async throws -> Int {
        try await server.send(
          "POST", "/api/v1/csp-reports", headers: [("Content-Type", "application/json")], body: Array(body.utf8)
        ).status
      }
      let body = #"{"directive":"script-src-elem","blocked":"https://x.test/a?token=1","line":3}"#
      for _ in 0..<40 { #expect(try await report(body) == 204) }
      for body in [
        "", "[]", "{", #"{"csp-report":1}"#, #"{"line":-1}"#, #"{"line":"1"}"#, #"{"blocked":1}"#,
        #"{"source":"\#(String(repeating: "x", count: 20_000))"}"#,
      ] {
        #expect((400...413).contains(try await report(body)), "\(body.prefix(40))")
      }
      let metrics = try await server.get("/metrics").text
      #expect(metrics.contains("regispay_page_policy_violations_total 40\n"))
      let lines = collector.text.split(separator: "\n").filter { $0.contains("pages' policy") }
      #expect(lines.count == 10 && lines.allSatisfy { $0.contains("https://x.test/a") && !$0.contains("token") })
    }
  }

  @Test("settings are shown with their sources, and a secret is not")
  func settings() async throws {
    let (port, token) = (
      SettingDefinition("port", default: "8080", summary: "Where.", unit: "seconds"),
      SettingDefinition("psp-token", isSecret: true)
    )
    let shown = ShownSetting.all(
      [
        port, token, SettingDefinition("allowed-host", .list, isReloadable: true), SettingDefinition("insecure", .flag),
      ],
      [
        Setting(definition: port, values: ["99"], source: .file("/etc/r.yaml", line: 3)),
        Setting(definition: token, values: ["hush"], source: .variable("REGISPAY_PSP_TOKEN")),
      ])
    let variables = OTLPOptions.shown([
      "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hush",
    ])
    try await TestServer.run({ $0.settings = SettingsInForce(shown, variables: variables) }) { server in
      let response = try await server.get("/api/v1/settings")
      #expect(response.status == 200 && !response.text.contains("hush"), "\(response.text)")
      let json = try response.json()
      guard case .array(let settings)? = json["settings"], case .array(let found)? = json["variables"] else {
        return #expect(Bool(false), "\(response.text)")
      }
      #expect(
        settings.first?["summary"] == "Where." && settings.map { $0["unit"] } == ["seconds", .null, .null, .null])
      #expect(settings.map { $0["value"] } == ["99", .null, .null, .bool(false)])
      #expect(
        settings.map { $0["source"]?.text } == [
          "/etc/r.yaml line 3", "environment variable REGISPAY_PSP_TOKEN", nil, "default",
        ])
      #expect(settings.map { $0["isDefault"] } == [.bool(false), .bool(false), .bool(true), .bool(true)])
      #expect(settings.map { $0["hidden"] } == [.bool(false), .bool(true), .bool(false), .bool(false)])
      #expect(found.map { $0["value"] } == ["http://c:4318", .null])
    }
  }

  @Test("the simulators respond on the reference's routes")
  func simulators() async throws {
    try await TestServer.run { server in
      let json = [("Content-Type", "application/json"), ("Idempotency-Key", "a:create")]
      let created = try await server.send(
        "POST", "/psp/api/payments/create", headers: json, body: Array(#"{"amount":5,"currency":"USD"}"#.utf8))
      #expect(created.status == 202)
      let reference = try #require(try created.json()["paymentId"]?.text)
      #expect(try await server.send("POST", "/psp/api/payments/\(reference)/settle").status == 202)
      let sent = try await server.send(
        "POST", "/notifications/api/send", body: Array(#"{"id":"1","jsonPayload":"{}"}"#.utf8))
      #expect(sent.status == 202)
      let ledger = try await server.get("/psp/api/ledger").json()
      #expect(ledger["count"] == .number("1"))
      #expect(try await server.send("POST", "/toggle-errors").json()["errors"] == .bool(true))
      #expect(try await server.send("POST", "/psp/api/payments/create", body: Array("{}".utf8)).status == 500)
      #expect(try await server.send("POST", "/notifications/api/send", body: Array("{}".utf8)).status == 500)
      #expect(try await server.send("POST", "/toggle-errors").json()["errors"] == .bool(false))
      #expect(try await server.send("POST", "/psp/api/payments/create", body: Array("{".utf8)).status == 400)
    }
  }
}
