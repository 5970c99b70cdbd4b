import Hummingbird
import LogStore
import Logging
import ServiceLifecycle

/// The simulated PSP and notification service as a server of its own, on one log in one directory: for a ``Server`` on another port or
/// machine that calls them as it would call real ones.
public struct SimulatorServer: Sendable {
  private let options: SimulatorOptions
  private let simulator: Simulator
  private let rules: AccessRules
  private let tls: ServerTLS?
  private let logger: Logger
  private let stops = AsyncStream<Void>.makeStream()
  private let deadline: StopDeadline

  /// Opens the log. Blocks while its tail is read.
  ///
  /// - Parameter logger: where lines go; ``SimulatorOptions/logLevel`` decides which do.
  public static func open(_ options: SimulatorOptions, logger: Logger) throws(ServerError) -> SimulatorServer {
    RequestThreads.start()
    var logger = logger
    logger.handler = LevelLogHandler(logger.handler, options.logLevel)
    // Before anything is created.
    try Server.checkDirectory(options.directory, for: .simulator)
    try Server.checkKeys(in: options.directory, host: options.host, isInsecure: options.isInsecure, logger)
    let tls = try Server.makeTLS(options.tls)
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeDirectory(options.directory)
    } catch {
      throw .directory(options.directory, reason: "\(error)")
    }
    do throws(LogStoreError) {
      let store = try LogStore.open(
        DataDirectory.ledger, in: options.directory, segmentBytes: options.segmentBytes, logger)
      return SimulatorServer(
        options: options,
        simulator: Simulator(store: store, name: DataDirectory.ledger, faults: options.faults, logger: logger),
        rules: AccessRules(
          listeningOn: options.host, allowedHosts: options.allowedHosts,
          requestsPerSecond: options.limits.requestsPerSecond),
        tls: tls, logger: logger, deadline: StopDeadline(options.stopLimit))
    } catch {
      throw .store(error)
    }
  }

  /// Ends ``run(onOverdue:onReady:)``. May be called from any thread at any time. The time of the stop is limited from the call on.
  public func stop() {
    deadline.begin()
    stops.continuation.yield()
  }

  /// Serves until ``stop()``. Then it finishes the requests in flight and closes the log. Call it once. Don't cancel its task: that
  /// cuts connections while they are being accepted, which the network library takes for a programming error.
  ///
  /// - Parameters:
  ///   - onOverdue: called on its own thread if a stop takes longer than ``SimulatorOptions/stopLimit`` because something hangs. The
  ///     process may then be ended, as by `kill -9`.
  ///   - onReady: called once with the address, such as `http://127.0.0.1:9090`, as soon as the simulator responds.
  public func run(
    onOverdue: @escaping @Sendable () -> Void = {}, onReady: @escaping @Sendable (String) -> Void
  ) async throws(ServerError) {
    deadline.start(onOverdue: onOverdue)
    defer { deadline.end() }
    var failure: ServerError?
    do throws(ServerError) {
      try await serve(onReady: onReady)
    } catch {
      failure = error
    }
    // Also after a failure, closing may take the time of a stop and no more.
    deadline.begin()
    do {
      try await simulator.store.close()
    } catch {
      failure = failure ?? .store(error)
    }
    if let failure { throw failure }
  }

  private func serve(onReady: @escaping @Sendable (String) -> Void) async throws(ServerError) {
    try WrongLog.check(options.directory + "/" + DataDirectory.ledger, simulator: simulator.reader)
    let keys: KeyWatch
    do throws(KeyStoreError) {
      keys = try KeyWatch(
        options.directory, log: simulator, isInsecure: options.isInsecure,
        health: Health(stores: [(DataDirectory.ledger, simulator.store)]), logger: logger)
    } catch {
      throw .keys(error)
    }
    let scrubbing: Scrubbing
    do throws(LogStoreError) {
      scrubbing = try Scrubbing(
        [(DataDirectory.ledger, simulator.store, simulator.follower.damage)],
        bytesPerSecond: options.scrubBytesPerSecond, logger: logger)
    } catch {
      throw .store(error)
    }
    defer { scrubbing.stop() }
    for found in simulator.store.recovery.damagedFiles { simulator.follower.damage.inspect(file: found.file) }
    logWarnings()
    do {
      try await serviceGroup(keys, onReady: onReady).run()
    } catch {
      if let failure = ServerError(error, host: options.host, port: options.port) { throw failure }
    }
  }

  private func logWarnings() {
    let clock = ClockWarnings(stores: [(DataDirectory.ledger, simulator.store)])
    let exposure = Exposure(directory: options.directory, isForGroup: false)
    for line in (tls?.warnings ?? []) + clock.lines + exposure.lines { logger.warning("\(line)") }
  }

  private func serviceGroup(_ keys: KeyWatch, onReady: @escaping @Sendable (String) -> Void) -> ServiceGroup {
    var quietLogger = logger
    quietLogger.handler = LibraryLogHandler(handler: logger.handler)
    // Stopped from the last to the first: the requests, and then what they use.
    var services: [any Service] = [
      PartService { [interval = options.keyInterval] in await keys.run(every: interval) },
      PartService.rechecking(simulator.follower.damage),
    ]
    if let tls { services.append(PartService.refreshing(tls, every: options.tlsInterval, logger)) }
    services.append(listener(keys, quietLogger, onReady: onReady))
    let stopSwitch = PartService { [stream = stops.stream] in _ = await stream.first { _ in true } }
    var configuration = ServiceGroupConfiguration(
      services: services.map { .init(service: $0) }
        + [.init(service: stopSwitch, successTerminationBehavior: .gracefullyShutdownGroup)],
      logger: quietLogger)
    configuration.maximumGracefulShutdownDuration = options.stopLimit * 0.8
    return ServiceGroup(configuration: configuration)
  }

  private func listener(
    _ keys: KeyWatch, _ logger: Logger, onReady: @escaping @Sendable (String) -> Void
  ) -> any Service {
    let absent = Set(RouteAccess.all.keys.filter { !SimulatorRoutes.isOwn($0, for: options.services) })
      .subtracting([HealthRoutes.alivePath])
    // No call comes from this process, so nothing has the token.
    let internalToken = InternalToken()
    let access = AccessMiddleware(
      keys: keys, internalToken: internalToken, rules: rules, isLoopback: options.isLoopback)
    let router = Routes(context: HTTPRequestContext.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: ProblemMiddleware { RouteAccess.methods(at: $0, absent: absent) })
    router.add(middleware: access)
    router.add(middleware: TargetMiddleware())
    HealthRoutes.addAlive(to: router)
    SimulatorRoutes(
      simulator: simulator, services: options.services, ledger: Ledger(follower: simulator.follower)
    ).add(to: router)
    let refusals = HeadRefusals(access: access, absent: absent)
    return HTTPListener(
      place: .address(host: options.host, port: options.port),
      connections: HTTPServerChannel(
        responder: router.buildResponder(), limits: options.limits, table: ConnectionTable(options.limits),
        internalToken: internalToken, checkHead: { head, channel in refusals.problem(with: head, from: channel) },
        metrics: HTTPMetrics(), tls: tls, logger: logger),
      logger: logger
    ) { [options] port in
      onReady(Server.url(host: options.host, port: port, isTLS: options.tls != nil))
    }
  }
}
