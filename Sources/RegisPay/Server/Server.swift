import Foundation
import GRDB
import Hummingbird
import HummingbirdCore
import LogStore
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import UnixSignals

/// The whole server on one node: HTTP API, web page, consumers and simulators, on two logs in one directory.
public struct Server: Sendable {
  private let options: ServerOptions
  private let log: PaymentLog
  /// Nil if nothing is simulated.
  private let simulator: Simulator?
  private let rules: AccessRules
  private let metricsRules: AccessRules?
  private let tls: ServerTLS?
  private let timeKeeper: TimeKeeper
  private let logger: Logger
  private let metrics: MetricsRegistry
  private let stops = AsyncStream<Void>.makeStream()
  private let deadline: StopDeadline

  /// The most threads that a server has at once, rounded up: 44 on two processors under load, with a broker and steps from it. The libraries that start them end the
  /// process when the system refuses one, so a program checks first.
  public static let neededThreads = 47 + 4 * System.coreCount

  /// Opens the logs. Blocks while their tails are read.
  ///
  /// - Parameters:
  ///   - logger: where lines go; ``ServerOptions/logLevel`` decides which do.
  ///   - metrics: gets the server's metrics, beside those that libraries make with it; one for each server.
  public static func open(
    _ options: ServerOptions, logger: Logger, metrics: MetricsRegistry = MetricsRegistry()
  ) throws(ServerError) -> Server {
    RequestThreads.start()
    DatabaseError.prepareDescription()
    MetricsThreads.start()
    var (options, logger) = (options, logger)
    logger.handler = LevelLogHandler(logger.handler, options.logLevel)
    options.consumer.stopLimit = min(options.consumer.stopLimit, options.stopLimit / 3)
    options.webhooks.stopLimit = min(options.webhooks.stopLimit, options.stopLimit / 3)
    options.webhooks.tracing = options.tracing.tracing
    try checkSimulator(options)
    // Before anything is created.
    try checkDirectory(options.directory, for: .server)
    guard !UnfinishedRestoration.isThere(in: options.directory) else {
      throw .unfinishedRestoration(directory: options.directory)
    }
    try checkKeys(in: options.directory, host: options.host, isInsecure: options.isInsecure, logger)
    try checkMetrics(options)
    let tls = try makeTLS(options.tls)
    if !LostLog.hasLog(options.directory + "/payments") { try LostLog.check(options.directory) }
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeDirectory(options.directory, mode: options.allowsGroup ? 0o750 : 0o700)
    } catch {
      throw .directory(options.directory, reason: "\(error)")
    }
    do throws(LogStoreError) {
      let store = try CrashedLockHolder.openWhenReleased(in: options.directory, logger) { () throws(LogStoreError) in
        try open("payments", segmentBytes: options.segmentBytes, options, logger)
      }
      let simulatorStore =
        options.simulatedServices.isEmpty
        ? nil : try open("simulator", segmentBytes: options.simulatorSegmentBytes, options, logger)
      let times = TimeKeeper.times(in: options.directory, store, logger: logger)
      let log = PaymentLog(store, times: times, logger: logger)
      return Server(
        options: options, log: log, simulator: simulatorStore.map { Simulator(store: $0, logger: logger) },
        rules: AccessRules(options, listeningOn: options.host),
        metricsRules: options.metricsAddress.map { AccessRules(options, listeningOn: $0.host) }, tls: tls,
        timeKeeper: TimeKeeper(options.directory, log, logger: logger), logger: logger, metrics: metrics,
        deadline: StopDeadline(options.stopLimit))
    } catch {
      throw .store(error)
    }
  }

  private static func open(
    _ name: String, segmentBytes: Int, _ options: ServerOptions, _ logger: Logger
  ) throws(LogStoreError) -> LogStore {
    try .open(
      name, in: options.directory, segmentBytes: segmentBytes, allowsGroup: options.allowsGroup,
      gatherMilliseconds: options.gatherMilliseconds, logger)
  }

  /// Each with its name, its store and the status of its damage.
  private var logs: [(name: String, store: LogStore, damage: DamageStatus)] {
    [("payments", log.store, log.damage)] + (simulator.map { [("simulator", $0.store, $0.follower.damage)] } ?? [])
  }

  /// The number of syncs of all logs since they were opened.
  public var syncCount: UInt64 { logs.reduce(0) { $0 + $1.store.syncCount } }

  /// Requests that come later go by these options: ``ServerOptions/allowedHosts`` and the limit of requests of each client. Nothing else
  /// of them is looked at.
  public func replaceRules(_ options: ServerOptions) {
    for rules in [rules, metricsRules] {
      rules?.replace(allowedHosts: options.allowedHosts, requestsPerSecond: options.limits.requestsPerSecond)
    }
  }

  /// Ends ``run(stopSignals:onOverdue:onReady:)`` as a signal does. May be called from any thread at any time. The time of the stop is
  /// limited from the call on, even if the call itself hangs because the system has no thread left.
  public func stop() {
    deadline.begin()
    stops.continuation.yield()
  }

  /// Serves until one of the signals or ``stop()``. Then it finishes the requests in flight, ends calls in flight or leaves them to
  /// the next start, and closes the logs. Call it once. Don't cancel its task: that cuts connections while they are being accepted,
  /// which the network library takes for a programming error.
  ///
  /// - Parameters:
  ///   - stopSignals: taken by libdispatch, which may need a new thread for it. A program that must also stop while the system has
  ///     none left takes its signals itself, and calls ``stop()``.
  ///   - onOverdue: called on its own thread if a stop takes longer than ``ServerOptions/stopLimit`` because something hangs. The
  ///     process may then be ended, as by `kill -9`.
  ///   - onReady: called once with the address, such as `http://127.0.0.1:8080`, as soon as the server responds.
  public func run(
    stopSignals: [UnixSignal] = [], onOverdue: @escaping @Sendable () -> Void = {},
    onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    var failure: ServerError?
    deadline.start(onOverdue: onOverdue)
    defer { deadline.end() }
    do throws(ServerError) {
      try await serve(stopSignals: stopSignals, onReady: onReady)
    } catch {
      failure = error
    }
    for log in logs {
      do {
        try await log.store.close()
      } catch {
        failure = failure ?? .store(error)
      }
    }
    if let failure { throw failure }
  }

  private func serve(
    stopSignals: [UnixSignal], onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    let psp = try wrapping(ServerError.endpoint) { () throws(EndpointError) in
      if let url = options.notificationsURL { _ = try Endpoint(url) }
      return try options.psp
    }
    // The log may be empty because an earlier start created it and failed later.
    if log.reader.endOffset == 0 { try LostLog.check(options.directory) }
    try WrongLog.check(options.directory, payments: log.reader, simulator: simulator?.store.reader)
    try OtherPSP.check(options, psp, isEmpty: log.reader.endOffset == 0)
    let known = KnownLogKeeper(options.directory, log.reader, psp: psp, logger: logger)
    try await noteRestorations(known)
    let health = Health(stores: logs.map { ($0.name, $0.store) })
    let scrubbing = try startScrubbing(health)
    defer { scrubbing.stop() }
    let start = CarefulStart(options.directory, pace: options.carefulPace, logger: logger)
    addWarnings(to: health, start)
    health.warn { known.warnings }
    let projection = try openProjection(health)
    var failure: ServerError?
    do throws(ServerError) {
      try await serve(health, scrubbing, start, known, projection, stopSignals, onReady: onReady)
    } catch {
      failure = error
    }
    await projection.close()
    if let failure { throw failure }
  }

  private func serve(
    _ health: Health, _ scrubbing: Scrubbing, _ start: CarefulStart, _ known: KnownLogKeeper,
    _ projection: PaymentProjection, _ stopSignals: [UnixSignal], onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    let webhooks = try wrapping(ServerError.webhooks) { () throws(WebhookStoreError) in
      try Webhooks.open(
        "\(options.directory)/webhooks", log: log, options: options.webhooks, start: start, health: health,
        logger: logger)
    }
    let keys = try wrapping(ServerError.keys) { () throws(KeyStoreError) in
      try KeyWatch(options.directory, log: log, isInsecure: options.isInsecure, health: health, logger: logger)
    }
    let parts = ServerParts(
      log: log, simulator: simulator, health: health, start: start, projection: projection,
      batches: Batches(log: log, projection: projection, logger: logger), webhooks: webhooks,
      broker: publisher(health), stepPublisher: stepPublisher(health), keys: keys, known: known,
      consumers: ConsumerRegistry(handsOutWork: options.stepsFromBroker),
      scrubbing: scrubbing, backups: options.backup.map { BackupWatch($0, storeID: log.reader.storeID) },
      registry: metrics)
    let serverMetrics = ServerMetrics(parts, scrubbing, directory: options.directory)
    serverMetrics.register()
    let exports = (traces: try openTraces(), logs: try openLogExport())
    metrics.add { [ServerTLS.metric(of: tls)] }
    var failure: ServerError?
    do {
      try await serviceGroup(parts, serverMetrics, exports, stopSignals, onReady: onReady).run()
    } catch {
      failure = ServerError(error, host: options.host, port: options.port)
    }
    await webhooks.close()
    start.markStable()
    if let failure { throw failure }
  }

  /// Nil if no integration events are published.
  private func publisher(_ health: Health) -> BrokerPublisher? {
    guard let broker = options.broker, broker.publishesEvents else { return nil }
    return BrokerPublisher(broker, log: log, health: health, logger: logger)
  }

  /// Nil if the server makes the calls of steps itself, or nobody does.
  private func stepPublisher(_ health: Health) -> BrokerPublisher? {
    guard let broker = options.broker, options.stepsFromBroker, !options.switchedOff.contains(.processing) else {
      return nil
    }
    return BrokerPublisher(broker.forSteps, log: log, health: health, logger: logger)
  }

  private func noteRestorations(_ known: KnownLogKeeper) async throws(ServerError) {
    do throws(LogStoreError) {
      guard let failure = try await log.noteRestorations(isRestored: known.isRestored) else {
        return known.noteRestorationRecorded()
      }
      // `payments.known` says it until it is on the log.
      logger.warning("can't record on the log that it was restored", metadata: ["reason": "\(failure)"])
    } catch {
      throw .store(error)
    }
  }

  private func startScrubbing(_ health: Health) throws(ServerError) -> Scrubbing {
    let scrubbing = try wrapping(ServerError.store) { () throws(LogStoreError) in
      try Scrubbing(logs, bytesPerSecond: options.scrubBytesPerSecond, logger: logger)
    }
    health.warn { scrubbing.findings }
    health.watch { [gate = log.gate] in
      gate.reason.map { "no calls go out, because their outcomes can't be recorded: \($0)" }
    }
    for (_, store, damage) in logs {
      health.warn { damage.warnings }
      for found in store.recovery.damagedFiles { damage.inspect(file: found.file) }
    }
    return scrubbing
  }

  private func addWarnings(to health: Health, _ start: CarefulStart) {
    let clock = ClockWarnings(stores: logs.map { ($0.name, $0.store) })
    let exposure = Exposure(directory: options.directory, isForGroup: options.allowsGroup)
    health.warn { start.warnings }
    health.warn { Allocator.warnings }
    health.warn { [timeKeeper] in timeKeeper.warnings }
    if let tls {
      health.warn { tls.warnings }
      for line in tls.warnings { logger.warning("\(line)") }
    }
    let switchedOff = Self.warnings(of: options.switchedOff)
    for line in switchedOff { logger.warning("\(line)") }
    health.warn { switchedOff + clock.lines + exposure.lines }
    for line in clock.lines + exposure.lines { logger.warning("\(line)") }
  }

  private static func warnings(of switchedOff: Set<ServerOptions.Part>) -> [String] {
    (switchedOff.contains(.processing)
      ? ["processing is switched off: payments wait for a start without --no-processing"] : [])
      + (switchedOff.contains(.webhooks)
        ? ["webhooks are switched off: their messages wait for a start without --no-webhooks"] : [])
  }

  private func openProjection(_ health: Health) throws(ServerError) -> PaymentProjection {
    let projection = try wrapping(ServerError.projection) { () throws(ProjectionError) in
      try PaymentProjection.open("\(options.directory)/projection", log: log, health: health, logger: logger)
    }
    health.warn {
      let count = projection.lastUnknownCount
      guard count > 0 else { return [] }
      return ["payments with an unknown outcome: \(count); see regispay unknown list"]
    }
    return projection
  }

  /// Nil if traces are not sent.
  private func openTraces() throws(ServerError) -> TraceExport? {
    guard let exporter = options.tracing.exporter else { return nil }
    let traceMetrics = TraceMetrics()
    metrics.add { [reader = log.reader] in traceMetrics.families(end: reader.endOffset) }
    return try wrapping(ServerError.endpoint) { () throws(EndpointError) in
      try TraceExport(exporter, log: log, options: options.tracing, metrics: traceMetrics, logger: logger)
    }
  }

  /// Nil if log lines are not sent.
  private func openLogExport() throws(ServerError) -> LogExport? {
    guard let exporter = options.logExport.exporter, let queue = options.logQueue else { return nil }
    let exportMetrics = LogExportMetrics()
    metrics.add { exportMetrics.families }
    return try wrapping(ServerError.endpoint) { () throws(EndpointError) in
      try LogExport(exporter, queue, options: options.logExport, metrics: exportMetrics, logger: logger)
    }
  }

  private func serviceGroup(
    _ parts: ServerParts, _ metrics: ServerMetrics, _ exports: (traces: TraceExport?, logs: LogExport?),
    _ stopSignals: [UnixSignal], onReady: @escaping @Sendable (String) -> Void
  ) -> ServiceGroup {
    let address = AsyncStream<String>.makeStream()
    var quietLogger = logger
    quietLogger.handler = LibraryLogHandler(handler: logger.handler)
    let metricsRoutes = MetricsRoutes(registry: parts.registry)
    let hasSimulatorListener =
      tls != nil && parts.simulator != nil && !options.switchedOff.contains(.processing)
    let metricsRunning = AsyncStream<Void>.makeStream()
    if options.metricsAddress == nil { metricsRunning.continuation.finish() }
    let activity = ServerReadings(parts, metrics).activity
    let running = AsyncStream<Void>.makeStream()
    let application = HTTPApplication(options: options, rules: rules, tls: tls, logger: quietLogger).make(
      parts, activity: activity, metrics: metricsRoutes,
      // An address that can't be had ends the server, which must not have taken a payment then.
      begin: { for await _ in metricsRunning.stream {} }
    ) { url in
      if !hasSimulatorListener { address.continuation.yield(url) }
      onReady(url)
      running.continuation.finish()
    }
    // Stopped from the last to the first: consumers while the simulators still respond, then the requests, and last the parts that
    // requests use.
    var services: [any Service] = []
    // Its last lines tell of the stop itself.
    if let logs = exports.logs { services.append(PartService { await logs.run() }) }
    if let address = options.metricsAddress, let rules = metricsRules {
      services.append(
        MetricsListener(
          address: address, options: options, rules: rules, routes: metricsRoutes, metrics: parts.httpMetrics,
          logger: quietLogger, notices: logger, onRunning: { metricsRunning.continuation.finish() }))
    }
    services += [
      PartService { await metrics.run() },
      ActivityService(activity: activity, log: log, running: running.stream, logger: logger),
      PartService { await BackgroundThread.run { await parts.projection.run() } },
      PartService {
        await parts.known.run()
        // The end of one service would end the group.
        try await gracefulShutdown()
      },
      PartService { await parts.batches.run() },
      PartService { [timeKeeper] in await timeKeeper.run() },
      PartService { [interval = options.keyInterval] in await parts.keys.run(every: interval) },
      application,
    ]
    // Of the payments log, SkippedWork does so, to continue skipped steps.
    if let simulator = parts.simulator { services.append(PartService.rechecking(simulator.follower.damage)) }
    if hasSimulatorListener {
      services.append(
        SimulatorListener(options: options, parts: parts, logger: quietLogger) { address.continuation.yield($0) })
    }
    if let tls { services.append(PartService.refreshing(tls, every: options.tlsInterval, logger)) }
    if let backups = parts.backups {
      services.append(PartService { [interval = options.backupInterval] in try await backups.run(every: interval) })
    }
    if let traces = exports.traces {
      services.append(PartService { await BackgroundThread.run { await traces.run() } })
    }
    if !options.switchedOff.contains(.processing) {
      services.append(Processing(options: options, parts: parts, address: address.stream, logger: logger))
    }
    if !options.switchedOff.contains(.webhooks) { services.append(parts.webhooks) }
    for broker in [parts.broker, parts.stepPublisher].compactMap({ $0 }) {
      services.append(PartService { await BackgroundThread.run { await broker.run() } })
    }
    services.append(
      // The last service is the first to be stopped, so its end begins the stop's deadline.
      PartService { [deadline] in
        defer { deadline.begin() }
        try await parts.start.run()
        // The end of one service would end the group.
        try await gracefulShutdown()
      })
    let stopSwitch = PartService { [stream = stops.stream] in _ = await stream.first { _ in true } }
    var configuration = ServiceGroupConfiguration(
      services: services.map { .init(service: $0) }
        + [.init(service: stopSwitch, successTerminationBehavior: .gracefullyShutdownGroup)],
      gracefulShutdownSignals: stopSignals, logger: quietLogger)
    configuration.maximumGracefulShutdownDuration = options.stopLimit * 0.8
    return ServiceGroup(configuration: configuration)
  }

  /// Runs `work` and wraps its error.
  private func wrapping<Value, Failure>(
    _ wrap: (Failure) -> ServerError, _ work: () throws(Failure) -> Value
  ) throws(ServerError) -> Value {
    do throws(Failure) {
      return try work()
    } catch {
      throw wrap(error)
    }
  }

  /// The address to open in a browser. A server that listens on all addresses is reached on this machine.
  static func url(host: String, port: Int, isTLS: Bool = false) -> String {
    let scheme = isTLS ? "https" : "http"
    return switch host {
    case "0.0.0.0": "\(scheme)://127.0.0.1:\(port)"
    case "::": "\(scheme)://[::1]:\(port)"
    default: "\(scheme)://\(ListenAddress.bracketed(host)):\(port)"
    }
  }
}
