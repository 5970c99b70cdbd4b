import Foundation
import Synchronization
import Testing

@testable import RegisPay

@Suite("GET /metrics")
struct MetricsRouteTests {
  /// Reads the samples of a text: name and labels as written, and the value.
  private static func samples(_ text: String) -> [String: Double] {
    var samples: [String: Double] = [:]
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      guard let space = line.lastIndex(of: " ") else { continue }
      samples[String(line[..<space])] = Double(line[line.index(after: space)...])
    }
    return samples
  }

  private static func scrape(_ server: TestServer) async throws -> [String: Double] {
    samples(try await server.get("/metrics").text)
  }

  @Test("a payment shows in what HTTP, steps and logs count, and the consumers have no lag afterwards")
  func payment() async throws {
    try await TestServer.run { server in
      let created = try await server.create(#"{"amount":1.50,"currency":"GBP"}"#, path: "/api/v1/payments")
      let id = try #require(try created.json()["paymentId"]?.text)
      try await eventually("it is completed") {
        try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
      }
      #expect(try await server.get("/nothing").status == 404)
      var response = try await server.get("/metrics")
      // On a busy machine one or the other read takes longer than its limit, and is missing.
      try await eventually("no consumer lags, and nothing is missing") {
        response = try await server.get("/metrics")
        let samples = Self.samples(response.text)
        let lags = samples.filter { $0.key.hasPrefix("regispay_consumer_lag_") }
        let isWhole = ["regispay_payments_parked", "regispay_healthy", "process_open_fds"].allSatisfy {
          samples[$0] != nil
        }
        return isWhole && lags.count == 14 && lags.values.allSatisfy { $0 == 0 }
      }
      #expect(response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
      #expect(response.headers["cache-control"] == "no-store")
      let samples = Self.samples(response.text)
      func duration(_ method: String, _ status: Int, _ route: String?) -> Double? {
        let path = route.map { ",http_route=\"\($0)\"" } ?? ""
        let labels = "http_request_method=\"\(method)\",http_response_status_code=\"\(status)\"\(path)"
        return samples["http_server_request_duration_seconds_count{\(labels)}"]
      }
      #expect(duration("POST", created.status, "/api/v1/payments") == 1)
      #expect(duration("GET", 200, "/api/v1/payments/{id}") ?? 0 >= 1)
      #expect(duration("GET", 404, nil) == 1)
      #expect(duration("POST", 202, "/psp/api/payments/{reference}/settle") == 1)
      for step in ["create", "settle", "notify"] {
        #expect(samples["regispay_step_calls_total{step=\"\(step)\",outcome=\"accepted\"}"] == 1, "\(step)")
        #expect(samples["regispay_step_outcomes_total{step=\"\(step)\",outcome=\"done\"}"] == 1, "\(step)")
        #expect(samples["regispay_step_call_duration_seconds_count{step=\"\(step)\"}"] == 1, "\(step)")
        #expect(samples["regispay_step_calls_in_flight{step=\"\(step)\"}"] == 0, "\(step)")
        #expect(
          samples[
            "regispay_breaker_state{service=\"\(step == "notify" ? "notifications" : "psp")\",step=\"\(step)\",state=\"closed\"}"
          ] == 1)
      }
      #expect(samples["regispay_step_outcomes_total{step=\"refund\",outcome=\"done\"}"] == 0)
      #expect(samples["logstore_appended_events_total{log=\"payments\"}"] ?? 0 >= 4)
      #expect(samples["logstore_sync_duration_seconds_count{log=\"simulator\"}"] ?? 0 >= 3)
      #expect(samples["logstore_end_offset{log=\"payments\"}"] ?? 0 >= 4)
      #expect(samples["regispay_healthy"] == 1 && samples["regispay_faults"] == 0)
      #expect(samples["regispay_calls_held"] == 0 && samples["regispay_payments_parked"] == 0)
      #expect(samples["regispay_payment_list_complete"] == 1)
      #expect(samples["regispay_webhook_endpoints{state=\"working\"}"] == 0)
      #expect(samples["regispay_disk_available_bytes"] ?? 0 > 0 && samples["process_open_fds"] ?? 0 > 10)
      #expect(samples["regispay_http_connections"] ?? 0 >= 1)
      #expect(samples["regispay_build_info{version=\"0.1.0\"}"] == 1)
    }
  }

  @Test("calls that fail are retries, open the breaker, leave a lag that grows older, and end as accepted")
  func failures() async throws {
    try await TestServer.run({ $0.breaker.quietDuration = .zero }) { server in
      #expect(try await server.send("POST", "/toggle-errors").status == 200)
      #expect(try await server.create(#"{"amount":1.50,"currency":"GBP"}"#).status == 200)
      try await eventually("the breaker was open") {
        let samples = try await Self.scrape(server)
        return samples["regispay_breaker_openings_total{service=\"psp\"}"] ?? 0 >= 1
          && samples["regispay_step_waiting{step=\"create\"}"] == 1
          && samples["regispay_consumer_lag_events{consumer=\"payment-create\"}"] ?? 0 >= 1
          && samples["regispay_consumer_lag_seconds{consumer=\"payment-create\"}"] ?? 0 > 0.1
      }
      let failing = try await Self.scrape(server)
      #expect(failing["regispay_step_calls_total{step=\"create\",outcome=\"server_error\"}"] ?? 0 >= 5)
      #expect(failing["regispay_step_retries_total{step=\"create\"}"] ?? 0 >= 5)
      #expect(failing["regispay_step_outcomes_total{step=\"create\",outcome=\"done\"}"] == 0)
      #expect(try await server.send("POST", "/toggle-errors").status == 200)
      try await eventually("the step is done") {
        let samples = try await Self.scrape(server)
        return samples["regispay_step_outcomes_total{step=\"create\",outcome=\"done\"}"] == 1
          && samples["regispay_consumer_lag_seconds{consumer=\"payment-create\"}"] == 0
          && samples["regispay_breaker_state{service=\"psp\",state=\"closed\"}"] == 1
      }
    }
  }

  @Test("OpenMetrics shows the trace that a request names, and comes only to who asks for it")
  func exemplars() async throws {
    try await TestServer.run { server in
      let trace = "0af7651916cd43dd8448eb211c80319c"
      let traced = [("traceparent", "00-\(trace)-b7ad6b7169203331-01")]
      #expect(try await server.send("GET", "/alive", headers: traced).status == 200)
      let open = try await server.get("/metrics", accept: "application/openmetrics-text; version=1.0.0")
      #expect(open.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8")
      #expect(open.text.hasSuffix("# EOF\n"))
      let line = try #require(open.text.split(separator: "\n").first { $0.contains(trace) })
      #expect(line.contains("http_route=\"/alive\"") && line.contains("span_id=\"b7ad6b7169203331\""))
      #expect(try await !server.get("/metrics").text.contains(trace))
    }
  }

  @Test("webhook endpoints are counted by their state, and their deliveries by their end")
  func webhooks() async throws {
    try await TestServer.run({ $0.webhooks.allowsPrivate = true }) { server in
      // Nobody listens there.
      let hook = try await server.send(
        "POST", "/api/v1/webhooks", headers: [("Content-Type", "application/json")],
        body: Array("{\"url\":\"http://127.0.0.1:\(try freePort())/hook\"}".utf8))
      #expect(hook.status == 201)
      #expect(try await server.create(#"{"amount":1.50,"currency":"GBP"}"#).status == 200)
      try await eventually("its delivery was tried") {
        let samples = try await Self.scrape(server)
        return samples["regispay_webhook_deliveries_total{outcome=\"retrying\"}"] ?? 0 >= 1
          && samples["regispay_webhook_waiting"] ?? 0 >= 1
          && samples["regispay_consumer_lag_events{consumer=\"webhooks\"}"] != nil
      }
      let id = try #require(try hook.json()["id"]?.text)
      #expect(
        try await server.send(
          "PATCH", "/api/v1/webhooks/\(id)", headers: [("Content-Type", "application/json")],
          body: Array(#"{"enabled":false}"#.utf8)
        ).status == 200)
      var samples: [String: Double] = [:]
      try await eventually("the endpoint is disabled") {
        samples = try await Self.scrape(server)
        return samples["regispay_webhook_endpoints{state=\"disabled\"}"] == 1
      }
      #expect(samples["regispay_webhook_endpoints{state=\"working\"}"] == 0)
      #expect(
        samples["regispay_consumer_lag_events{consumer=\"webhooks\"}"] == nil, "a disabled endpoint lags on purpose")
    }
  }

  @Test(
    "an address of its own serves the metrics and /alive without a key, and nothing else; other sites' pages get nothing"
  )
  func ownAddress() async throws {
    let port = try freePort()
    try await TestServer.run({ options in
      options.metricsAddress = .init(host: "127.0.0.1", port: port)
      _ = try? KeyStore.open(options.directory).create(name: "k", owner: nil, scopes: [.write], lifetimeSeconds: nil)
    }) { server in
      #expect(try await server.get("/metrics").status == 401)
      let own = TestServer(url: "http://127.0.0.1:\(port)")
      try await eventually("it listens") { (try? await own.get("/alive").status) == 200 }
      let response = try await own.get("/metrics")
      #expect(response.status == 200 && response.text.contains("\nlogstore_stopped{log=\"payments\"} 0\n"))
      #expect(try await own.send("HEAD", "/metrics").status == 200)
      for path in ["/", "/health", "/api/v1/payments", "/openapi.json", "/psp/api/ledger"] {
        #expect(try await own.get(path).status == 404, "\(path)")
      }
      #expect(try await own.send("POST", "/api/payment/create").status == 404)
      #expect(try await own.send("POST", "/metrics").status == 405)
      #expect(try await own.send("GET", "/metrics?x=1").status == 400)
      let foreign = try await own.send("GET", "/metrics", headers: [("Sec-Fetch-Site", "cross-site")])
      #expect(foreign.status == 403)
      let rebound = try await own.send("GET", "/metrics", headers: [("Host", "evil.example")])
      #expect(rebound.status == 421)
    }
  }

  @Test("an address that others can reach is refused, unless everybody may read")
  func openAddress() async throws {
    try await withTemporaryFolder { folder in
      var options = ServerOptions(directory: folder + "/data")
      options.metricsAddress = .init(host: "0.0.0.0", port: 0)
      do throws(ServerError) {
        _ = try Server.open(options, logger: silent)
        Issue.record("it was opened")
      } catch {
        guard case .openMetrics(let host) = error else { throw error }
        #expect(host == "0.0.0.0")
      }
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"), "nothing was created")
    }
    try await TestServer.run({
      $0.metricsAddress = .init(host: "0.0.0.0", port: 0)
      $0.isInsecure = true
    }) { server in
      let response = try await server.get("/alive")
      #expect(response.status == 200)
    }
  }

  @Test(
    "an address is a host and a port",
    arguments: [
      ("127.0.0.1:9464", "127.0.0.1", 9_464), ("[::1]:1", "::1", 1), ("localhost:0", "localhost", 0),
      ("127.0.0.1", nil, 0), (":9464", nil, 0), ("::1:9464", nil, 0), ("a:65536", nil, 0), ("a:-1", nil, 0),
      ("", nil, 0),
      ("[]:1", nil, 0),
    ] as [(String, String?, Int)])
  func addresses(text: String, host: String?, port: Int) {
    let address = ServerOptions.Address(text)
    #expect(address?.host == host)
    if host != nil { #expect(address?.port == port) }
  }

  @Test("scrapes at the same time share one reading and get all of it; more than the limit get 503, and hurt no other")
  func manyScrapes() async throws {
    let (held, release) = AsyncStream<Void>.makeStream()
    let registry = MetricsRegistry()
    let readings = Atomic<Int>(0)
    registry.add {
      let count = readings.add(1, ordering: .relaxed).newValue
      for await _ in held { break }
      return [.gauge("readings", "Readings so far.", count)]
    }
    try await TestServer.run(metrics: registry) { server in
      try await withThrowingTaskGroup(of: TestServer.Response.self) { group in
        for _ in 0...MetricsRoutes.scrapeLimit { group.addTask { try await server.get("/metrics") } }
        // All others wait for the reading.
        let further = try #require(try await group.next())
        #expect(further.status == 503 && further.headers["retry-after"] == "1")
        release.finish()
        for try await response in group {
          #expect(response.status == 200 && response.text.contains("\nreadings 1\n"))
        }
      }
      let next = try await server.get("/metrics")
      #expect(next.status == 200 && next.text.contains("\nreadings 2\n"), "the slots are free, and it is read again")
    }
  }

  @Test("OPERATIONS lists each metric with its kind and its labels, and no other")
  func documented() async throws {
    let registry = MetricsRegistry()
    let table = try Self.table()
    let nobody = "http://127.0.0.1:\(try freePort())/v1/traces"
    let broker = try BrokerOptions(["amqp://127.0.0.1:\(try freePort())"])
    try await TestServer.run(
      { options in
        options.broker = broker
        options.stepsFromBroker = true
        options.webhooks.allowsPrivate = true
        options.tracing.exporter = OTLPOptions(url: nobody)
        options.logExport.exporter = OTLPOptions(url: nobody)
        options.logQueue = options.logExport.makeQueue()
        options.broker = broker
      }, metrics: registry
    ) { server in
      let hook = try await server.send(
        "POST", "/api/v1/webhooks", headers: [("Content-Type", "application/json")],
        body: Array("{\"url\":\"http://127.0.0.1:\(try freePort())/hook\"}".utf8))
      #expect(hook.status == 201)
      #expect(try await server.create(#"{"amount":1.50,"currency":"GBP"}"#).status == 200)
      var shown: [String: (kind: String, labels: Set<String>)] = [:]
      // Until the consumers run; and on a busy machine one or the other read takes longer than its limit.
      try await eventually("each metric of the table is there, and no other") {
        shown = await Self.shown(by: registry)
        return Set(shown.keys) == Set(table.keys) && shown["regispay_step_calls_in_flight"]?.labels == ["step"]
      }
      for (name, entry) in table {
        #expect(shown[name]?.kind == entry.kind, "\(name)")
        // What was refused has no sample here.
        if name == "regispay_http_refusals_total" { continue }
        if name == "regispay_directory_bytes" { continue }
        #expect(shown[name]?.labels == entry.labels, "\(name)")
      }
    }
  }

  /// The metrics of a server by their names in the text, with the names of their labels.
  private static func shown(by registry: MetricsRegistry) async -> [String: (kind: String, labels: Set<String>)] {
    var shown: [String: (kind: String, labels: Set<String>)] = ["regispay_metrics_left_out": ("gauge", [])]
    for family in await registry.families() {
      let name = family.kind == .counter ? family.name + "_total" : family.name
      #expect(shown[name] == nil, "\(name) is there twice")
      shown[name] = (family.kind.rawValue, Set(family.samples.flatMap { $0.labels.map(\.name) }))
    }
    return shown
  }

  /// The table in OPERATIONS: `| `name` | type | labels | meaning |`.
  private static func table() throws -> [String: (kind: String, labels: Set<String>)] {
    let file = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../docs/OPERATIONS.md").standardized
    let text = try String(contentsOf: file, encoding: .utf8)
    var table: [String: (kind: String, labels: Set<String>)] = [:]
    for line in text.split(separator: "\n") {
      let cells = line.split(separator: "|", omittingEmptySubsequences: false).map {
        $0.trimmingCharacters(in: .whitespaces)
      }
      guard cells.count == 6, ["counter", "gauge", "histogram"].contains(cells[2]) else { continue }
      let labels = cells[3].split(separator: ",").map { $0.trimmingCharacters(in: CharacterSet(charactersIn: " `")) }
      table[cells[1].trimmingCharacters(in: CharacterSet(charactersIn: "`"))] = (cells[2], Set(labels))
    }
    return table
  }
}

/// A port of this machine that nobody listens on at the moment. It is none of those that the system gives to connections: the
/// tests beside this one open many.
func freePort() throws -> Int {
  for _ in 0..<100 {
    let port = Int.random(in: 10_000..<32_768)
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    address.sin_port = UInt16(port).bigEndian
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result == 0 { return port }
  }
  throw NoFreePort()
}

private struct NoFreePort: Error {}
