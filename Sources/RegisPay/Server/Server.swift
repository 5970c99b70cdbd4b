import Foundation
import Hummingbird
import HummingbirdCore
import LogStore
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import UnixSignals

/// Everything on one node: HTTP API, page, consumers and simulators on two logs in one directory.
public struct Server: Sendable {
  private let options: ServerOptions
  private let log: PaymentLog
  private let simulator: Simulator
  private let logger: Logger
  private let stops = AsyncStream<Void>.makeStream()

  /// Opens the logs. Blocks while their tails are read.
  public static func open(_ options: ServerOptions, logger: Logger) throws(ServerError) -> Server {
    var options = options
    options.consumer.stopLimit = min(options.consumer.stopLimit, options.stopLimit / 3)
    options.webhooks.stopLimit = min(options.webhooks.stopLimit, options.stopLimit / 3)
    // Before anything is made.
    try checkKeys(options, logger)
    if !LostLog.hasLog(options.directory + "/payments") { try LostLog.check(options.directory) }
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeDirectory(options.directory, mode: options.allowsGroup ? 0o750 : 0o700)
    } catch {
      throw .directory(options.directory, reason: "\(error)")
    }
    do throws(LogStoreError) {
      let store = try CrashedHolder.outlived(in: options.directory, logger) { () throws(LogStoreError) in
        try open("payments", segmentBytes: options.segmentBytes, options, logger)
      }
      let simulatorStore = try open("simulator", segmentBytes: options.simulatorSegmentBytes, options, logger)
      let time = TimeKeeper.time(
        in: options.directory, logTime: { Clock.microseconds() + store.clockLeadMicroseconds }, logger: logger)
      return Server(
        options: options, log: PaymentLog(store, time: time, logger: logger),
        simulator: Simulator(store: simulatorStore, logger: logger),
        logger: logger)
    } catch {
      throw .store(error)
    }
  }

  private static func checkKeys(_ options: ServerOptions, _ logger: Logger) throws(ServerError) {
    guard !options.isLoopback else { return }
    do throws(KeyStoreError) {
      guard try !KeyStore.hasValidKey(options.directory) else { return }
    } catch {
      throw .keys(error)
    }
    guard options.isInsecure else { throw .noKeys(host: options.host) }
    logger.warning(
      "there is no valid key, and this address may be reached from elsewhere", metadata: ["host": "\(options.host)"])
  }

  private static func open(
    _ name: String, segmentBytes: Int, _ options: ServerOptions, _ logger: Logger
  ) throws(LogStoreError) -> LogStore {
    var storeOptions = LogStore.Options()
    storeOptions.segmentBytes = segmentBytes
    // Damage in what is finished must not keep all the rest from being served: see docs/DURABILITY.md.
    storeOptions.servesDamaged = true
    storeOptions.access = options.allowsGroup ? .group : .owner
    // Under load the processor is what is short, not the disk: see docs/PERFORMANCE.md.
    storeOptions.gatherMilliseconds = options.gatherMilliseconds
    let store = try LogStore.open("\(options.directory)/\(name)", options: storeOptions)
    logger.log(
      level: store.recovery.wasClosedCleanly ? .info : .warning, "log opened",
      metadata: ["log": "\(name)", "recovery": "\(store.recovery)"])
    return store
  }

  /// Syncs of both logs since they were opened.
  public var syncCount: UInt64 { log.store.syncCount + simulator.store.syncCount }

  /// Ends ``run(stopSignals:onReady:)`` as a signal does. May be called from anywhere, at any time.
  public func stop() { stops.continuation.yield() }

  /// Serves until it is told to stop by one of these signals or by ``stop()``; then requests under way are answered,
  /// calls under way end or are left for the next start, and the logs are closed. To be called once. Don't cancel its
  /// task: connections are then cut in the middle of being accepted, which the network library takes for an error of
  /// ours.
  ///
  /// - Parameter onOverdue: called on a thread of its own if a stop takes longer than ``ServerOptions/stopLimit``, since something
  ///   hangs; then the process may be ended, as by `kill -9`.
  /// - Parameter onReady: called once with the address, such as `http://127.0.0.1:8080`, as soon as it answers.
  public func run(
    stopSignals: [UnixSignal] = [], onOverdue: @escaping @Sendable () -> Void = {},
    onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    var failure: ServerError?
    let deadline = StopDeadline(options.stopLimit, onOverdue: onOverdue)
    defer { deadline.end() }
    do throws(ServerError) {
      try await serve(stopSignals: stopSignals, deadline, onReady: onReady)
    } catch {
      failure = error
    }
    for store in [log.store, simulator.store] {
      do {
        try await store.close()
      } catch {
        failure = failure ?? .store(error)
      }
    }
    if let failure { throw failure }
  }

  private func serve(
    stopSignals: [UnixSignal], _ deadline: StopDeadline, onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    do throws(EndpointError) {
      for url in [options.pspURL, options.notificationsURL].compactMap({ $0 }) { _ = try Endpoint(url) }
    } catch {
      throw .endpoint(error)
    }
    // One that an earlier start has begun.
    if log.reader.endOffset == 0 { try LostLog.check(options.directory) }
    let health = Health(stores: [("payments", log.store), ("simulator", simulator.store)])
    let simulatorDamage = simulator.follower.damage
    let logs = [("payments", log.store, log.damage), ("simulator", simulator.store, simulatorDamage)]
    let scrubbing: Scrubbing
    do throws(LogStoreError) {
      scrubbing = try Scrubbing(logs, options: options, logger: logger)
    } catch {
      throw .store(error)
    }
    defer { scrubbing.stop() }
    health.warn { scrubbing.findings }
    health.watch { [gate = log.gate] in
      gate.reason.map { "no calls go out, since what comes of them can't be recorded: \($0)" }
    }
    for (_, store, damage) in logs {
      health.warn { damage.warnings }
      for file in store.recovery.damagedFiles { damage.inspect(file: file.file) }
    }
    let clock = ClockWarnings(stores: [("payments", log.store), ("simulator", simulator.store)])
    let start = CarefulStart(options.directory, pace: options.carefulPace, logger: logger)
    health.warn { start.warnings }
    let exposure = Exposure(directory: options.directory, isForGroup: options.allowsGroup)
    health.warn { clock.lines + exposure.lines }
    for line in clock.lines + exposure.lines { logger.warning("\(line)") }
    let projection: PaymentProjection
    do throws(ProjectionError) {
      projection = try PaymentProjection.open(
        "\(options.directory)/projection", log: log, health: health, logger: logger)
    } catch {
      throw .projection(error)
    }
    defer { projection.close() }
    health.warn { [projection] in
      let count = projection.lastUnknownCount
      guard count > 0 else { return [] }
      return ["payments with an unknown outcome: \(count); see regispay unknown list"]
    }
    let webhooks: Webhooks
    do throws(WebhookStoreError) {
      webhooks = try Webhooks.open(
        "\(options.directory)/webhooks", log: log, options: options.webhooks, start: start, health: health,
        logger: logger)
    } catch {
      throw .webhooks(error)
    }
    let keys: KeyWatch
    do throws(KeyStoreError) {
      keys = try KeyWatch(
        options.directory, log: log, isInsecure: options.isInsecure, health: health, logger: logger)
    } catch {
      throw .keys(error)
    }
    let own = InternalToken()
    let ledger = Ledger(follower: simulator.follower)
    let retryStatus = RetryStatus()
    let consumers = ConsumerRegistry()
    let address = AsyncStream<String>.makeStream()

    let routes = Routes(context: HTTPRequestContext.self, options: .autoGenerateHeadEndpoints)
    routes.add(middleware: ProblemMiddleware())
    routes.add(
      middleware: AccessMiddleware(
        keys: keys, own: own,
        browser: BrowserProtection(listeningOn: options.host, allowedHosts: options.allowedHosts),
        isLoopback: options.isLoopback,
        rate: options.limits.requestsPerSecond.map {
          RateLimiter(perSecond: $0, burst: $0 * HTTPLimits.burstSeconds)
        }))
    routes.add(middleware: TargetMiddleware())
    WebRoutes().add(to: routes)
    HealthRoutes(health: health).add(to: routes)
    PaymentRoutes(
      log: log, requests: IdempotencyStore(follower: log.follower, lifetime: options.requestLifetime),
      projection: projection,
      retryStatus: retryStatus
    ).add(to: routes)
    EventRoutes(follower: log.follower, limits: options.limits).add(to: routes)
    ConsumerRoutes(log: log, consumers: consumers, retryStatus: retryStatus, projection: projection).add(to: routes)
    OpenAPIRoutes().add(to: routes)
    WebhookRoutes(webhooks: webhooks).add(to: routes)
    SimulatorRoutes(simulator: simulator, ledger: ledger).add(to: routes)
    // Hummingbird's own messages are about connections and of use only when something is wrong with them.
    var quietLogger = logger
    quietLogger.handler = LibraryLogHandler(handler: logger.handler)
    quietLogger.logLevel = max(logger.logLevel, .warning)
    let responder = routes.buildResponder()
    let limits = options.limits
    let table = ConnectionTable(limit: limits.connectionsPossible, limitPerAddress: limits.connectionsPerAddress)
    let application = Application(
      responder: responder,
      server: HTTPServerBuilder { [quietLogger] _ in
        HTTPServerChannel(responder: responder, limits: limits, table: table, own: own, logger: quietLogger)
      },
      configuration: .init(address: .hostname(options.host, port: options.port)),
      onServerRunning: { channel in
        let url = Self.url(host: options.host, port: channel.localAddress?.port ?? options.port)
        address.continuation.yield(url)
        onReady(url)
      }, logger: quietLogger)

    // Stopped from the last to the first: consumers while the simulators still answer, then the requests, and last what
    // requests look at.
    let services: [any Service] = [
      PartService { await BackgroundThread.run { await projection.run() } },
      PartService { [keeper = TimeKeeper(options.directory, log.time, logger: logger)] in await keeper.run() },
      PartService { [interval = options.keyInterval] in await keys.run(every: interval) },
      PartService {
        // SkippedWork reads the payments' board to take skipped steps up again.
        while !Task.isCancelled {
          try await Task.sleep(for: .seconds(15))
          await RequestThreads.run(.long) { simulatorDamage.recheck() }
        }
      },
      application,
      Processing(
        options: options, log: log, projection: projection, retryStatus: retryStatus, consumerRegistry: consumers,
        health: health,
        address: address.stream,
        own: own, logger: logger, start: start),
      webhooks,
      // The last one is the first to be told.
      PartService {
        defer { deadline.begin() }
        try await start.run()
        // The end of one service is the end of the group.
        try await gracefulShutdown()
      },
    ]
    let stopSwitch = PartService { [stream = stops.stream] in _ = await stream.first { _ in true } }
    var configuration = ServiceGroupConfiguration(
      services: services.map { .init(service: $0) }
        + [.init(service: stopSwitch, successTerminationBehavior: .gracefullyShutdownGroup)],
      gracefulShutdownSignals: stopSignals, logger: quietLogger)
    configuration.maximumGracefulShutdownDuration = options.stopLimit * 0.8
    var failure: ServerError?
    do {
      try await ServiceGroup(configuration: configuration).run()
    } catch {
      failure = serverError(error)
    }
    await webhooks.close()
    start.settle()
    if let failure { throw failure }
  }

  /// An address to open: one that listens everywhere is reached on this machine.
  private static func url(host: String, port: Int) -> String {
    switch host {
    case "0.0.0.0": "http://127.0.0.1:\(port)"
    case "::": "http://[::1]:\(port)"
    default: "http://\(ListenAddress.bracketed(host)):\(port)"
    }
  }

  private func serverError(_ error: any Error) -> ServerError? {
    switch error {
    case let error as IOError where error.errnoCode == EADDRINUSE:
      .addressInUse(host: options.host, port: options.port)
    case let error as IOError: .listen(host: options.host, port: options.port, reason: error.description)
    case let error as LogStoreError: .store(error)
    case is CancellationError: nil
    default: .stopped(reason: "\(error)")
    }
  }
}

/// A part that runs until the service group stops it.
struct PartService: Service {
  let work: @Sendable () async throws -> Void

  func run() async throws {
    do {
      try await cancelWhenGracefulShutdown { try await work() }
    } catch is CancellationError {
      // It ends as it was asked. Thrown, this would end all other services at once, with answers that they have begun.
    }
  }
}
