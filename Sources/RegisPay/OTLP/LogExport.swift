import Logging
import Synchronization

/// Sends log lines to an OpenTelemetry collector, by OTLP over HTTP. What is sent is on standard error, too: lines that the collector does
/// not take for so long that the queue is full are dropped, and counted.
struct LogExport: Sendable {
  static let backoff = Backoff(base: .milliseconds(500), cap: .seconds(30))

  private let queue: LogQueue
  private let options: LogExportOptions
  private let metrics: LogExportMetrics
  private let client: OTLPClient
  private let logger: Logger
  private let lastLimit: Duration
  private let stop = StopMoment()

  /// - Parameters:
  ///   - exporter: of ``LogExportOptions/exporter``.
  ///   - queue: that loggers put their lines into.
  ///   - lastLimit: for all requests from the server's stop on.
  init(
    _ exporter: OTLPOptions, _ queue: LogQueue, options: LogExportOptions, metrics: LogExportMetrics, logger: Logger,
    lastLimit: Duration = .seconds(1)
  ) throws(EndpointError) {
    self.lastLimit = lastLimit
    self.queue = queue
    self.options = options
    self.metrics = metrics
    self.logger = logger
    client = try OTLPClient(exporter, rejectedName: "rejectedLogRecords")
  }

  /// Runs until its task is cancelled, and sends then what is left, if that takes no longer than a second.
  func run() async {
    defer { client.close() }
    var waiting: [LogRecord] = []
    while true {
      do {
        try await Task.sleep(for: options.delay)
        waiting = take()
        while !waiting.isEmpty {
          try await send(Array(waiting.prefix(options.batchLimit)))
          waiting.removeFirst(min(options.batchLimit, waiting.count))
        }
      } catch {
        waiting += take()
        guard !waiting.isEmpty else { return }
        return note(await post(waiting), waiting.count)
      }
    }
  }

  private func take() -> [LogRecord] {
    let (records, dropped) = queue.take()
    if dropped > 0 { metrics.dropped.add(.full, UInt64(dropped)) }
    return records
  }

  /// Sends lines until the collector has accepted or refused them.
  ///
  /// - Throws: when the task is cancelled before.
  private func send(_ records: [LogRecord]) async throws {
    var failures = 0
    while true {
      let answer = await post(records)
      note(answer, records.count)
      guard case .failed(let reason, let after) = answer else { return }
      failures += 1
      // At a stop the last request says what becomes of the lines.
      try Task.checkCancellation()
      if failures == 1 {
        log(.failed, reason)
      }
      try await Task.sleep(for: Self.backoff.delay(attempts: failures, atLeast: after))
    }
  }

  /// One request. When the task is cancelled it still has a moment: a request that is cut off may have arrived.
  private func post(_ records: [LogRecord]) async -> OTLPClient.Answer {
    let body = LogRequest.bytes(records, resource: options.resource)
    let sending = Task { [client] in await client.send(body) }
    return await withTaskCancellationHandler {
      await sending.value
    } onCancel: {
      // The first time at the stop; the last request gets what is left of the same time.
      let deadline = stop.begin(limit: lastLimit)
      Task {
        try await Task.sleep(until: deadline)
        sending.cancel()
      }
    }
  }

  private func note(_ answer: OTLPClient.Answer, _ count: Int) {
    switch answer {
    case .accepted(let rejected, let reason):
      let rejected = min(rejected, count)
      metrics.exported.add(UInt64(count - rejected))
      if rejected > 0 {
        metrics.dropped.add(.rejected, UInt64(rejected))
        log(.refused, reason ?? "it took the others", lines: rejected)
      }
    case .refused(let reason):
      metrics.dropped.add(.rejected, UInt64(count))
      log(.refused, reason, lines: count)
    case .failed: metrics.failures.add()
    }
  }

  private func log(_ line: LogQueue.OwnLine, _ reason: String, lines: Int? = nil) {
    var metadata: Logger.Metadata = ["to": "\(client.address)", "reason": "\(reason)"]
    if let lines { metadata["lines"] = "\(lines)" }
    logger.warning("\(line.rawValue)", metadata: metadata)
  }
}

/// When the last request of a stop has to end.
private final class StopMoment: Sendable {
  private let deadline = Mutex<ContinuousClock.Instant?>(nil)

  /// - Returns: the moment that the first call decided on.
  func begin(limit: Duration) -> ContinuousClock.Instant {
    deadline.withLock { deadline in
      let known = deadline ?? .now + limit
      deadline = known
      return known
    }
  }
}

/// What became of log lines that were to be sent.
final class LogExportMetrics: Sendable {
  /// Why lines were not sent.
  enum Reason: String, Sendable, CaseIterable {
    /// Too many were waiting.
    case full
    /// The collector does not take them.
    case rejected
  }

  let exported = MetricCounter()
  let failures = MetricCounter()
  let dropped = CounterTable<Reason>()

  var families: [MetricFamily] {
    var dropped = MetricFamily(
      "regispay_logs_dropped", .counter, "Log lines that the collector did not get, by reason.")
    for (reason, count) in self.dropped.counts { dropped.add([.init("reason", reason)], count) }
    return [
      .counter("regispay_logs_exported_lines", "Log lines that the collector has accepted.", exported.value), dropped,
      .counter(
        "regispay_logs_export_failures",
        "Requests with log lines that failed; they are repeated until the server stops.",
        failures.value),
    ]
  }
}
