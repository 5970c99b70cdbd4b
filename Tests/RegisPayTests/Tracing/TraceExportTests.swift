import Synchronization
import Testing

@testable import RegisPay

@Suite("Traces sent to a collector")
struct TraceExportTests {
  private static let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  @Test("the collector gets each payment's whole trace, which the API shows as well, and calls and webhooks name it")
  func whole() async throws {
    try await FakeReceiver.run { receiver in
      try await TestServer.run({ options in
        Self.send(to: receiver, &options)
        options.tracing.exporter?.headers = [("api-key", "k")]
        options.notificationsURL = receiver.url
        options.webhooks.allowsPrivate = true
      }) { server in
        let hook = try await server.send(
          "POST", "/api/v1/webhooks", headers: Self.json, body: Array("{\"url\":\"\(receiver.url)\"}".utf8))
        #expect(hook.status == 201, "\(hook.text)")
        let created = try await server.send(
          "POST", "/api/v1/payments",
          headers: Self.json + [("traceparent", Self.parent), ("tracestate", "shop=1")],
          body: Array("{\"amount\":1050,\"currency\":\"GBP\"}".utf8))
        let id = try #require(try created.json()["paymentId"]?.text)
        let spans = try await Self.spans(receiver) { $0.count >= 8 }
        #expect(Set(spans.map(\.trace)) == ["0af7651916cd43dd8448eb211c80319c"])
        #expect(Set(spans.map(\.name)).isSuperset(of: ["payment", "create", "settle", "notify", "psp settle"]))
        let shown = try await server.get("/api/v1/payments/\(id)/trace")
        #expect(shown.status == 200)
        #expect(Set(try Self.spans(in: shown.json())) == Set(spans))
        #expect(receiver.received.filter { $0.headers["api-key"] == "k" }.count == 1)

        let notified = try #require(receiver.received.first { $0.path.hasSuffix("/api/send") })
        let notification = try #require(spans.first { $0.name == "notifications notify" })
        #expect(notified.headers["traceparent"] == "00-\(notification.trace)-\(notification.id)-01")
        #expect(notified.headers["tracestate"] == "shop=1")
        let root = try #require(spans.first { $0.name == "payment" })
        #expect(root.parent == "b7ad6b7169203331")
        try await eventually("the webhook of the last event") { receiver.ids.contains { $0.hasSuffix("_4") } }
        let message = try #require(receiver.received.first { !($0.headers["webhook-id"] ?? "").isEmpty })
        #expect(message.headers["traceparent"] == "00-\(root.trace)-\(root.id)-01")
        let events = try await server.get("/api/v1/payments/\(id)/events").json()
        guard case .array(let elements)? = events["events"] else { throw MissingError() }
        #expect(elements[0]["metadata"]?["traceparent"]?.text == Self.parent && elements[0]["data"]?["metadata"] == nil)
        #expect(elements[1]["metadata"]?["calls"] != nil)
      }
    }
  }

  @Test("a collector that is away, busy or broken for a while loses nothing", arguments: [503, 429, 502, 504])
  func away(_ status: Int) async throws {
    try await FakeReceiver.run({ _ in .status(status, [("Retry-After", "0")]) }) { receiver in
      let metrics = MetricsRegistry()
      try await TestServer.run({ Self.send(to: receiver, &$0) }, metrics: metrics) { server in
        var ids: Set<String> = []
        for _ in 0..<30 { ids.insert(try await Self.create(server)) }
        try await eventually("two refused requests") { receiver.received.count >= 2 }
        receiver.respond { _ in .ok }
        let spans = try await Self.spans(receiver) { spans in
          Set(spans.filter { $0.name == "payment" }.map(\.trace)).count == 30
        }
        #expect(Set(spans.map(\.trace)) == Set(ids.map { $0.filter { $0 != "-" } }))
        try await eventually("the end of the lag") { await Self.value("regispay_traces_lag_events", metrics) == 0 }
        #expect(await Self.value("regispay_traces_export_failures", metrics) > 0)
        #expect(await Self.value("regispay_traces_dropped", metrics) == 0)
      }
    }
  }

  @Test("spans that the collector refuses are dropped and counted, and the next ones are sent")
  func refused() async throws {
    let isFirst = Mutex(true)
    try await FakeReceiver.run({ _ in
      isFirst.withLock { first in
        defer { first = false }
        return first ? .status(400) : .ok
      }
    }) { receiver in
      let metrics = MetricsRegistry()
      try await TestServer.run({ Self.send(to: receiver, &$0) }, metrics: metrics) { server in
        _ = try await Self.create(server)
        try await eventually("dropped spans") { await Self.value("regispay_traces_dropped", metrics) > 0 }
        _ = try await Self.create(server)
        try await eventually("exported spans") { await Self.value("regispay_traces_exported_spans", metrics) > 0 }
      }
    }
  }

  @Test("spans that the collector says it has dropped are counted as such, the others as exported")
  func partial() async throws {
    try await FakeReceiver.run({ _ in
      FakeReceiver.Reply(body: #"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#)
    }) { receiver in
      let metrics = MetricsRegistry()
      try await TestServer.run({ Self.send(to: receiver, &$0) }, metrics: metrics) { server in
        _ = try await Self.create(server)
        try await eventually("dropped spans") { await Self.value("regispay_traces_dropped", metrics) > 0 }
        let spans = try await Self.spans(receiver) { $0.count >= 8 }
        let requests = receiver.received.count
        #expect(await Self.value("regispay_traces_dropped", metrics) == Double(2 * requests))
        #expect(await Self.value("regispay_traces_exported_spans", metrics) == Double(spans.count - 2 * requests))
      }
    }
  }

  @Test("no request has more spans than the limit, and the lag counts what the collector has not got")
  func limits() async throws {
    try await FakeReceiver.run({ _ in .status(503) }) { receiver in
      let metrics = MetricsRegistry()
      try await TestServer.run(
        { options in
          Self.send(to: receiver, &options)
          options.tracing.batchLimit = 3
        }, metrics: metrics
      ) { server in
        _ = try await Self.create(server)
        try await eventually("a failed request") { await Self.value("regispay_traces_export_failures", metrics) > 0 }
        #expect(await Self.value("regispay_traces_lag_events", metrics) > 0)
        receiver.respond { _ in .ok }
        let spans = try await Self.spans(receiver) { $0.count >= 8 }
        #expect(Set(spans.map(\.trace)).count == 1)
        for request in receiver.received { #expect(try Self.spans(in: request.json()).count <= 3) }
        try await eventually("the end of the lag") { await Self.value("regispay_traces_lag_events", metrics) == 0 }
      }
    }
  }

  @Test("what ended too long ago is dropped and counted, and the queue goes on")
  func old() async throws {
    try await FakeReceiver.run { receiver in
      let metrics = MetricsRegistry()
      try await TestServer.run(
        { options in
          Self.send(to: receiver, &options)
          options.tracing.ageLimit = .seconds(-1)
        }, metrics: metrics
      ) { server in
        _ = try await Self.create(server)
        try await eventually("a dropped operation") { await Self.value("regispay_traces_dropped", metrics) > 0 }
        try await eventually("the end of the lag") { await Self.value("regispay_traces_lag_events", metrics) == 0 }
        #expect(await Self.value("regispay_traces_dropped", metrics) == 1)
        #expect(receiver.received.isEmpty)
      }
    }
  }

  @Test("what a sampler leaves out is not sent, and the flag says so to the others")
  func sampled() async throws {
    try await FakeReceiver.run { receiver in
      try await TestServer.run({ options in
        Self.send(to: receiver, &options)
        options.tracing.sampler = TraceSampler(ratio: 0)
        options.notificationsURL = receiver.url
      }) { server in
        _ = try await Self.create(server)
        _ = try await server.send(
          "POST", "/api/v1/payments", headers: Self.json + [("traceparent", Self.parent)],
          body: Array("{\"amount\":1,\"currency\":\"GBP\"}".utf8))
        let spans = try await Self.spans(receiver) { !$0.isEmpty }
        #expect(Set(spans.map(\.trace)) == ["0af7651916cd43dd8448eb211c80319c"])
        let fields = receiver.received.compactMap { $0.headers["traceparent"] }
        #expect(fields.contains { $0.hasSuffix("-00") } && fields.contains { $0.hasSuffix("-01") })
      }
    }
  }

  @Test("a collector that never responds holds up neither payments nor the stop")
  func hangs() async throws {
    try await FakeReceiver.run({ _ in
      // Ends with its connection.
      try? await Task.sleep(for: .seconds(3_600))
      return .ok
    }) { receiver in
      try await TestServer.run({ Self.send(to: receiver, &$0) }) { server in
        for _ in 0..<5 { _ = try await Self.create(server) }
        try await eventually("a request that hangs") { receiver.received.count == 1 }
        let id = try await Self.create(server)
        try await eventually("a completed payment") {
          try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
        }
      }
    }
  }

  @Test("a body that is sent compressed is the same")
  func compressed() throws {
    let spans = (0..<200).map { number in
      Span(trace: TraceID(high: 1, low: UInt64(number)), id: 7, name: "a \"b\"", began: 1, ended: 2, error: "é")
    }
    let body = SpanBatch(resource: [("service.name", "x")], spans).request
    let compressed = try #require(GZip.compress(body))
    #expect(compressed.count < body.count / 4 && compressed.starts(with: [0x1F, 0x8B]))
    #expect(GZip.compress([]) != nil)
    guard case .array(let all)? = try JSONReader.read(body)["resourceSpans"] else { throw MissingError() }
    #expect(try Self.spans(in: .object([.init("resourceSpans", .array(all))])).count == 200)
  }

  // MARK: -

  struct Sent: Hashable {
    var trace: String
    var id: String
    var parent: String?
    var name: String
  }

  private struct MissingError: Error {}

  private static let json = [("Content-Type", "application/json")]

  private static func send(to receiver: FakeReceiver, _ options: inout ServerOptions) {
    options.tracing.exporter = OTLPOptions(url: receiver.url + "/v1/traces")
    options.tracing.delay = .milliseconds(20)
    options.tracing.sampler = TraceSampler(ratio: 1)
  }

  private static func create(_ server: TestServer) async throws -> String {
    let created = try await server.create("{\"amount\":1050,\"currency\":\"GBP\"}")
    return try #require(try created.json()["paymentId"]?.text)
  }

  private static func value(_ name: String, _ metrics: MetricsRegistry) async -> Double {
    let samples = await metrics.families().first { $0.name == name }?.samples ?? []
    return samples.reduce(0) { sum, sample in
      switch sample.value {
      case .integer(let value): sum + Double(value)
      case .number(let value): sum + value
      default: sum
      }
    }
  }

  /// Waits until the collector has got spans that meet a condition.
  private static func spans(
    _ receiver: FakeReceiver, until isEnough: ([Sent]) -> Bool
  ) async throws -> [Sent] {
    var spans: Set<Sent> = []
    try await eventually("spans at the collector") {
      spans = []
      for received in receiver.received where received.path.hasSuffix("/v1/traces") {
        spans.formUnion(try self.spans(in: received.json()))
      }
      return isEnough(Array(spans))
    }
    return Array(spans)
  }

  private static func spans(in request: JSONValue) throws -> [Sent] {
    guard case .array(let resources)? = request["resourceSpans"], case .array(let scopes)? = resources[0]["scopeSpans"],
      case .array(let spans)? = scopes[0]["spans"]
    else { throw MissingError() }
    return try spans.map { span in
      Sent(
        trace: try #require(span["traceId"]?.text), id: try #require(span["spanId"]?.text),
        parent: span["parentSpanId"]?.text, name: try #require(span["name"]?.text))
    }
  }
}
