import Foundation
import HTTPTypes
import Hummingbird
import NIOCore

/// Passes a request on to its route, or refuses it with 401, 403, 421 or 429. It stands before every route, including unknown ones.
struct AccessMiddleware: RouterMiddleware {
  let keys: KeyWatch
  let internalToken: InternalToken
  let rules: AccessRules
  /// Only programs on this machine can reach the server. While no key exists, they may read the reasons in `/health`.
  let isLoopback: Bool
  var proxies = TrustedProxies()
  var nowSeconds: @Sendable () -> Int64 = { Int64(Date().timeIntervalSince1970) }

  /// What a request's head says about its access.
  private struct Verdict {
    /// The client whose rate the request counts for; nil if it counts for none.
    var client: String?
    /// The request's key; nil if the route needs none and the request has no valid one.
    var result: Result<StoredKey?, Problem>
  }

  func handle(
    _ request: Request, context: HTTPRequestContext, next: (Request, HTTPRequestContext) async throws -> Response
  ) async throws -> Response {
    // No hop to another thread and no disk access: every request passes here.
    let ring = keys.ring
    let key = try admit(verdict(on: request.head, to: context.endpointPath, from: context.channel, ring))
    var known = context
    if ring.isEmpty {
      known.mayRead = isLoopback
      known.client = address(request.head, context.channel)
      known.isStillAllowed = { [keys] in keys.ring.isEmpty }
    } else {
      known.key = key
      known.needsKey = true
      known.owner = key.map { RequestOwner($0, in: ring) } ?? .everybody
      known.mayRead = key?.scopes.contains(.read) ?? false
      known.client = key.map { "key \($0.id)" } ?? address(request.head, context.channel)
      if let key {
        known.isStillAllowed = { [keys, nowSeconds] in
          keys.ring.entries[key.id].map { $0.key.hash == key.hash && $0.key.isValid(atSeconds: nowSeconds()) } ?? false
        }
      }
    }
    return try await next(request, known)
  }

  /// Refuses what ``handle(_:context:next:)`` would refuse, before the request's body arrives. Only a refused request counts for the
  /// client's rate here; another one counts when its body is complete.
  ///
  /// - Parameter route: the route's path; nil if there is none.
  func checkHead(_ head: HTTPRequest, to route: String?, from channel: any Channel) throws(Problem) {
    let verdict = verdict(on: head, to: route, from: channel, keys.ring)
    if case .failure = verdict.result { _ = try admit(verdict) }
  }

  private func admit(_ verdict: Verdict) throws(Problem) -> StoredKey? {
    if let client = verdict.client, let rate = rules.current.rate { try take(rate, client) }
    return try verdict.result.get()
  }

  private func verdict(
    on head: HTTPRequest, to route: String?, from channel: any Channel, _ ring: KeyRing
  ) -> Verdict {
    let authorization = head.headerFields[.authorization]
    let isInternal = authorization.map(internalToken.matches) ?? false
    // Nil if there is no route. The 404 for it also requires a key, with any scope.
    let needed = route.map { RouteAccess.needed($0, head.method) }
    let isOpen = if case .some(.some(.open)) = needed { true } else { false }
    guard !ring.isEmpty else {
      do throws(Problem) {
        try rules.current.browser.check(head, isPage: isOpen)
        return Verdict(client: isInternal ? nil : address(head, channel), result: .success(nil))
      } catch {
        return Verdict(client: nil, result: .failure(error))
      }
    }
    guard let authorization else {
      return Verdict(
        client: address(head, channel),
        result: isOpen ? .success(nil) : .failure(Self.unauthorized("This needs a key.")))
    }
    if isInternal {
      guard case .some(.some(.simulator)) = needed else {
        return Verdict(client: nil, result: .failure(Self.unauthorized("This needs a key.")))
      }
      return Verdict(client: nil, result: .success(nil))
    }
    do throws(KeyRing.Refusal) {
      guard let token = Self.bearer(authorization) else { throw .malformed }
      let key = try ring.find(token, atSeconds: nowSeconds())
      return Verdict(client: key.id, result: Result { () throws(Problem) in try Self.check(key, for: needed) })
    } catch {
      return Verdict(client: address(head, channel), result: isOpen ? .success(nil) : .failure(Self.problem(error)))
    }
  }

  /// - Returns: the key, which has the scope that the route needs.
  private static func check(_ key: StoredKey, for needed: RouteAccess??) throws(Problem) -> StoredKey {
    guard let needed else { return key }
    let scope: KeyScope
    switch needed {
    case .scope(let needed): scope = needed
    case .simulator: scope = .operate
    case .open, .anyKey: return key
    // A method that is not listed is refused.
    case nil:
      throw Problem(status: .forbidden, name: "forbidden", detail: "No key may do this.")
    }
    guard key.scopes.contains(scope) else { throw forbidden(scope) }
    return key
  }

  private func take(_ rate: RateLimiter, _ client: String) throws(Problem) {
    guard let wait = rate.take(client) else { return }
    let seconds = max(
      1, Int((Double(wait.components.seconds) + Double(wait.components.attoseconds) / 1e18).rounded(.up)))
    throw Problem(
      status: .tooManyRequests, name: "too-many-requests", detail: "Nothing was done; try again in \(seconds) s.",
      headers: [.init(name: .retryAfter, value: "\(seconds)")])
  }

  private func address(_ head: HTTPRequest, _ channel: any Channel) -> String {
    channel.remoteAddress.map { proxies.client(head.headerFields, from: $0).text } ?? "unknown"
  }

  private static func bearer(_ authorization: String) -> Substring? {
    let parts = authorization.split(separator: " ", maxSplits: 1)
    guard parts.count == 2, parts[0].lowercased() == "bearer" else { return nil }
    return parts[1]
  }

  private static func problem(_ refusal: KeyRing.Refusal) -> Problem {
    switch refusal {
    case .malformed: unauthorized("The Authorization field must be Bearer and a complete key, rp_….", isInvalid: true)
    case .invalid: unauthorized("The key does not exist, was revoked, or has expired.", isInvalid: true)
    }
  }

  private static func unauthorized(_ detail: String, isInvalid: Bool = false) -> Problem {
    Problem(
      status: .unauthorized, name: "unauthorized", detail: detail,
      headers: [
        .init(
          name: .wwwAuthenticate, value: "Bearer realm=\"RegisPay\"" + (isInvalid ? ", error=\"invalid_token\"" : ""))
      ])
  }

  static func forbidden(_ scope: KeyScope) -> Problem {
    Problem(
      status: .forbidden, name: "insufficient-scope", detail: "This needs a key with the scope \(scope.rawValue).",
      headers: [
        .init(
          name: .wwwAuthenticate,
          value: "Bearer realm=\"RegisPay\", error=\"insufficient_scope\", scope=\"\(scope.rawValue)\"")
      ])
  }
}
