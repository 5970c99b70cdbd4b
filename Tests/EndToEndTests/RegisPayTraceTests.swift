import Foundation
import Testing

@Suite("RegisPay's traces")
struct RegisPayTraceTests {
  private static let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  @Test("one payment is one whole trace at a collector, also when the server was killed in the middle, twice")
  func killed() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "opentelemetry-proto")
      let collector = try await Collector.start(python, folder)
      let settings = [
        "OTEL_EXPORTER_OTLP_ENDPOINT=\(collector.url)", "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_BLRP_SCHEDULE_DELAY=20",
      ]
      var server = try await RunningServer.start(directory: folder, under: settings)
      // The settlement fails until the server was killed.
      #expect(try await server.put("/psp/api/faults", "{\"failBefore\":1}").status < 300)
      let created = try await server.post(
        "/api/v1/payments", "{\"amount\":1050,\"currency\":\"GBP\"}",
        headers: [("Content-Type", "application/json"), ("traceparent", Self.parent), ("tracestate", "shop=1")])
      let id = try #require(try created.object()["paymentId"] as? String)
      try await eventually("a failed call, which its line at the collector tells", within: .seconds(20)) {
        try await collector.logs().contains { $0.text == "a step failed and will be tried again" }
      }
      for _ in 0..<2 {
        try await server.killHard()
        server = try await RunningServer.start(
          directory: folder, under: ["OTEL_EXPORTER_OTLP_COMPRESSION=gzip"] + settings)
      }
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      let spans = try await collector.spans { $0.contains { $0.name == "notifications notify" } }
      try Self.checkWhole(spans)
      let root = try #require(spans.first { $0.name == "payment" })
      #expect(root.trace == "0af7651916cd43dd8448eb211c80319c" && root.parent == "b7ad6b7169203331")
      #expect(spans.allSatisfy { $0.state == "shop=1" && $0.service == "regispay" })
      // The failed call's line is in the trace, and names the call's span.
      for line in try await collector.logs() where line.attributes["payment"] == id {
        #expect(line.trace == root.trace, "\(line)")
        #expect(line.span.count == 16 && line.severity == 13 && line.attributes["step"] == "create", "\(line)")
      }
      // What the API shows was read from the log, by another process than the first.
      let shown = try await server.get("/api/v1/payments/\(id)/trace")
      #expect(shown.status == 200)
      for span in spans { #expect(String(decoding: shown.body, as: UTF8.self).contains(span.span)) }
      #expect(try await server.stopGracefully().code == 0)
      #expect(collector.complaints.isEmpty, "\(collector.complaints)")
    }
  }

  @Test("a collector that is away for a while misses no span, and none is made up")
  func away() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "opentelemetry-proto")
      var collector = try await Collector.start(python, folder)
      let server = try await RunningServer.start(
        directory: folder,
        under: ["OTEL_EXPORTER_OTLP_ENDPOINT=\(collector.url)", "OTEL_BSP_SCHEDULE_DELAY=100"])
      var ids: [String] = [try await server.createPayment("1")]
      var spans = try await collector.spans { $0.contains { $0.name == "notifications notify" } }
      collector.process.signal(SIGKILL)
      let away = ProcessInfo.processInfo.environment["TEST_REGISPAY_COLLECTOR_AWAY_SECONDS"].flatMap(Int.init) ?? 3
      let end = ContinuousClock.now + .seconds(away)
      while ContinuousClock.now < end {
        for _ in 0..<20 { ids.append(try await server.createPayment("1")) }
        try await Task.sleep(for: .milliseconds(100))
      }
      for id in ids { try await server.wait(for: id, status: "Completed", within: .seconds(30)) }
      collector = try await Collector.start(python, folder, port: collector.port)
      let late = try await collector.spans(within: .seconds(60)) { late in
        late.count { $0.name == "notifications notify" } >= ids.count - 1
      }
      spans += late.filter { !spans.contains($0) }
      #expect(Set(spans.map(\.trace)) == Set(ids.map { $0.filter { $0 != "-" } }))
      for trace in Dictionary(grouping: spans, by: \.trace).values { try Self.checkWhole(trace) }
      #expect(try await server.stopGracefully().code == 0)
      #expect(collector.complaints.isEmpty, "\(collector.complaints)")
    }
  }

  @Test("a variable that can't be used refuses the start, by its name, and --print-config shows those in force")
  func settings() async throws {
    try await withTemporaryFolder { folder in
      func run(_ variable: String, _ arguments: [String]) async throws -> (ChildEnding, String, RegisPayProcess) {
        let process = try RegisPayProcess(
          under: [variable], ["serve", "--dir", folder + "/data", "--port", "0"] + arguments, folder: folder)
        let ending = try await process.waitForExit()
        var text = ""
        while let line = try await process.nextLine() { text += line + "\n" }
        return (ending, text, process)
      }
      let (refused, _, process) = try await run("OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318", [])
      #expect(refused == ChildEnding(code: 64, isSignal: false))
      #expect(process.errorText.contains("OTEL_EXPORTER_OTLP_ENDPOINT"))
      let (shown, text, _) = try await run("OTEL_EXPORTER_OTLP_HEADERS=key=secret", ["--print-config"])
      #expect(shown.code == 0 && text.contains("# OTEL_EXPORTER_OTLP_HEADERS=(hidden)"), "\(text)")
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))
    }
  }

  /// Whether the spans are one tree from request to completion, each within the one above it.
  private static func checkWhole(_ spans: [Collector.Span]) throws {
    let byID = Dictionary(uniqueKeysWithValues: spans.map { ($0.span, $0) })
    #expect(Set(spans.map(\.trace)).count == 1)
    let names = Set(spans.map(\.name))
    #expect(
      names.isSuperset(of: [
        "payment", "request", "create", "psp create", "settle", "psp settle", "notify", "notifications notify",
      ]), "\(names)")
    let roots = spans.filter { byID[$0.parent] == nil }
    #expect(roots.map(\.name) == ["payment"])
    for span in spans {
      #expect(span.start <= span.end && span.start > 1_700_000_000_000_000_000, "\(span)")
      guard let parent = byID[span.parent] else { continue }
      #expect(parent.start <= span.start && span.end <= parent.end, "\(span) in \(parent)")
    }
  }
}

/// A collector of traces, in another language, which reads them by OpenTelemetry's own schema.
private struct Collector: Sendable {
  struct Span: Sendable, Hashable, Decodable {
    var trace, span, parent, state, name: String
    var kind: Int
    var start, end: UInt64
    var error, service: String
  }

  struct Line: Sendable, Decodable {
    var trace, span, text: String
    var severity: Int
    var attributes: [String: String]
  }

  let process: RegisPayProcess
  let port: Int
  private let lines: Lines

  /// What the collector has printed.
  private actor Lines {
    private(set) var all: [String] = []

    func follow(_ process: RegisPayProcess) async {
      // Ends with the process.
      while let line = try? await process.nextLine(within: .seconds(3_600)) { all.append(line) }
    }
  }

  var url: String { "http://127.0.0.1:\(port)" }
  var complaints: String { process.errorText }

  static func start(_ python: PythonEnvironment, _ folder: String, port: Int = 0) async throws -> Collector {
    let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Support/otlp_receiver.py"
    let process = try RegisPayProcess(
      program: python.programs + "/python3", [script, "--port", "\(port)"], folder: folder)
    guard let line = try await process.nextLine(), let port = line.split(separator: " ").last.flatMap({ Int($0) })
    else {
      throw RegisPayProcess.Failure(description: "no collector: \(process.errorText)")
    }
    let lines = Lines()
    Task { await lines.follow(process) }
    return Collector(process: process, port: port, lines: lines)
  }

  /// The log lines so far.
  func logs() async throws -> [Line] {
    try await lines.all.filter { $0.hasPrefix("log ") }.map {
      try JSONDecoder().decode(Line.self, from: Data($0.dropFirst(4).utf8))
    }
  }

  /// Waits for spans that meet a condition, and returns all, each once.
  func spans(within limit: Duration = .seconds(30), until isEnough: ([Span]) -> Bool) async throws -> [Span] {
    var spans: [Span] = []
    try await eventually("spans at the collector", within: limit) {
      let all = await lines.all
      try #require(!all.contains { $0.hasPrefix("bad:") }, "\(all.filter { $0.hasPrefix("bad:") })")
      spans = try all.filter { !$0.hasPrefix("log ") }.map { try JSONDecoder().decode(Span.self, from: Data($0.utf8)) }
      return isEnough(spans)
    }
    var seen: Set<Span> = []
    return spans.filter { seen.insert($0).inserted }
  }
}
