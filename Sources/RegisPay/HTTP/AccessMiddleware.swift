import Foundation
import HTTPTypes
import Hummingbird
import NIOCore

/// Passes a request on to its route, or refuses it with 401, 403, 421 or 429. It stands before every route, including unknown ones.
struct AccessMiddleware: RouterMiddleware {
  let keys: KeyWatch
  let internalToken: InternalToken
  let browser: BrowserProtection
  /// Only programs on this machine can reach the server. While no key exists, they may read the reasons in `/health`.
  let isLoopback: Bool
  /// Nil for no limit.
  let rate: RateLimiter?
  var nowSeconds: @Sendable () -> Int64 = { Int64(Date().timeIntervalSince1970) }

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    // No hop to another thread and no disk access: every request passes here.
    let ring = keys.ring
    var known = context
    if ring.isEmpty {
      try browser.check(request.head, isPage: Self.isOpen(context.endpointPath, request.method))
      if let rate, !isInternal(request) { try take(rate, address(context)) }
      known.mayRead = isLoopback
      known.client = address(context)
      known.isStillAllowed = { [keys] in keys.ring.isEmpty }
    } else {
      let key = try check(request, context, ring)
      known.owner = key.map { RequestOwner($0, in: ring) } ?? .everybody
      known.mayRead = key?.scopes.contains(.read) ?? false
      known.client = key.map { "key \($0.id)" } ?? address(context)
      if let key {
        known.isStillAllowed = { [keys, nowSeconds] in
          keys.ring.entries[key.id].map { $0.key.hash == key.hash && $0.key.isValid(atSeconds: nowSeconds()) } ?? false
        }
      }
    }
    return try await next(request, known)
  }

  /// The route needs no key.
  private static func isOpen(_ path: String?, _ method: HTTPRequest.Method) -> Bool {
    guard let path, case .open? = RouteAccess.needed(path, method) else { return false }
    return true
  }

  /// - Returns: the request's key; nil if the route needs none and the request has no valid one.
  private func check(_ request: Request, _ context: HTTPRequestContext, _ ring: KeyRing) throws(Problem) -> StoredKey? {
    // Nil if there is no route. The 404 for it also requires a key, with any scope.
    let path = context.endpointPath
    let needed = path.map { RouteAccess.needed($0, request.method) }
    let isOpen = Self.isOpen(path, request.method)
    guard let authorization = request.headers[.authorization] else {
      if let rate { try take(rate, address(context)) }
      guard isOpen else { throw Self.unauthorized("This needs a key.") }
      return nil
    }
    if internalToken.matches(authorization) {
      guard case .some(.some(.simulator)) = needed else { throw Self.unauthorized("This needs a key.") }
      return nil
    }
    let key: StoredKey
    do throws(KeyRing.Refusal) {
      guard let token = Self.bearer(authorization) else { throw .malformed }
      key = try ring.find(token, atSeconds: nowSeconds())
    } catch {
      if let rate { try take(rate, address(context)) }
      if isOpen { return nil }
      throw switch error {
      case .malformed:
        Self.unauthorized("The Authorization field must be Bearer and a complete key, rp_….", isInvalid: true)
      case .invalid: Self.unauthorized("The key does not exist, was revoked, or has expired.", isInvalid: true)
      }
    }
    if let rate { try take(rate, key.id) }
    guard let needed else { return key }
    let scope: KeyScope
    switch needed {
    case .scope(let needed): scope = needed
    case .simulator: scope = .operate
    case .open: return key
    // A method that is not listed is refused.
    case nil:
      throw Problem(status: .forbidden, name: "forbidden", detail: "No key may do this.")
    }
    guard key.scopes.contains(scope) else { throw Self.forbidden(scope) }
    return key
  }

  private func isInternal(_ request: Request) -> Bool {
    request.headers[.authorization].map(internalToken.matches) ?? false
  }

  private func take(_ rate: RateLimiter, _ client: String) throws(Problem) {
    guard let wait = rate.take(client) else { return }
    let seconds = max(
      1, Int((Double(wait.components.seconds) + Double(wait.components.attoseconds) / 1e18).rounded(.up)))
    throw Problem(
      status: .tooManyRequests, name: "too-many-requests", detail: "Nothing was done; try again in \(seconds) s.",
      headers: [.init(name: .retryAfter, value: "\(seconds)")])
  }

  private func address(_ context: HTTPRequestContext) -> String {
    context.channel.remoteAddress.map(ClientAddress.init)?.text ?? "unknown"
  }

  private static func bearer(_ authorization: String) -> Substring? {
    let parts = authorization.split(separator: " ", maxSplits: 1)
    guard parts.count == 2, parts[0].lowercased() == "bearer" else { return nil }
    return parts[1]
  }

  private static func unauthorized(_ detail: String, isInvalid: Bool = false) -> Problem {
    Problem(
      status: .unauthorized, name: "unauthorized", detail: detail,
      headers: [
        .init(
          name: .wwwAuthenticate, value: "Bearer realm=\"RegisPay\"" + (isInvalid ? ", error=\"invalid_token\"" : ""))
      ])
  }

  private static func forbidden(_ scope: KeyScope) -> Problem {
    Problem(
      status: .forbidden, name: "insufficient-scope", detail: "This needs a key with the scope \(scope.rawValue).",
      headers: [
        .init(
          name: .wwwAuthenticate,
          value: "Bearer realm=\"RegisPay\", error=\"insufficient_scope\", scope=\"\(scope.rawValue)\"")
      ])
  }
}
