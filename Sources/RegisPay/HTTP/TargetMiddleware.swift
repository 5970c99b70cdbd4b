import Hummingbird

/// Refuses targets that are almost a route: with an extra slash, which the router would ignore, or with a parameter that the route
/// doesn't know. `POST …/refunds?amount=1` without a body would refund everything.
///
/// Routes that are open to everybody, such as the page and `/health`, ignore parameters: links and supervisors add some.
struct TargetMiddleware: RouterMiddleware {
  /// Routes that read the parameters of a GET and refuse unknown ones themselves.
  private static let reading: Set = ["/api/v1/payments", "/api/v1/events", "/api/v1/webhooks/{id}/deliveries"]

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    let path = request.uri.path
    if path.count > 1, path.hasSuffix("/") || path.contains("//") {
      throw Problem.notFound("There is nothing at \(path): it has an extra slash.")
    }
    guard request.uri.query?.isEmpty == false, let route = context.endpointPath else {
      return try await next(request, context)
    }
    let isReading = request.method == .get || request.method == .head
    let access = RouteAccess.needed(route, request.method)
    guard isReading, Self.reading.contains(route) || access == .open else {
      let name = request.uri.queryParameters.first.map { String($0.key) } ?? request.uri.query ?? ""
      throw Problem.badRequest("This route has no parameter \(name.debugDescription); nothing was done.")
    }
    return try await next(request, context)
  }
}
