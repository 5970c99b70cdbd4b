import Foundation
import HTTPTypes
import Testing

@testable import RegisPay

@Suite("Who may do what")
struct AccessTests {
  private static let id = "00000000-0000-4000-8000-000000000000"
  private static let step = "settle"
  /// What every key may do, whatever its scopes.
  private static let ofAnyKey: Set = ["/api/v1/session", "/api/v1/csp-reports", "/api/v1/batches/\(id)/stop"]
  /// Every route with what it needs; beside `RouteAccess.all`, so that a change there is one that was meant.
  private static let table: [(method: String, path: String, scope: KeyScope?)] = [
    ("GET", "/", nil), ("GET", "/assets/page.css", nil), ("GET", "/assets/main.js", nil), ("GET", "/alive", nil),
    ("HEAD", "/alive", nil), ("GET", "/health", nil), ("POST", "/api/payment/create", .write),
    ("GET", "/api/v1/payments", .read), ("HEAD", "/api/v1/payments", .read), ("POST", "/api/v1/payments", .write),
    ("GET", "/api/v1/payments/export?format=x", .read), ("GET", "/api/v1/payments/count", .read),
    ("GET", "/api/v1/payments/troubles", .read), ("GET", "/api/v1/batches", .read),
    ("POST", "/api/v1/batches/cancel", .write), ("POST", "/api/v1/batches/refund", .write),
    ("POST", "/api/v1/broker/replay", .operate), ("POST", "/api/v1/batches/retry", .operate),
    ("POST", "/api/v1/broker/dead-letters/\(step)/release", .operate), ("POST", "/api/v1/work/\(step)", .work),
    ("POST", "/api/v1/work/\(step)/outcome", .work),
    ("GET", "/api/v1/batches/\(id)", .read),
    ("POST", "/api/v1/batches/\(id)/stop", .read),
    ("GET", "/api/v1/payments/\(id)", .read), ("GET", "/api/v1/payments/\(id)/events", .read),
    ("GET", "/api/v1/payments/\(id)/trace", .read), ("GET", "/api/v1/payments/\(id)/deliveries", .operate),
    ("POST", "/api/v1/payments/\(id)/cancel", .write), ("POST", "/api/v1/payments/\(id)/refunds", .write),
    ("POST", "/api/v1/payments/\(id)/retry", .operate), ("POST", "/api/v1/payments/\(id)/resolve", .operate),
    ("GET", "/api/v1/events?from=x", .read),
    ("POST", "/psp/api/payments/create", .operate), ("POST", "/psp/api/payments/x/settle", .operate),
    ("POST", "/psp/api/payments/x/cancel", .operate), ("POST", "/psp/api/payments/x/refunds", .operate),
    ("POST", "/notifications/api/send", .operate), ("GET", "/psp/api/faults", .read),
    ("PUT", "/psp/api/faults", .operate), ("DELETE", "/psp/api/faults", .operate),
    ("GET", "/notifications/api/faults", .read), ("PUT", "/notifications/api/faults", .operate),
    ("DELETE", "/notifications/api/faults", .operate), ("POST", "/toggle-errors", .operate),
    ("GET", "/psp/api/ledger", .read), ("GET", "/api/v1/consumers", .read),
    ("POST", "/api/v1/consumers/payment-create/try", .operate), ("GET", "/openapi.json", nil),
    ("GET", "/metrics", .read), ("GET", "/api/v1/logging", .operate), ("PUT", "/api/v1/logging", .operate),
    ("GET", "/api/v1/settings", .operate),
    ("GET", "/api/v1/log/events", .read), ("GET", "/api/v1/log/events/8", .read),
    ("POST", "/api/v1/csp-reports", .read),
    ("GET", "/api/v1/webhooks", .operate), ("POST", "/api/v1/webhooks", .operate),
    ("GET", "/api/v1/webhooks/\(id)", .operate), ("PATCH", "/api/v1/webhooks/\(id)", .operate),
    ("DELETE", "/api/v1/webhooks/\(id)", .operate), ("POST", "/api/v1/webhooks/\(id)/rotate", .operate),
    ("POST", "/api/v1/webhooks/\(id)/test", .operate), ("GET", "/api/v1/webhooks/\(id)/deliveries", .operate),
    ("GET", "/api/v1/webhooks/\(id)/deliveries/7", .operate),
    ("POST", "/api/v1/webhooks/\(id)/replay", .operate),
    ("GET", "/api/v1/session", .read), ("GET", "/api/v1/activity", .read), ("GET", "/api/v1/log", .read),
    ("GET", "/api/v1/keys", .operate), ("POST", "/api/v1/keys", .operate),
    ("DELETE", "/api/v1/keys/\(id)", .operate),
    ("GET", "/api/v1/actions", .read), ("GET", "/api/v1/activity/stream?x", .read),
  ]

  /// Makes a key in a running server's directory and waits until it is in force.
  private func key(
    _ directory: String, _ server: TestServer, _ scopes: Set<KeyScope>, name: String = "test", owner: String? = nil
  ) async throws -> String {
    let key = try KeyStore.open(directory).create(name: name, owner: owner, scopes: scopes, lifetimeSeconds: nil).text
    try await eventually("the key is in force") {
      let with = try await server.send("GET", "/nothing", headers: [("Authorization", "Bearer \(key)")])
      let without = try await server.get("/nothing")
      return with.status == 404 && without.status == 401
    }
    return key
  }

  private func withKeyedServer(
    _ change: (inout ServerOptions) -> Void = { _ in },
    _ work: @escaping @Sendable (TestServer, String) async throws -> Void
  ) async throws {
    try await withTemporaryFolder { folder in
      try await TestServer.run({
        $0.directory = folder + "/keyed"
        $0.keyInterval = .milliseconds(5)
        change(&$0)
      }) { server in try await work(server, folder + "/keyed") }
    }
  }

  @Test("every route is let through with its scope alone, and says which it needs")
  func scopes() async throws {
    try await withKeyedServer { server, directory in
      var keys: [KeyScope: String] = [:]
      for scope in KeyScope.allCases { keys[scope] = try await key(directory, server, [scope]) }
      for (method, path, needed) in Self.table {
        let without = try await server.send(method, path)
        #expect((without.status == 401) == (needed != nil), "\(method) \(path)")
        if needed != nil {
          #expect(without.headers["www-authenticate"] == "Bearer realm=\"RegisPay\"", "\(method) \(path)")
          #expect(without.headers["content-type"] == "application/problem+json", "\(method) \(path)")
        }
        for scope in KeyScope.allCases {
          let response = try await server.send(
            method, path, headers: [("Authorization", "Bearer \(keys[scope] ?? "")")])
          if let needed, scope != needed, !Self.ofAnyKey.contains(path) {
            #expect(response.status == 403, "\(method) \(path) with \(scope)")
            #expect(response.headers["www-authenticate"]?.contains("scope=\"\(needed.rawValue)\"") == true)
          } else {
            #expect(response.status != 401 && response.status != 403, "\(method) \(path) with \(scope)")
          }
        }
      }
    }
  }

  @Test("the table has every route, and nothing else: what is not in it only says that the method is wrong")
  func complete() async throws {
    let listed = RouteAccess.all.flatMap { path, methods in methods.keys.map { "\($0.rawValue) \(path)" } }
    let tested = Self.table.filter { $0.method != "HEAD" }.map { entry in
      "\(entry.method) "
        + (entry.path.split(separator: "?").first ?? "").replacing(Self.id, with: "{id}")
        .replacing("/\(Self.step)/release", with: "/{step}/release").replacing(
          "v1/work/\(Self.step)", with: "v1/work/{step}"
        )
        .replacing("/payment-create/", with: "/{name}/").replacing("/x/", with: "/{reference}/")
        .replacing("/deliveries/7", with: "/deliveries/{number}").replacing("/events/8", with: "/events/{offset}")
        .replacing(
          /^\/assets\/.*/, with: "/assets/{name}")
    }
    #expect(Set(listed) == Set(tested))
    try await TestServer.run { server in
      for (path, methods) in RouteAccess.all {
        let path = path.replacing("{id}", with: Self.id).replacing("{reference}", with: "x")
          .replacing("/{name}/", with: "/payment-create/").replacing("{number}", with: "7")
          .replacing("{offset}", with: "8").replacing("{step}", with: "create")
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"] {
          let isListed = methods.keys.contains { $0.rawValue == method }
          // Without a mistake the response is unbounded.
          let isStream = ["/api/v1/events", "/api/v1/activity/stream"].contains(path)
          let path = isStream ? path + "?from=x" : path
          let status = try await server.send(method, path).status
          #expect((status == 405) != isListed, "\(method) \(path)")
        }
      }
    }
  }

  private func create(_ server: TestServer, _ key: String) async throws -> TestServer.Response {
    try await server.send(
      "POST", "/api/v1/payments",
      headers: [
        ("Authorization", "Bearer \(key)"), ("Content-Type", "application/json"), ("Idempotency-Key", "same"),
      ], body: Array(#"{"amount":1,"currency":"GBP"}"#.utf8))
  }

  @Test("two owners of keys may choose the same idempotency key, and neither gets the other's response")
  func owners() async throws {
    try await withKeyedServer { server, directory in
      var responses: Set<String> = []
      for (name, owner) in [("a", nil), ("b", nil), ("a", "c")] {
        let key = try await key(directory, server, [.write], name: name, owner: owner)
        for _ in 0..<2 {
          let response = try await create(server, key)
          #expect(response.status == 200)
          responses.insert(response.text)
        }
      }
      #expect(responses.count == 3)
    }
  }

  @Test("a client whose key is replaced between two tries pays once")
  func rotation() async throws {
    try await withKeyedServer { server, directory in
      var responses: Set<String> = []
      for (name, owner) in [("shop", nil), ("shop", nil), ("shop 2027", "shop")] {
        let key = try await key(directory, server, [.write], name: name, owner: owner)
        responses.insert(try await create(server, key).text)
        #expect(try KeyStore.open(directory).revoke(String(key.dropFirst(3).prefix(12))))
      }
      #expect(responses.count == 1)
    }
  }

  @Test("a client that repeats a request after the first API key was created pays once")
  func firstKey() async throws {
    try await withKeyedServer { server, directory in
      let before = try await server.send(
        "POST", "/api/v1/payments", headers: [("Content-Type", "application/json"), ("Idempotency-Key", "same")],
        body: Array(#"{"amount":1,"currency":"GBP"}"#.utf8))
      #expect(before.status == 200)
      let key = try await key(directory, server, [.write], name: "shop", owner: nil)
      #expect(try await create(server, key).text == before.text)
    }
  }

  @Test("of a server on loopback without keys another site's page gets nothing but the page")
  func crossSite() async throws {
    try await TestServer.run { server in
      let picture = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")]
      let link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
      for (method, path, scope) in Self.table {
        let shown = try await server.send(method, path, headers: picture)
        #expect(shown.status == 403, "\(method) \(path)")
        let followed = try await server.send(method, path, headers: link)
        #expect((followed.status == 403) == (scope != nil), "\(method) \(path)")
      }
      #expect(try await server.send("GET", "/nothing", headers: picture).status == 403)
    }
  }

  @Test(
    "only a request that may read gets the reasons why the server is unhealthy; others get one word",
    arguments: [false, true])
  func health(isKeyed: Bool) async throws {
    try await withKeyedServer { server, directory in
      var keys: [KeyScope: String] = [:]
      for scope in KeyScope.allCases where isKeyed {
        keys[scope] = "Bearer " + (try await key(directory, server, [scope]))
      }
      #expect(try await server.get("/health").text == "Healthy")
      try FileManager.default.removeItem(atPath: directory + "/keys.sqlite")
      try await eventually("the missing file is noticed") { try await server.get("/health").status == 503 }
      func lines(_ authorization: String?) async throws -> [String] {
        let response = try await server.send(
          "GET", "/health", headers: authorization.map { [("Authorization", $0)] } ?? [])
        #expect(response.status == 503)
        return response.text.split(separator: "\n").map(String.init)
      }
      let full = try await lines(keys[.read])
      #expect(full.count == 2 && full[1].contains(directory), "\(full)")
      guard isKeyed else { return }
      for authorization in [nil, "Bearer rp_x", "Basic eDp5", keys[.write], keys[.operate]] {
        #expect(try await lines(authorization) == ["Unhealthy"])
      }
    }
  }

  @Test("a route that nobody decided about is nobody's")
  func defaultDeny() {
    #expect(RouteAccess.needed("/api/v1/new", .get) == nil)
    #expect(RouteAccess.needed("/api/v1/payments/{id}", .delete) == nil)
    #expect(RouteAccess.needed("/api/v1/payments", .head) == .scope(.read))
  }

  @Test("a session tells what a key may do, and without keys everybody may do everything")
  func session() async throws {
    try await withKeyedServer { server, directory in
      let open = try await server.get("/api/v1/session").json()
      #expect(open["key"] == .null && open["requiresKey"] == .bool(false))
      #expect(open["scopes"] == .array(["read", "write", "operate", "work"]))
      #expect(open["version"]?.text?.isEmpty == false && open["storeId"]?.text?.count == 16)
      #expect(open["simulator"] == ["psp": true, "notifications": true])
      let key = try await key(directory, server, [.operate, .read], name: "desk")
      let session = try await server.send("GET", "/api/v1/session", headers: [("Authorization", "Bearer \(key)")])
        .json()
      #expect(session["key"] == "desk" && session["requiresKey"] == .bool(true))
      #expect(session["scopes"] == .array(["read", "operate"]))
      #expect(try await server.get("/api/v1/session").status == 401)
      #expect(try KeyStore.open(directory).revoke(String(key.dropFirst(3).prefix(12))))
      try await eventually("the key is refused") {
        try await server.send("GET", "/api/v1/session", headers: [("Authorization", "Bearer \(key)")]).status == 401
      }
    }
    try await TestServer.run({ $0.pspURL = "http://127.0.0.1:1" }) { server in
      let session = try await server.get("/api/v1/session").json()
      #expect(session["simulator"] == ["psp": false, "notifications": true])
    }
  }

  @Test("payments complete while keys are required, and no response contains the key")
  func paymentsGoOn() async throws {
    try await withKeyedServer { server, directory in
      let key = try await key(directory, server, [.read, .write])
      let headers = [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
      let created = try await server.send(
        "POST", "/api/v1/payments", headers: headers, body: Array(#"{"amount":1,"currency":"GBP"}"#.utf8))
      let id = try #require(try created.json()["paymentId"]?.text)
      try await eventually("the payment completes") {
        try await server.send("GET", "/api/v1/payments/\(id)", headers: headers).json()["status"] == "Completed"
      }
      let secret = key.suffix(72)
      for path in ["/api/v1/payments", "/api/v1/payments/\(id)/events", "/nothing", "/toggle-errors"] {
        let text = try await server.send("GET", path, headers: headers).text
        #expect(!text.contains(secret))
      }
      #expect(try KeyStore.open(directory).revoke(String(key.dropFirst(3).prefix(12))))
      try await eventually("the key is refused") {
        try await server.send("GET", "/api/v1/payments", headers: headers).status == 401
      }
      #expect(try await server.get("/api/v1/payments").status == 401, "it does not open again")
    }
  }

  @Test("a key made over the API is in force at once, its text is shown once, and a revoked one lets nobody in at once")
  func managed() async throws {
    // No check of the file comes to help.
    try await withKeyedServer({ _ in }) { server, directory in
      let boss = try await key(directory, server, [.read, .operate], name: "boss")
      func send(_ method: String, _ path: String, _ body: String = "{}", by key: String) async throws
        -> TestServer.Response
      {
        try await server.send(
          method, path, headers: [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")],
          body: Array(body.utf8))
      }
      let made = try await send(
        "POST", "/api/v1/keys", #"{"name":"anna","scopes":["read"],"expiresInDays":2.0}"#, by: boss)
      #expect(made.status == 201, "\(made.text)")
      let (text, id) = (try #require(try made.json()["key"]?.text), try #require(try made.json()["id"]?.text))
      #expect(try await send("GET", "/api/v1/payments", by: text).status == 200)
      #expect(try await send("GET", "/api/v1/keys", by: text).status == 403)
      let list = try await send("GET", "/api/v1/keys", by: boss)
      #expect(list.text.contains(#""name":"anna""#) && !list.text.contains(text.dropFirst(16)))
      #expect(!list.text.contains("rp_"))
      // Nobody gives more than they have.
      let more = try await send("POST", "/api/v1/keys", #"{"name":"x","scopes":["read","write"]}"#, by: boss)
      #expect(more.status == 403 && more.headers["www-authenticate"]?.contains("write") == true)
      let revoked = try await send("DELETE", "/api/v1/keys/\(id)", by: boss)
      let moment = try revoked.json()["revokedAt"]?.text
      #expect(revoked.status == 200 && moment != nil)
      #expect(try await send("GET", "/api/v1/payments", by: text).status == 401)
      let again = try await send("DELETE", "/api/v1/keys/\(id)", by: boss).json()
      #expect(again["revokedAt"]?.text == moment, "the time of the first revocation stays")
      #expect(try await send("DELETE", "/api/v1/keys/000000000000", by: boss).status == 404)
      for body in [
        "[]", "{}", #"{"name":"","scopes":["read"]}"#, #"{"name":"x","scopes":[]}"#, #"{"name":"x","scopes":["all"]}"#,
        #"{"name":"a\nb","scopes":["read"]}"#, #"{"name":"x","scopes":["read"],"expiresInDays":0}"#,
        #"{"name":" x","scopes":["read"]}"#, #"{"name":"x\u00a0","scopes":["read"]}"#,
        #"{"name":"a\u0085b","scopes":["read"]}"#, #"{"name":"a\u202eb","scopes":["read"]}"#,
        #"{"name":"\#(text)","scopes":["read"]}"#, #"{"name":"x","owner":"\#(text)","scopes":["read"]}"#,
        #"{"name":"x","scopes":["read"],"days":1}"#, #"{"name":"x","scopes":["read"],"owner":""}"#,
      ] {
        #expect(try await send("POST", "/api/v1/keys", body, by: boss).status == 400, "\(body)")
      }
      #expect(try Set(KeyStore.keys(in: directory).map(\.name)) == ["boss", "anna"])
      // A key in the wrong place is not sent back.
      for (method, path) in [
        ("DELETE", "/api/v1/keys/\(text)"), ("GET", "/api/v1/batches/\(text)"), ("GET", "/\(text)"),
        ("POST", "/api/v1/consumers/\(text)/try"), ("GET", "/api/v1/keys?\(text)=1"),
      ] {
        let response = try await send(method, path, by: boss)
        #expect(response.status >= 400 && !response.text.contains(text.dropFirst(16)), "\(response.text)")
      }
      for secret in [text, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD/4hnXKYWSX0="] {
        for (path, body) in [
          ("/api/v1/webhooks", #"{"url":"https://example.org/\#(secret)"}"#),
          ("/api/v1/webhooks", #"{"url":"https://example.org/","description":"\#(secret)"}"#),
          ("/api/v1/batches/retry", #"{"filter":{"search":"\#(secret)"}}"#),
          ("/api/v1/keys", #"{"name":"\#(secret)","scopes":["read"]}"#),
        ] {
          let response = try await send("POST", path, body, by: boss)
          #expect(response.status == 400 && !response.text.contains(secret.dropFirst(16)), "\(path) \(response.text)")
        }
      }
      let member = try await send("POST", "/api/v1/keys", #"{"\#(text)":1}"#, by: boss)
      #expect(member.status == 400 && !member.text.contains(text.dropFirst(16)), "\(member.text)")
    }
  }

  @Test("what a person changes is on the log with their name and without a secret, and a refused change is not")
  func recorded() async throws {
    try await withKeyedServer({ $0.webhooks.allowsPrivate = true }) { server, directory in
      let boss = try await key(directory, server, [.read, .write, .operate], name: "boss")
      func send(_ method: String, _ path: String, _ body: String = "{}") async throws -> TestServer.Response {
        try await server.send(
          method, path, headers: [("Authorization", "Bearer \(boss)"), ("Content-Type", "application/json")],
          body: Array(body.utf8))
      }
      let made = try await send("POST", "/api/v1/keys", #"{"name":"anna","scopes":["read"]}"#).json()
      let id = try #require(made["id"]?.text)
      // The second time nothing is changed.
      for _ in 0..<2 { #expect(try await send("DELETE", "/api/v1/keys/\(id)").status == 200) }
      // Nobody listens there.
      let hook = try await send("POST", "/api/v1/webhooks", #"{"url":"http://127.0.0.1:9999/secret-path"}"#).json()
      let webhook = try #require(hook["id"]?.text, "\(hook)")
      for (method, path, body) in [
        ("PATCH", "/api/v1/webhooks/\(webhook)", #"{"description":"till","events":["payment.completed"]}"#),
        // Changes nothing.
        ("PATCH", "/api/v1/webhooks/\(webhook)", "{}"),
        ("POST", "/api/v1/webhooks/\(webhook)/rotate", "{}"), ("POST", "/api/v1/webhooks/\(webhook)/test", "{}"),
        ("POST", "/api/v1/webhooks/\(webhook)/replay", #"{"from":0}"#), ("DELETE", "/api/v1/webhooks/\(webhook)", "{}"),
        ("POST", "/api/v1/batches/retry", #"{"filter":{}}"#), ("PUT", "/api/v1/logging", #"{"level":"notice"}"#),
        ("PUT", "/api/v1/logging", #"{"level":"notice"}"#),
        ("PUT", "/psp/api/faults", #"{"decline":0.5}"#), ("DELETE", "/psp/api/faults", ""),
        ("POST", "/toggle-errors", "{}"), ("POST", "/toggle-errors", "{}"),
        // Refused.
        ("PUT", "/api/v1/logging", #"{"level":"loud"}"#), ("PUT", "/psp/api/faults", #"{"decline":5}"#),
        ("POST", "/api/v1/keys", #"{"name":"","scopes":[]}"#), ("DELETE", "/api/v1/webhooks/\(webhook)", "{}"),
      ] {
        _ = try await send(method, path, body)
      }
      let page = try await send("GET", "/api/v1/actions")
      guard case .array(let events)? = try page.json()["events"] else { return #expect(Bool(false), "\(page.text)") }
      #expect(
        events.reversed().compactMap { $0["data"]?["action"]?.text } == [
          "key-created", "key-revoked", "webhook-created", "webhook-changed", "webhook-secret-rotated",
          "webhook-tested",
          "webhook-replayed", "webhook-deleted", "batch-begun", "log-level-changed", "faults-changed", "faults-changed",
          "errors-toggled", "errors-toggled",
        ], "\(page.text)")
      guard case .array(let keys)? = try await send("GET", "/api/v1/keys").json()["keys"] else {
        return #expect(Bool(false))
      }
      let bossID = try #require(keys.first { $0["name"] == "boss" }?["id"])
      #expect(
        events.allSatisfy {
          $0["metadata"]?["actor"] == "boss" && $0["metadata"]?["actorKey"] == bossID && $0["stream"] == "actions"
        })
      let subjects = events.reversed().map { $0["data"]?["subject"]?.text }
      #expect(subjects[..<8] == [id, id, webhook, webhook, webhook, webhook, webhook, webhook])
      for secret in ["secret-path", "whsec_", "rp_"] { #expect(!page.text.contains(secret), "\(page.text)") }
      // They are no payment's: consumers, the list and webhooks pass over them.
      let health = try await send("GET", "/health")
      #expect(health.status == 200, "\(health.text)")
      #expect(try await send("GET", "/api/v1/payments").json()["payments"] == .array([]))
    }
  }

  @Test("keys that are made and revoked at once are in force and out of force when each call returns")
  func concurrent() async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let keys = try KeyWatch(folder, log: PaymentLog(store), health: Health(stores: []), logger: silent)
        try await withThrowingTaskGroup { group in
          for number in 0..<8 {
            group.addTask {
              for _ in 0..<10 {
                let key = try keys.create(name: "key \(number)", owner: nil, scopes: [.read], lifetimeSeconds: nil)
                #expect(keys.ring.entries[key.id]?.key.isValid(atSeconds: 0) == true, "it was made")
                #expect(try keys.revoke(key.id))
                #expect(keys.ring.entries[key.id]?.key.isValid(atSeconds: 0) == false, "it was revoked")
              }
            }
          }
          try await group.waitForAll()
        }
        #expect(keys.all.count == 80 && keys.all.allSatisfy { $0.revokedSeconds != nil })
      }
    }
  }

  @Test("a key that expires makes keys that expire no later, and a server without keys makes none")
  func lifetimes() async throws {
    try await TestServer.run { server in
      let body = Array(#"{"name":"first","scopes":["read"]}"#.utf8)
      let json = [("Content-Type", "application/json")]
      let response = try await server.send("POST", "/api/v1/keys", headers: json, body: body)
      #expect(response.status == 409 && response.text.contains("regispay keys create"))
      #expect(try await server.get("/api/v1/keys").json()["keys"] == .array([]))
    }
    try await withKeyedServer { server, directory in
      let maker = try KeyStore.open(directory).create(name: "m", scopes: [.operate], lifetimeSeconds: 90_000).text
      func make(_ days: Int?) async throws -> TestServer.Response {
        let body = #"{"name":"x","scopes":["operate"]\#(days.map { ",\"expiresInDays\":\($0)" } ?? "")}"#
        return try await server.send(
          "POST", "/api/v1/keys",
          headers: [("Authorization", "Bearer \(maker)"), ("Content-Type", "application/json")],
          body: Array(body.utf8))
      }
      try await eventually("the key is in force") { try await make(1).status == 201 }
      #expect(try await make(2).status == 403)
      #expect(try await make(nil).status == 201)
      let keys = try KeyStore.keys(in: directory)
      let expiry = try #require(keys.first { $0.name == "m" }?.expirySeconds)
      #expect(keys.allSatisfy { $0.expirySeconds.map { $0 <= expiry } ?? false })
    }
  }

  @Test("a person's command is kept with the name of the key, and what the server does by itself with none")
  func actor() async throws {
    try await withKeyedServer { server, directory in
      let till = try await key(directory, server, [.read, .write], name: "till")
      let desk = try await key(directory, server, [.read, .write], name: "desk")
      let id = try #require(try await create(server, till).json()["paymentId"]?.text)
      let reading = [("Authorization", "Bearer \(till)")]
      try await eventually("the payment completes") {
        try await server.send("GET", "/api/v1/payments/\(id)", headers: reading).json()["status"] == "Completed"
      }
      let refund = try await server.send(
        "POST", "/api/v1/payments/\(id)/refunds", headers: [("Authorization", "Bearer \(desk)")])
      #expect(refund.status == 202)
      try await eventually("the refund is done") {
        try await server.send("GET", "/api/v1/payments/\(id)", headers: reading).json()["status"] == "Refunded"
      }
      let response = try await server.send("GET", "/api/v1/payments/\(id)/events", headers: reading)
      guard case .array(let events)? = try response.json()["events"] else {
        Issue.record("no events")
        return
      }
      #expect(events.count == 6)
      for event in events {
        let isCommand = event["type"] == "PaymentRefundRequested"
        #expect(event["metadata"]?["actor"]?.text == (isCommand ? "desk" : nil), "\(event)")
      }
    }
  }

  @Test("above its rate a key gets 429 with the time to wait")
  func rate() async throws {
    try await TestServer.run({ $0.limits.requestsPerSecond = 1 }) { server in
      // At once: one after another they may be as slow as the rate allows.
      let refused = try await withThrowingTaskGroup(of: TestServer.Response.self) { group in
        for _ in 0..<100 { group.addTask { try await server.get("/alive") } }
        return try await group.reduce(into: [TestServer.Response]()) { if $1.status == 429 { $0.append($1) } }
      }
      #expect(!refused.isEmpty)
      #expect(refused.allSatisfy { $0.headers["retry-after"] == "1" })
      #expect(refused.allSatisfy { $0.headers["content-type"] == "application/problem+json" })
    }
  }

  @Test("an address that others may reach is refused without a valid key")
  func refusesToStart() async throws {
    try await withTemporaryFolder { folder in
      var options = ServerOptions(directory: folder + "/data")
      options.host = "0.0.0.0"
      #expect(throws: ServerError.self) { try Server.open(options, logger: silent) }
      let key = try KeyStore.open(folder + "/data").create(name: "a", scopes: [.read], lifetimeSeconds: nil)
      #expect(try KeyStore.hasValidKey(folder + "/data"))
      #expect(try KeyStore.open(folder + "/data").revoke(key.id))
      #expect(throws: ServerError.self) { try Server.open(options, logger: silent) }
    }
  }
}
