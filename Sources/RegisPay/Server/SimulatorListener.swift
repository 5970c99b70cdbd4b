import Hummingbird
import Logging
import NIOCore
import ServiceLifecycle

/// A listener of its own for the server's calls to its simulators, while the main one speaks TLS: on a loopback address, with the
/// simulators' routes only, and only with this server's token. The calls would have to trust the server's own certificate, and show
/// one of a client.
struct SimulatorListener: Service {
  /// Connections; more than the consumers' calls.
  private static let connectionLimit = 8_192

  let options: ServerOptions
  let parts: ServerParts
  let logger: Logger
  /// Called with the address once it listens.
  let onRunning: @Sendable (String) -> Void

  func run() async throws {
    guard let simulator = parts.simulator else { return }
    let router = Routes(context: HTTPRequestContext.self)
    router.add(middleware: ProblemMiddleware { _ in nil })
    router.add(middleware: TokenMiddleware(token: parts.internalToken))
    router.add(middleware: TargetMiddleware())
    SimulatorRoutes(
      simulator: simulator, services: options.simulatedServices, ledger: Ledger(follower: simulator.follower)
    ).add(to: router)
    let responder = router.buildResponder()
    let table = ConnectionTable(
      limit: min(Self.connectionLimit, options.limits.connectionsPossible), limitPerAddress: nil,
      unreadBytes: options.limits.unreadBytes)
    let listener = HTTPListener(
      place: .address(host: "127.0.0.1", port: 0),
      connections: HTTPServerChannel(
        responder: responder, limits: options.limits, table: table, internalToken: parts.internalToken, checkHead: nil,
        metrics: parts.httpMetrics, logger: logger),
      logger: logger
    ) { [onRunning] port in onRunning("http://127.0.0.1:\(port)") }
    do {
      try await listener.run()
    } catch let error as IOError {
      throw ServerError.listen(host: "127.0.0.1", port: 0, reason: error.description)
    }
  }
}

/// Lets in who has the server's own token.
private struct TokenMiddleware: RouterMiddleware {
  let token: InternalToken

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    guard let field = request.headers[.authorization], token.matches(field) else {
      throw Problem(status: .unauthorized, name: "unauthorized", detail: "This is for the server itself.")
    }
    return try await next(request, context)
  }
}
