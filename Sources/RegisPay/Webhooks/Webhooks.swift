import Foundation
import LogStore
import Logging
import NIOPosix
import ServiceLifecycle
import Synchronization

/// All endpoints, each with a worker of its own.
///
/// Safe to use from any task.
final class Webhooks: Service {
  /// Why something is not done; nothing was changed.
  enum Refusal: Error, Sendable, Hashable {
    case tooMany(limit: Int)
  }

  let options: WebhookOptions
  private let log: PaymentLog
  private let journal: WebhookJournal
  private let warnings: WebhookWarnings
  private let start: CarefulStart
  private let logger: Logger
  /// In the order in which they were registered.
  private let workers: Mutex<[EndpointWorker]>
  /// Endpoints that are about to be removed.
  private let leaving = Mutex<Set<String>>([])
  private let mark: LogMark
  private let started = AsyncStream<EndpointWorker?>.makeStream()

  /// A checkpoint of this name on the log says that endpoints are registered.
  static let checkpointName = "webhook-endpoints-required"

  private static func mark(on log: PaymentLog) -> LogMark {
    LogMark(name: checkpointName, noun: "webhook endpoint", log: log)
  }

  /// Opens what is kept in a directory. Blocks for some reads.
  ///
  /// - Throws: also when the log says that endpoints are registered, and there are none: see ``WebhookOptions/acceptsLoss``.
  static func open(
    _ directory: String, log: PaymentLog, options: WebhookOptions, start: CarefulStart = CarefulStart(), health: Health,
    logger: Logger
  ) throws(WebhookStoreError) -> Webhooks {
    let path = WebhookJournal.path(in: directory)
    let loss = options.acceptsLoss ? nil : try Self.loss(of: path, on: log)
    // Before anything is made that stands in the way of a copy that is put back.
    if let loss, !FileManager.default.fileExists(atPath: path) { throw loss }
    let journal = try WebhookJournal.open(directory, health: health, willWrite: options.willWrite)
    let kept = try journal.endpoints()
    if let loss, kept.isEmpty { throw loss }
    let webhooks = Webhooks(kept, log, journal, options, start, logger)
    health.warn { [warnings = webhooks.warnings] in warnings.lines }
    return webhooks
  }

  /// What is wrong if there is no endpoint; nil if nothing is.
  private static func loss(of path: String, on log: PaymentLog) throws(WebhookStoreError) -> WebhookStoreError? {
    let mark = mark(on: log)
    do throws(LogStoreError) {
      guard try mark.isSet() else { return nil }
    } catch {
      throw WebhookStoreError(path: path, reason: "the log doesn't tell whether webhooks were registered: \(error)")
    }
    return WebhookStoreError(path: path, reason: mark.reason(path: path), kind: .gone)
  }

  private init(
    _ kept: [WebhookTable.Kept], _ log: PaymentLog, _ journal: WebhookJournal, _ options: WebhookOptions,
    _ start: CarefulStart, _ logger: Logger
  ) {
    self.start = start
    let warnings = WebhookWarnings()
    self.warnings = warnings
    self.log = log
    mark = Self.mark(on: log)
    self.journal = journal
    self.options = options
    self.logger = logger
    let workers = kept.map {
      EndpointWorker($0, log: log, journal: journal, options: options, warnings: warnings, start: start, logger: logger)
    }
    self.workers = Mutex(workers)
    for worker in workers { started.continuation.yield(worker) }
  }

  /// Threads on which workers read the log and make messages: neither may hold up connections or what else shares threads.
  private static let threadCount = 2

  /// Delivers until the server stops.
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
    // It fails only when it was shut down before.
    try? await threads.shutdownGracefully()
  }

  /// To be called after ``run()`` has ended, when nobody asks any more.
  func close() async {
    await writeMark()
    if let error = await journal.close() {
      logger.warning("the webhooks' file was not closed as it should be", metadata: ["error": "\(error)"])
    }
  }

  // MARK: - The mark on the log

  /// How often it is looked whether the log says what is so. As a rule it does: who changes that writes it at once.
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
        logger.error("can't write down whether webhooks are registered", metadata: ["error": "\(now)"])
      }
      failure = now
      // Throws only when the task is cancelled, which the loop's condition sees.
      try? await Task.sleep(for: Self.markInterval)
    }
  }

  /// Puts on the log whether there are endpoints.
  ///
  /// - Returns: what stands in the way. While the log can't append, ``keepMark()`` tries again and reports it.
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

  /// What is delivered from.
  var follower: LogFollower { log.follower }

  /// Registers an endpoint, which is told what happens from now on.
  func add(
    url: WebhookURL, description: String, events: Set<PaymentEvent.TypeName>?
  ) async throws -> EndpointWorker {
    let now = options.clock.now()
    let endpoint = WebhookEndpoint(
      id: WebhookEndpoint.newID(), url: url, description: description, events: events, secret: .random(),
      previousSecret: nil, disabled: nil, createdMicroseconds: now, updatedMicroseconds: now)
    let progress = WebhookProgress(place: log.reader.endOffset)
    let worker = EndpointWorker(
      .init(endpoint: endpoint, progress: progress, waiting: []), log: log, journal: journal, options: options,
      warnings: warnings, start: start, logger: logger)
    // Taken before it is kept, so that no two take the last place.
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
    started.continuation.yield(worker)
    await writeMark()
    return worker
  }

  /// Removes an endpoint. With the last one the mark goes, and goes first: a crash in between leaves an endpoint without a mark,
  /// which the next start mends, and not a mark without an endpoint, which keeps it from starting.
  ///
  /// - Throws: nothing was removed.
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

  func deliveries(
    of worker: EndpointWorker, before: Int64, limit: Int
  ) async throws(WebhookStoreError) -> [WebhookDelivery] {
    try await journal.deliveries(of: worker.id, before: before, limit: limit)
  }
}
