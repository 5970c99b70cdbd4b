import Glibc
import Hummingbird
import Logging
import NIOCore
import ServiceLifecycle

/// A listener of its own for `/metrics` and `/alive`, without keys: for a scraper that has none (`--metrics-address`).
struct MetricsListener: Service {
  /// Connections; scrapers need a few. The descriptors for all others are shared out already.
  private static let connectionLimit = 64

  let address: ServerOptions.Address
  let options: ServerOptions
  let rules: AccessRules
  let routes: MetricsRoutes
  let metrics: HTTPMetrics
  let logger: Logger
  /// For the line that says where it listens; `logger` is that of the network's libraries.
  let notices: Logger
  /// Called once it listens.
  let onRunning: @Sendable () -> Void

  func run() async throws {
    do {
      try await listener().run()
    } catch let error as IOError where error.errnoCode == EADDRINUSE {
      throw ServerError.addressInUse(host: address.host, port: address.port, option: "--metrics-address")
    } catch let error as IOError {
      throw ServerError.listen(host: address.host, port: address.port, reason: error.description)
    }
  }

  private func listener() -> any Service {
    let router = Routes(context: HTTPRequestContext.self, options: .autoGenerateHeadEndpoints)
    router.add(
      middleware: ProblemMiddleware { path in
        [MetricsRoutes.path, HealthRoutes.alivePath].contains(path) ? RouteAccess.methods(at: path) : nil
      })
    router.add(middleware: BrowserMiddleware(rules: rules))
    router.add(middleware: TargetMiddleware())
    routes.add(to: router)
    HealthRoutes.addAlive(to: router)
    let responder = router.buildResponder()
    let table = ConnectionTable(
      limit: min(Self.connectionLimit, options.limits.connectionsPossible),
      limitPerAddress: options.limits.connectionsPerAddress, unreadBytes: options.limits.unreadBytes)
    return HTTPListener(
      place: .address(host: address.host, port: address.port),
      connections: HTTPServerChannel(
        responder: responder, limits: options.limits, table: table, internalToken: InternalToken(), checkHead: nil,
        metrics: metrics, logger: logger),
      logger: logger
    ) { [address, notices, onRunning] port in
      notices.notice("metrics are at \(Server.url(host: address.host, port: port))\(MetricsRoutes.path)")
      onRunning()
    }
  }
}

/// Refuses requests of other sites' pages, as the main listener does while it asks for no key.
private struct BrowserMiddleware: RouterMiddleware {
  let rules: AccessRules

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    try rules.current.browser.check(request.head, isPage: false)
    return try await next(request, context)
  }
}
