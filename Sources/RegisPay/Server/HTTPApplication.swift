import Hummingbird
import Logging
import NIOCore
import ServiceLifecycle

/// Builds the HTTP side of a server: routes, middlewares and the listening socket.
struct HTTPApplication {
  let options: ServerOptions
  let rules: AccessRules
  let tls: ServerTLS?
  let logger: Logger

  /// - Parameters:
  ///   - begin: the server does not listen before this returns.
  ///   - onRunning: called with the address once the server listens.
  func make(
    _ parts: ServerParts, activity: Activity, metrics: MetricsRoutes, begin: @escaping @Sendable () async -> Void,
    onRunning: @escaping @Sendable (String) -> Void
  ) -> any Service {
    let access = access(parts)
    let slots = StreamSlots(options.limits)
    let reports = PolicyReports(logger: logger)
    let routes = routes(parts, access, reports)
    EventRoutes(follower: parts.log.follower, slots: slots).add(to: routes)
    ActivityRoutes(activity: activity, slots: slots).add(to: routes)
    metrics.add(to: routes)
    let responder = routes.buildResponder()
    let refusals = HeadRefusals(access: access, absent: absent)
    let (limits, internalToken, httpMetrics) = (options.limits, parts.internalToken, parts.httpMetrics)
    let table = ConnectionTable(limits, proxies: options.trustedProxies)
    let connections = HTTPServerChannel(
      responder: responder, limits: limits, table: table, internalToken: internalToken,
      checkHead: { head, channel in refusals.problem(with: head, from: channel) }, metrics: httpMetrics,
      tls: tls, logger: logger)
    let streams = connections.streams
    parts.registry.add {
      [
        .gauge("regispay_http_connections", "Open connections of clients.", table.count),
        .gauge("regispay_http2_streams", "Open requests on connections that speak HTTP/2.", streams.count),
        .gauge(
          "regispay_http_unread_bytes", "Responses that wait in memory for clients that don't read.",
          table.unread.byteCount),
        .gauge(
          "regispay_http_unfinished_head_bytes", "Heads in memory that have not arrived completely.",
          table.unfinishedHeads.byteCount),
        .gauge(
          "regispay_http_unfinished_body_bytes", "Bodies in memory that have not arrived completely.",
          table.unfinishedBodies.byteCount),
        .gauge("regispay_event_streams", "Open event streams.", slots.count),
        .counter(
          "regispay_page_policy_violations",
          "Violations of the pages' Content-Security-Policy that browsers have reported.", reports.count.value),
      ]
    }
    return HTTPListener(
      place: options.socket.map { .socket($0) } ?? .address(host: options.host, port: options.port),
      connections: connections, logger: logger, begin: begin
    ) { [options] port in
      onRunning(Server.url(host: options.host, port: port, isTLS: options.tls != nil))
    }
  }

  private func routes(_ parts: ServerParts, _ access: AccessMiddleware, _ reports: PolicyReports) -> Routes {
    let routes = Routes(context: HTTPRequestContext.self, options: .autoGenerateHeadEndpoints)
    routes.add(middleware: ProblemMiddleware { [absent] in RouteAccess.methods(at: $0, absent: absent) })
    routes.add(middleware: access)
    routes.add(middleware: TargetMiddleware())
    let (log, projection) = (parts.log, parts.projection)
    let actions = ActionLog(log: log, logger: logger)
    WebRoutes(hasPages: hasPages, reports: reports).add(to: routes)
    HealthRoutes(health: parts.health).add(to: routes)
    PaymentRoutes(
      log: log, requests: IdempotencyStore(log: log, lifetime: options.requestLifetime),
      projection: projection, retryStatus: parts.retryStatus, traceResource: options.tracing.resource
    ).add(to: routes)
    ExportRoutes(projection: projection, retryStatus: parts.retryStatus).add(to: routes)
    BatchRoutes(batches: parts.batches, projection: projection, actions: actions).add(to: routes)
    ConsumerRoutes(
      log: log, consumers: parts.consumers, broker: parts.broker, stepPublisher: parts.stepPublisher,
      retryStatus: parts.retryStatus,
      projection: projection, actions: actions, logger: logger
    ).add(to: routes)
    LogRoutes(
      log: log, directory: options.directory + "/payments",
      scrub: { [scrubbing = parts.scrubbing] in scrubbing.report(of: "payments") },
      backup: { [backups = parts.backups] in backups?.shown }
    ).add(to: routes)
    LogEventRoutes(follower: log.follower).add(to: routes)
    KeyRoutes(keys: parts.keys, actions: actions, logger: logger).add(to: routes)
    ActionRoutes(follower: log.follower).add(to: routes)
    LoggingRoutes(level: options.logLevel, actions: actions).add(to: routes)
    SettingsRoutes(settings: options.settings).add(to: routes)
    let services = options.simulatedServices
    SessionRoutes(
      storeID: log.reader.storeID, simulatesPSP: services.contains(.psp),
      simulatesNotifications: services.contains(.notifications)
    ).add(to: routes)
    OpenAPIRoutes().add(to: routes)
    WebhookRoutes(webhooks: parts.webhooks, actions: actions).add(to: routes)
    BrokerRoutes(broker: parts.broker, stepPublisher: parts.stepPublisher, actions: actions).add(to: routes)
    WorkRoutes(consumers: parts.consumers).add(to: routes)
    if let simulator = parts.simulator {
      SimulatorRoutes(
        simulator: simulator, services: options.simulatedServices, ledger: Ledger(follower: simulator.follower),
        actions: actions
      ).add(to: routes)
    }
    return routes
  }

  private var hasPages: Bool { !options.switchedOff.contains(.web) }

  /// Routes of parts that this server does without.
  private var absent: Set<String> {
    let services = options.simulatedServices
    return Set(RouteAccess.all.keys.filter { !SimulatorRoutes.isServed($0, by: services) })
      .union(hasPages ? [] : WebRoutes.pageRoutes)
  }

  private func access(_ parts: ServerParts) -> AccessMiddleware {
    AccessMiddleware(
      keys: parts.keys, internalToken: parts.internalToken, rules: rules, isLoopback: options.isLoopback,
      proxies: options.trustedProxies)
  }
}

extension ConnectionTable {
  /// For a listener that clients reach.
  convenience init(_ limits: HTTPLimits, proxies: TrustedProxies = .init()) {
    self.init(
      limit: limits.connectionsPossible, limitPerAddress: limits.connectionsPerAddress, proxies: proxies,
      unreadBytes: limits.unreadBytes,
      unfinishedHeads: HeldBytes(
        .refusal(.head), limit: limits.unfinishedHeadBytes, onEmptied: Allocator.returnFreedSoon),
      unfinishedBodies: HeldBytes(
        .refusal(.body), limit: limits.unfinishedBodyBytes, onEmptied: Allocator.returnFreedSoon))
  }
}

extension AccessRules {
  convenience init(_ options: ServerOptions, listeningOn host: String) {
    self.init(
      listeningOn: host, allowedHosts: options.allowedHosts, requestsPerSecond: options.limits.requestsPerSecond)
  }
}
