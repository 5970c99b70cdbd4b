import LogStore
import Logging

/// Sends the traces of payments to an OpenTelemetry collector, by OTLP over HTTP.
///
/// It follows the log from a checkpoint of its own, makes the spans of each operation that has ended from the payment's events, and
/// moves the checkpoint when the collector has accepted them. So the log is the queue: a collector that is away loses nothing, costs no
/// memory, and holds up nobody; nor does a crash lose spans, but it may send some twice, with the same ids. What is older than
/// ``TraceOptions/ageLimit`` when the collector is back is dropped and counted.
struct TraceExport: Sendable {
  static let cursorName = "traces"

  /// The most operations that are read before spans are sent.
  private static let readLimit = 256
  /// Between two commits of the checkpoint.
  private static let commitInterval = Duration.seconds(1)
  static let backoff = Backoff(base: .milliseconds(500), cap: .seconds(30))

  private let log: PaymentLog
  private let options: TraceOptions
  private let metrics: TraceMetrics
  private let client: OTLPClient
  private let logger: Logger

  /// - Parameter exporter: of ``TraceOptions/exporter``.
  init(
    _ exporter: OTLPOptions, log: PaymentLog, options: TraceOptions, metrics: TraceMetrics, logger: Logger
  ) throws(EndpointError) {
    self.log = log
    self.options = options
    self.metrics = metrics
    self.logger = logger
    client = try OTLPClient(exporter, rejectedName: "rejectedSpans")
  }

  /// Runs until its task is cancelled, or the log is closed.
  func run() async {
    defer { client.close() }
    let work = Work(self)
    _ = await log.follower.repeatUntilCancelled {
      try await work.step()
    } failed: { error in
      logger.error("can't follow the log for traces", metadata: ["error": "\(error)"])
    }
  }

  /// An operation that ended with an event.
  private struct Ended {
    var payment: PaymentID
    var version: UInt64
    var microseconds: UInt64
  }

  /// The state of one run; used by its task alone.
  private final class Work {
    private let export: TraceExport
    private var subscription: Subscription?
    private var batch: SpanBatch
    private var committed = ContinuousClock.now - TraceExport.commitInterval

    init(_ export: TraceExport) {
      self.export = export
      batch = SpanBatch(resource: export.options.resource)
    }

    /// Waits for events, gathers for a while, and sends all that has ended.
    func step() async throws {
      if subscription == nil { subscription = try await begin() }
      guard let subscription else { return }
      guard try await subscription.waitForMore() else { return }
      try await Task.sleep(for: export.options.delay)
      while try await sendSome(subscription) {}
      if batch.count > 0 { try await send() }
      export.metrics.read(to: subscription.nextCheckpoint)
      try await commit(subscription)
    }

    /// The checkpoint; at the first time, the log's end: an old log's traces are of no use.
    private func begin() async throws -> Subscription {
      if let checkpoint = try export.log.reader.cursor(TraceExport.cursorName) {
        export.metrics.read(to: checkpoint)
        return export.log.follower.subscription(from: checkpoint)
      }
      let end = export.log.reader.endOffset
      export.metrics.read(to: end)
      let subscription = export.log.follower.subscription(from: end)
      try await append(subscription.nextCheckpoint)
      return subscription
    }

    /// - Returns: false at the log's end.
    private func sendSome(_ subscription: Subscription) async throws -> Bool {
      try Task.checkCancellation()
      var room = TraceExport.readLimit
      let portion = try export.log.follower.read(subscription) { event -> Subscription.Choice<Ended> in
        guard room > 0 else { return .stop }
        guard let ended = TraceExport.ended(event) else { return .skip }
        room -= 1
        return .take(ended)
      }
      for (_, ended) in portion.items {
        for span in spans(ended) {
          batch.add(span)
          if batch.count >= export.options.batchLimit { try await send() }
        }
      }
      subscription.finish(portion)
      if batch.count == 0 {
        export.metrics.read(to: portion.offsets.upperBound)
        try await commitIfDue(subscription)
      }
      return !portion.offsets.isEmpty
    }

    private func spans(_ ended: Ended) -> [Span] {
      let age = Int64(clamping: export.log.microseconds) - Int64(clamping: ended.microseconds)
      let isOld = age > export.options.ageLimit.microseconds
      let loaded: PaymentLog.Loaded?
      do {
        loaded = try export.log.load(ended.payment, upTo: ended.version)
      } catch {
        export.metrics.dropped.add(.unreadable)
        return []
      }
      guard let loaded else { return [] }
      let trace = PaymentTrace(loaded)
      var spans: [Span] = []
      for operation in trace.operations where !operation.isOpen && operation.last.version == ended.version {
        let id = operation.named?.parent.trace ?? trace.payment.traceID
        guard export.options.sampler.records(id, parent: operation.named?.parent) else { continue }
        guard !isOld else {
          export.metrics.dropped.add(.old)
          continue
        }
        spans += trace.spans(of: operation)
      }
      return spans
    }

    private func send() async throws {
      try await export.send(batch)
      batch.removeAll()
    }

    private func commitIfDue(_ subscription: Subscription) async throws {
      if committed.duration(to: .now) >= TraceExport.commitInterval { try await commit(subscription) }
    }

    private func commit(_ subscription: Subscription) async throws {
      let next = subscription.nextCheckpoint
      guard next > subscription.checkpoint else { return }
      try await append(next)
      subscription.noteCommitted(next)
    }

    private func append(_ checkpoint: UInt64) async throws {
      committed = .now
      try await export.log.append(
        Append([], cursors: [CursorCommit(name: TraceExport.cursorName, checkpoint: checkpoint, mayLag: true)]))
    }
  }

  /// Nil unless an operation of the payment may end with the event.
  private static func ended(_ event: borrowing EventView) -> Ended? {
    // Compared without a copy: most events end nothing.
    guard event.type.withUnsafeBytes({ type in endingTypes.contains { $0.elementsEqual(type) } }) else { return nil }
    guard let payment = PaymentID(stream: event.copy().stream) else { return nil }
    return Ended(payment: payment, version: event.version, microseconds: event.timestampMicroseconds)
  }

  private static let endingTypes = PaymentEvent.TypeName.allCases.filter(\.endsOperations).map {
    Array($0.rawValue.utf8)
  }

  /// Sends spans until the collector has accepted or refused them.
  ///
  /// - Throws: when the task is cancelled.
  private func send(_ batch: SpanBatch) async throws {
    let body = batch.request
    var failures = 0
    while true {
      switch await client.send(body) {
      case .accepted(let rejected, let reason):
        if failures > 0 { logger.notice("the collector of traces accepts spans again") }
        let rejected = min(rejected, batch.count)
        metrics.exported.add(UInt64(batch.count - rejected))
        if rejected > 0 { noteRefused(rejected, reason ?? "it took the others") }
        return
      case .refused(let reason): return noteRefused(batch.count, reason)
      case .failed(let reason, let after):
        failures += 1
        metrics.failures.add()
        if failures == 1 {
          logger.warning(
            "can't send traces to the collector, tries again",
            metadata: ["to": "\(client.address)", "reason": "\(reason)"])
        }
        try await Task.sleep(for: Self.backoff.delay(attempts: failures, atLeast: after))
      }
    }
  }

  private func noteRefused(_ count: Int, _ reason: String) {
    logger.warning(
      "the collector refused spans, which are dropped",
      metadata: ["to": "\(client.address)", "spans": "\(count)", "reason": "\(reason)"])
    metrics.dropped.add(.rejected, UInt64(count))
  }
}

extension PaymentEvent.TypeName {
  /// Whether an operation may end with an event of this type.
  fileprivate var endsOperations: Bool {
    switch self {
    case .completed, .declined, .cancellationRefused, .cancelled, .failed, .refunded, .refundDeclined, .refundFailed,
      .outcomeUnknown, .settled, .retried, .outcomeResolved:
      true
    case .initiated, .created, .cancellationRequested, .delayed, .refundRequested: false
    }
  }
}
