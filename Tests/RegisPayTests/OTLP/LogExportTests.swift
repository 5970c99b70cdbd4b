import Logging
import Synchronization
import Testing

@testable import RegisPay

@Suite("Log lines sent to a collector")
struct LogExportTests {
  /// A line as the collector got it.
  private struct Line: Hashable {
    var text: String
    var level: String
    var number: UInt64?
    var trace: String?
    var span: String?
    var attributes: [String: String]
  }

  private static func lines(_ receiver: FakeReceiver) throws -> [Line] {
    try receiver.received.flatMap { request -> [Line] in
      guard request.path.hasSuffix("/v1/logs"), case .array(let resources)? = try request.json()["resourceLogs"],
        case .array(let scopes)? = resources.first?["scopeLogs"],
        case .array(let records)? = scopes.first?["logRecords"]
      else { return [] }
      return records.map { record in
        var attributes: [String: String] = [:]
        if case .array(let pairs)? = record["attributes"] {
          for pair in pairs { attributes[pair["key"]?.text ?? ""] = pair["value"]?["stringValue"]?.text }
        }
        return Line(
          text: record["body"]?["stringValue"]?.text ?? "", level: record["severityText"]?.text ?? "",
          number: record["severityNumber"]?.unsigned, trace: record["traceId"]?.text, span: record["spanId"]?.text,
          attributes: attributes)
      }
    }
  }

  /// Runs an export while `work` runs, and stops it then.
  private func export(
    to receiver: FakeReceiver, limit: Int = 100, delay: Duration = .milliseconds(10),
    lastLimit: Duration = .seconds(60), showing output: @escaping @Sendable (String) -> Void = { _ in },
    _ work: (LogQueue, LogExportMetrics, Logger) async throws -> Void
  ) async throws {
    var options = LogExportOptions()
    options.exporter = OTLPOptions(url: receiver.url + "/v1/logs")
    options.batchLimit = 3
    options.delay = delay
    let exporter = try #require(options.exporter)
    let queue = LogQueue(limit: limit)
    let metrics = LogExportMetrics()
    let writer = LogWriter(.text, queue: queue, output: output)
    let logger = Logger(label: "test") { _ in writer.handler() }
    let export = try LogExport(
      exporter, queue, options: options, metrics: metrics, logger: logger, lastLimit: lastLimit)
    let running = Task { await export.run() }
    try await work(queue, metrics, logger)
    running.cancel()
    await running.value
  }

  @Test("a line arrives once, with its level, its fields, and the ids of its trace in their places")
  func whole() async throws {
    try await FakeReceiver.run { receiver in
      try await export(to: receiver) { _, metrics, logger in
        logger.error(
          "a \"step\" failed",
          metadata: ["payment": "p1", "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"])
        for number in 0..<10 { logger.info("line \(number)", metadata: ["trace_id": "no id"]) }
        try await eventually("all lines") { metrics.exported.value == 11 }
      }
      let lines = try Self.lines(receiver)
      #expect(
        lines.first
          == Line(
            text: "a \"step\" failed", level: "error", number: 17, trace: "0af7651916cd43dd8448eb211c80319c",
            span: "b7ad6b7169203331", attributes: ["payment": "p1", "source": "RegisPayTests"]))
      #expect(lines.dropFirst().map(\.text) == (0..<10).map { "line \($0)" })
      #expect(lines.dropFirst().allSatisfy { $0.trace == nil && $0.number == 9 })
      #expect(receiver.received.count >= 4, "no request has more than three lines")
    }
  }

  @Test("a collector that is away gets the lines later, and lines beyond the queue's limit are dropped and counted")
  func away() async throws {
    try await FakeReceiver.run({ _ in .status(503) }) { receiver in
      try await export(to: receiver, limit: 5) { _, metrics, logger in
        logger.info("first")
        try await eventually("a failed request") { metrics.failures.value > 0 }
        for number in 0..<20 { logger.info("line \(number)") }
        receiver.respond { _ in .ok }
        try await eventually("the lines that were kept") { metrics.exported.value == 6 }
        try await eventually("the others counted") { metrics.dropped.counts.map(\.1).reduce(0, +) == 15 }
      }
      let sent = Set(try Self.lines(receiver).map(\.text))
      #expect(sent == Set(["first"] + (0..<5).map { "line \($0)" }))
    }
  }

  @Test("the last lines before a stop are sent; a collector that hangs delays it by the limit, no more")
  func last() async throws {
    try await FakeReceiver.run { receiver in
      try await export(to: receiver, delay: .seconds(600)) { _, _, logger in logger.notice("the end") }
      #expect(try Self.lines(receiver).map(\.text) == ["the end"])
      receiver.respond { _ in
        // Ends with its connection.
        try? await Task.sleep(for: .seconds(3_600))
        return .ok
      }
      try await export(to: receiver, delay: .seconds(600), lastLimit: .milliseconds(50)) { _, _, logger in
        logger.notice("too late")
      }
    }
  }

  @Test("lines that the collector refuses are counted once and given up, and the line that says so is not sent")
  func refused() async throws {
    try await FakeReceiver.run({ _ in .status(400) }) { receiver in
      let shown = Mutex("")
      try await export(to: receiver, showing: { line in shown.withLock { $0 += line } }) { _, metrics, logger in
        logger.info("one")
        try await eventually("it is counted") { metrics.dropped.counts.map(\.1).reduce(0, +) == 1 }
        // Goes the same way as a line about the refusal would, and after it.
        logger.info("two")
        try await eventually("it is counted, too") { metrics.dropped.counts.map(\.1).reduce(0, +) == 2 }
      }
      // On a kept-alive connection the pool asks once more before it believes a refusal.
      #expect(try Self.lines(receiver).map(\.text) == ["one", "two", "two"])
      let lines = shown.withLock { $0 }
      #expect(lines.contains("the collector refused log lines") && lines.contains(receiver.url))
    }
  }

  @Test(
    "lines that a collector has dropped by itself are counted, with its reason in a line",
    arguments: [
      ("2", 2), ("\"2\"", 2), ("2.0", 2), ("1e300", 3), ("999999999999999999999999", 3), ("-1", 0), ("\"x\"", 0),
      ("null", 0),
    ])
  func partial(rejected: String, count: Int) async throws {
    let response = #"{"partialSuccess":{"rejectedLogRecords":\#(rejected),"errorMessage":"too old"}}"#
    try await FakeReceiver.run({ _ in .init(body: response) }) { receiver in
      let shown = Mutex("")
      try await export(to: receiver, delay: .seconds(600), showing: { line in shown.withLock { $0 += line } }) {
        _, _, logger in
        for number in 0..<3 { logger.info("line \(number)") }
      }
      let lines = shown.withLock { $0 }
      #expect(lines.contains("the collector refused log lines") == (count > 0), "\(lines)")
      #expect(count == 0 || lines.contains("lines=\(count)"), "\(lines)")
      #expect(lines.contains("too old") == (count > 0))
    }
  }

  @Test("one limit holds for the request that is in the air at a stop and the one after it")
  func lastTwo() async throws {
    try await FakeReceiver.run({ _ in
      // Ends with its connection.
      try? await Task.sleep(for: .seconds(3_600))
      return .ok
    }) { receiver in
      let shown = Mutex("")
      let stopping = Mutex(ContinuousClock.now)
      try await export(to: receiver, lastLimit: .seconds(12), showing: { line in shown.withLock { $0 += line } }) {
        _, _, logger in
        logger.info("one")
        try await eventually("it is in the air") { receiver.received.count == 1 }
        logger.info("two")
        stopping.withLock { $0 = .now }
      }
      let took = stopping.withLock { $0.duration(to: .now) }
      // Each with a limit of its own, they take twice as long.
      #expect(took > .milliseconds(11_900) && took < .milliseconds(23_900), "\(took)")
      #expect(!shown.withLock { $0 }.contains("tries again"), "a stop tries nothing again")
    }
  }

  @Test("what waits is bounded in bytes, too")
  func bounded() {
    let queue = LogQueue(limit: 100_000)
    let text = String(repeating: "x", count: 10_000)
    for _ in 0..<1_000 {
      queue.add(LogRecord(microseconds: 1, level: .info, message: text, source: "s", fields: []))
    }
    let (records, dropped) = queue.take()
    #expect(records.count + dropped == 1_000 && records.count < 210 && records.count > 100)
    #expect(queue.take().records.isEmpty)
  }
}
