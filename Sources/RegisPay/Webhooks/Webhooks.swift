import Foundation
import LogStore
import Logging
import NIOPosix
import ServiceLifecycle
import Synchronization

/// All endpoints, each with its own worker.
///
/// Safe to use from any task.
final class Webhooks: Service {
  /// Why a request is refused. Nothing was changed.
  enum Refusal: Error, Sendable, Hashable {
    case tooMany(limit: Int)
  }

  let options: WebhookOptions
  private let log: PaymentLog
  private let journal: WebhookJournal
  private let warnings: WebhookWarnings
  let metrics: WebhookMetrics
  private let start: CarefulStart
  private let logger: Logger
  /// In the order of registration.
  private let workers: Mutex<[EndpointWorker]>
  /// Endpoints that are being removed.
  private let leaving = Mutex<Set<String>>([])
  private let mark: LogMark
  private let started = AsyncStream<EndpointWorker?>.makeStream()

  /// A checkpoint of this name on the log says that endpoints are registered.
  static let checkpointName = "webhook-endpoints-required"

  private static func mark(on log: PaymentLog) -> LogMark {
    LogMark(name: checkpointName, noun: "webhook endpoint", log: log)
  }

  /// Opens the endpoints stored in a directory. Blocks for some reads.
  ///
  /// - Throws: also if the log says that endpoints are registered and none are stored: see ``WebhookOptions/acceptsLoss``.
  static func open(
    _ directory: String, log: PaymentLog, options: WebhookOptions, start: CarefulStart = CarefulStart(), health: Health,
    logger: Logger
  ) throws(WebhookStoreError) -> Webhooks {
    let path = WebhookJournal.path(in: directory)
    let loss = options.acceptsLoss ? nil : try Self.loss(of: path, on: log)
    // Checked before a new file is created, which would be in the way when somebody restores a copy.
    if let loss, !FileManager.default.fileExists(atPath: path) { throw loss }
    let journal = try WebhookJournal.open(directory, health: health, willWrite: options.willWrite)
    let stored = try journal.endpoints()
    if let loss, stored.isEmpty { throw loss }
    let webhooks = Webhooks(stored, log, journal, options, start, logger)
    health.warn { [warnings = webhooks.warnings] in warnings.lines }
    return webhooks
  }

  /// The error if no endpoint is stored; nil if no endpoint is expected.
  private static func loss(of path: String, on log: PaymentLog) throws(WebhookStoreError) -> WebhookStoreError? {
    let mark = mark(on: log)
    do throws(LogStoreError) {
      guard try mark.isSet() else { return nil }
    } catch {
      throw WebhookStoreError(path: path, reason: "can't read from the log whether webhooks are registered: \(error)")
    }
    return WebhookStoreError(path: path, reason: mark.reason(path: path), kind: .gone)
  }

  private init(
    _ stored: [WebhookTable.StoredEndpoint], _ log: PaymentLog, _ journal: WebhookJournal, _ options: WebhookOptions,
    _ start: CarefulStart, _ logger: Logger
  ) {
    self.start = start
    let warnings = WebhookWarnings()
    self.warnings = warnings
    let metrics = WebhookMetrics()
    self.metrics = metrics
    self.log = log
    mark = Self.mark(on: log)
    self.journal = journal
    self.options = options
    self.logger = logger
    let workers = stored.map {
      EndpointWorker(
        $0, log: log, journal: journal, options: options, warnings: warnings, metrics: metrics, start: start,
        logger: logger)
    }
    self.workers = Mutex(workers)
    for worker in workers { started.continuation.yield(worker) }
  }

  /// Threads on which workers read the log and build messages, which must not block connections or other shared threads.
  private static let threadCount = 2

  /// Delivers messages until the server stops.
  func run() async throws {
    let threads = MultiThreadedEventLoopGroup(numberOfThreads: Self.threadCount)
    let executors = LoopExecutor.executors(of: threads)
    let marking = Task { await keepMark() }
    defer { marking.cancel() }
    await withGracefulShutdownHandler {
      await withDiscardingTaskGroup { group in
        var count = 0
        for await worker in self.started.stream {
          guard let worker else { break }
          group.addTask(executorPreference: executors[count % executors.count]) { await worker.run() }
          count += 1
        }
        for worker in self.all { worker.stop() }
      }
    } onGracefulShutdown: {
      self.started.continuation.yield(nil)
    }
    // Fails only if the group was shut down before.
    try? await threads.shutdownGracefully()
  }

  /// Call it after ``run()`` has ended, when no request can arrive any more.
  func close() async {
    await writeMark()
    if let error = await journal.close() {
      logger.warning("webhooks' file not closed cleanly", metadata: ["error": "\(error)"])
    }
  }

  // MARK: - The mark on the log

  /// How often ``keepMark()`` compares the mark on the log with the endpoints. Usually they agree, because ``add(url:description:events:)``
  /// and ``remove(_:)`` write the mark at once.
  private static let markInterval = Duration.seconds(1)

  private var hasEndpoints: Bool {
    let leaving = leaving.withLock { $0 }
    return all.contains { !leaving.contains($0.id) }
  }

  private func keepMark() async {
    var failure: LogStoreError?
    while !Task.isCancelled {
      let now = await writeMark()
      if let now, now != failure, !Task.isCancelled {
        logger.error("can't record on the log whether webhooks are registered", metadata: ["error": "\(now)"])
      }
      failure = now
      await journal.noteNames()
      // Throws only when the task is cancelled, which the loop's condition sees.
      try? await Task.sleep(for: Self.markInterval)
    }
  }

  /// Records on the log whether there are endpoints.
  ///
  /// - Returns: the error, if any. While the log can't append, ``keepMark()`` tries again and reports it.
  @discardableResult
  private func writeMark() async -> LogStoreError? {
    do throws(LogStoreError) {
      try await mark.set(hasEndpoints)
      return nil
    } catch {
      return error
    }
  }

  var all: [EndpointWorker] { workers.withLock { $0 } }

  func worker(_ id: String) -> EndpointWorker? { workers.withLock { $0.first { $0.id == id } } }

  /// Reads the log from which messages are delivered.
  var follower: LogFollower { log.follower }

  /// Registers an endpoint, which gets events from now on.
  func add(
    url: WebhookURL, description: String, events: Set<PaymentEvent.TypeName>?
  ) async throws -> EndpointWorker {
    let now = options.clock.now()
    let endpoint = WebhookEndpoint(
      id: WebhookEndpoint.newID(), url: url, description: description, events: events, secret: .random(),
      previousSecret: nil, disabled: nil, createdMicroseconds: now, updatedMicroseconds: now)
    let progress = WebhookProgress(checkpoint: log.reader.endOffset)
    let worker = EndpointWorker(
      .init(endpoint: endpoint, progress: progress, waiting: []), log: log, journal: journal, options: options,
      warnings: warnings, metrics: metrics, start: start, logger: logger)
    // Counted before it is written, so that two concurrent calls can't exceed the limit.
    try workers.withLock { workers in
      guard workers.count < options.endpointLimit else { throw Refusal.tooMany(limit: options.endpointLimit) }
      workers.append(worker)
    }
    do {
      try await journal.write([.add(endpoint, progress)])
    } catch {
      forget(worker)
      throw error
    }
    if let error = await writeMark() {
      // Without the mark a loss of the file would go unnoticed at the next start.
      forget(worker)
      // If this fails too, the endpoint exists from the next start on, as after a crash at this moment.
      try? await journal.write([.remove(id: endpoint.id)])
      throw WebhookStoreError(path: Self.checkpointName, reason: "the log can't append: \(error)")
    }
    started.continuation.yield(worker)
    return worker
  }

  /// Removes an endpoint. If it is the last one, the mark is removed first: a crash in between then leaves an endpoint without a
  /// mark, which the next start repairs, and not a mark without an endpoint, which would keep the server from starting.
  ///
  /// - Throws: then nothing was removed.
  func remove(_ worker: EndpointWorker) async throws {
    leaving.withLock { _ = $0.insert(worker.id) }
    defer { leaving.withLock { _ = $0.remove(worker.id) } }
    if !hasEndpoints, let error = await writeMark() {
      throw WebhookStoreError(path: Self.checkpointName, reason: "the log can't append: \(error)")
    }
    try await worker.remove()
    forget(worker)
  }

  private func forget(_ worker: EndpointWorker) {
    workers.withLock { $0.removeAll { $0 === worker } }
    warnings.set(worker.id, nil)
  }

  /// The last deliveries about a payment, over all endpoints, newest first.
  func deliveries(
    about payment: PaymentID, limit: Int
  ) async throws(WebhookStoreError) -> [(endpoint: String, delivery: WebhookDelivery)] {
    try await journal.deliveries(beginning: WebhookMessage.idPrefix(of: payment), limit: limit)
  }

  func deliveries(
    of worker: EndpointWorker, before: Int64, limit: Int
  ) async throws(WebhookStoreError) -> [WebhookDelivery] {
    try await journal.deliveries(of: worker.id, before: before, limit: limit)
  }

  func delivery(_ number: Int64, of worker: EndpointWorker) async throws(WebhookStoreError) -> WebhookDelivery? {
    try await journal.delivery(number, of: worker.id)
  }

  /// The message of a delivery as it was sent, but for its signature; nil if it was a test, or if the event can't be read any more.
  ///
  /// - Throws: when the payment can't be read.
  func message(of delivery: WebhookDelivery) async throws -> WebhookMessage? {
    guard let named = WebhookMessage.paymentAndVersion(of: delivery.event) else { return nil }
    return try await RequestThreads.run(.short) { [log, tracing = options.tracing] in
      let event = try log.follower.lookUp { reader throws(LogStoreError) in
        try reader.stream(named.payment.stream, from: named.version, limit: 1).first
      }
      guard let event, event.version == named.version else { return nil }
      return try WebhookMessage(event, log: log, tracing: tracing)
    }
  }
}
