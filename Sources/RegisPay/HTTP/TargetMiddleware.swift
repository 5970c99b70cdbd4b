import HTTPTypes
import Hummingbird
import HummingbirdCore

/// Refuses targets that are almost a route: with an extra slash, which the router would ignore, or with a parameter that the route
/// doesn't know. `POST …/refunds?amount=1` without a body would refund everything.
///
/// Routes that are open to everybody, such as the page and `/health`, ignore parameters: links and supervisors add some.
struct TargetMiddleware: RouterMiddleware {
  /// Routes that read the parameters of a GET and refuse unknown ones themselves.
  private static let reading: Set = [
    "/api/v1/payments", "/api/v1/payments/{id}", "/api/v1/payments/export", "/api/v1/payments/count",
    "/api/v1/payments/troubles",
    "/api/v1/actions", "/api/v1/events", "/api/v1/log/events", "/api/v1/webhooks/{id}/deliveries",
  ]

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    try Self.check(request.uri, of: request.method, to: context.endpointPath)
    return try await next(request, context)
  }

  /// - Parameter route: the route's path; nil if there is none.
  /// - Throws: 404 for an extra slash, 400 for an unknown parameter.
  static func check(_ uri: URI, of method: HTTPRequest.Method, to route: String?) throws(Problem) {
    let path = uri.path
    if path.count > 1, path.hasSuffix("/") || path.contains("//") {
      throw Problem.notFound("There is nothing at \(path): it has an extra slash.")
    }
    guard uri.query?.isEmpty == false, let route else { return }
    let isReading = method == .get || method == .head
    guard isReading, Self.reading.contains(route) || RouteAccess.needed(route, method) == .open else {
      let name = uri.formParameters.first.map { String($0.key) } ?? uri.query ?? ""
      throw Problem.badRequest("This route has no parameter \(name.debugDescription); nothing was done.")
    }
  }
}
