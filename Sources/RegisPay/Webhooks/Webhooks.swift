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
  private let started = AsyncStream<EndpointWorker?>.makeStream()

  /// Opens what is kept in a directory. Blocks for some reads.
  static func open(
    _ directory: String, log: PaymentLog, options: WebhookOptions, start: CarefulStart = CarefulStart(), health: Health,
    logger: Logger
  ) throws(WebhookStoreError) -> Webhooks {
    let journal = try WebhookJournal.open(directory, health: health, willWrite: options.willWrite)
    let kept = try journal.endpoints()
    let webhooks = Webhooks(kept, log, journal, options, start, logger)
    health.warn { [warnings = webhooks.warnings] in warnings.lines }
    return webhooks
  }

  private init(
    _ kept: [WebhookTable.Kept], _ log: PaymentLog, _ journal: WebhookJournal, _ options: WebhookOptions,
    _ start: CarefulStart, _ logger: Logger
  ) {
    self.start = start
    let warnings = WebhookWarnings()
    self.warnings = warnings
    self.log = log
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
  func close() async { await journal.close() }

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
    return worker
  }

  func remove(_ worker: EndpointWorker) async throws {
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
