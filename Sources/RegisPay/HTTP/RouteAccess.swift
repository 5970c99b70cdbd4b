import HTTPTypes
import Hummingbird

/// What a request needs once API keys exist.
enum RouteAccess: Sendable, Hashable {
  /// Nothing.
  case open
  /// A key, whatever its scopes.
  case anyKey
  /// A key with this scope.
  case scope(KeyScope)
  /// A key with scope `operate`, or this server's internal token.
  case simulator

  /// Every route and what it needs. A route that is not listed is refused for every key, so adding a route requires a decision.
  static let all: [String: [HTTPRequest.Method: RouteAccess]] = [
    // The page is the same for everybody and contains no data; it requests its data with the key that a person enters.
    "/": [.get: .open],
    "/assets/{name}": [.get: .open],
    // For load balancers and supervisors, which have no keys.
    "/alive": [.get: .open],
    "/health": [.get: .open],
    "/metrics": [.get: .scope(.read)],
    "/api/payment/create": [.post: .scope(.write)],
    "/api/v1/payments": [.get: .scope(.read), .post: .scope(.write)],
    "/api/v1/payments/export": [.get: .scope(.read)],
    "/api/v1/payments/count": [.get: .scope(.read)],
    "/api/v1/payments/troubles": [.get: .scope(.read)],
    "/api/v1/payments/{id}": [.get: .scope(.read)],
    "/api/v1/payments/{id}/events": [.get: .scope(.read)],
    "/api/v1/payments/{id}/trace": [.get: .scope(.read)],
    // As all that concerns webhooks.
    "/api/v1/payments/{id}/deliveries": [.get: .scope(.operate)],
    "/api/v1/payments/{id}/cancel": [.post: .scope(.write)],
    "/api/v1/payments/{id}/refunds": [.post: .scope(.write)],
    "/api/v1/payments/{id}/retry": [.post: .scope(.operate)],
    "/api/v1/payments/{id}/resolve": [.post: .scope(.operate)],
    "/api/v1/batches": [.get: .scope(.read)],
    "/api/v1/batches/cancel": [.post: .scope(.write)],
    "/api/v1/batches/refund": [.post: .scope(.write)],
    "/api/v1/batches/retry": [.post: .scope(.operate)],
    "/api/v1/batches/{id}": [.get: .scope(.read)],
    // Needs the scope that beginning it needs: the route looks.
    "/api/v1/batches/{id}/stop": [.post: .anyKey],
    "/api/v1/events": [.get: .scope(.read)],
    "/api/v1/consumers": [.get: .scope(.read)],
    "/api/v1/consumers/{name}/try": [.post: .scope(.operate)],
    "/api/v1/actions": [.get: .scope(.read)],
    "/api/v1/settings": [.get: .scope(.operate)],
    "/api/v1/log": [.get: .scope(.read)],
    "/api/v1/log/events": [.get: .scope(.read)],
    "/api/v1/log/events/{offset}": [.get: .scope(.read)],
    // Tells a key what it may do.
    "/api/v1/session": [.get: .anyKey],
    // Whatever a key may do, the pages report with it.
    "/api/v1/csp-reports": [.post: .anyKey],
    "/api/v1/activity": [.get: .scope(.read)],
    "/api/v1/activity/stream": [.get: .scope(.read)],
    "/api/v1/keys": [.get: .scope(.operate), .post: .scope(.operate)],
    "/api/v1/keys/{id}": [.delete: .scope(.operate)],
    "/api/v1/logging": [.get: .scope(.operate), .put: .scope(.operate)],
    // The API's description is public.
    "/openapi.json": [.get: .open],
    // Webhook endpoints are operator data, so these routes need scope `operate`.
    "/api/v1/webhooks": [.get: .scope(.operate), .post: .scope(.operate)],
    "/api/v1/webhooks/{id}": [.get: .scope(.operate), .patch: .scope(.operate), .delete: .scope(.operate)],
    "/api/v1/webhooks/{id}/rotate": [.post: .scope(.operate)],
    "/api/v1/webhooks/{id}/test": [.post: .scope(.operate)],
    "/api/v1/webhooks/{id}/deliveries": [.get: .scope(.operate)],
    "/api/v1/webhooks/{id}/deliveries/{number}": [.get: .scope(.operate)],
    "/api/v1/webhooks/{id}/replay": [.post: .scope(.operate)],
    "/api/v1/broker/replay": [.post: .scope(.operate)],
    "/api/v1/broker/dead-letters/{step}/release": [.post: .scope(.operate)],
    "/api/v1/work/{step}": [.post: .scope(.work)],
    "/api/v1/work/{step}/outcome": [.post: .scope(.work)],
    "/psp/api/payments/create": [.post: .simulator],
    "/psp/api/payments/{reference}/settle": [.post: .simulator],
    "/psp/api/payments/{reference}/cancel": [.post: .simulator],
    "/psp/api/payments/{reference}/refunds": [.post: .simulator],
    "/notifications/api/send": [.post: .simulator],
    "/psp/api/faults": [.get: .scope(.read), .put: .scope(.operate), .delete: .scope(.operate)],
    "/notifications/api/faults": [.get: .scope(.read), .put: .scope(.operate), .delete: .scope(.operate)],
    "/toggle-errors": [.post: .scope(.operate)],
    "/psp/api/ledger": [.get: .scope(.read)],
  ]

  /// - Parameter path: a route's path, with its parameters' names.
  /// - Returns: nil for a route or method that is not listed.
  static func needed(_ path: String, _ method: HTTPRequest.Method) -> RouteAccess? {
    all[path]?[method == .head ? .get : method]
  }

  /// Routes with parameters: what is between their slashes.
  private static let patterns = all.keys.filter { $0.contains("{") }.map { ($0, $0.split(separator: "/")) }
  /// More parts than any route has.
  private static let partLimit = 1 + (patterns.map(\.1.count).max() ?? 0)

  /// The route that a path belongs to, which the router would find: extra slashes don't count. Nil if there is none. Linear in the
  /// number of routes with parameters, unless the path is a route's own.
  static func route(at path: String) -> String? {
    if all[path] != nil { return path }
    let parts = path.split(separator: "/", maxSplits: partLimit)
    let literal = "/" + parts.joined(separator: "/")
    if all[literal] != nil { return literal }
    return patterns.first { _, pattern in
      pattern.count == parts.count && zip(pattern, parts).allSatisfy { $0.hasPrefix("{") || $0 == $1 }
    }?.0
  }

  /// The methods that a path supports, including HEAD with GET, sorted by name; nil if there is no route.
  ///
  /// - Parameter absent: routes that this server does not have.
  static func methods(at path: String, absent: Set<String> = []) -> [HTTPRequest.Method]? {
    guard let route = route(at: path), !absent.contains(route), let methods = all[route]?.keys else { return nil }
    return (methods.contains(.get) ? methods + [.head] : Array(methods)).sorted { $0.rawValue < $1.rawValue }
  }
}
