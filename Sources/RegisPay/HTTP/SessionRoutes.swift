import Hummingbird
import LogStore

/// `GET /api/v1/session`: what the caller may do, and with which server it speaks. A page shows what its key allows.
struct SessionRoutes: Sendable {
  let storeID: String
  /// The services that this server simulates.
  let simulatesPSP: Bool
  let simulatesNotifications: Bool

  func add(to router: Routes) {
    router.handle("/api/v1/session", [.get: { _, context in show(context) }])
  }

  private func show(_ context: HTTPRequestContext) -> Response {
    // Without keys everybody may do everything.
    let scopes = KeyScope.allCases.filter { !context.needsKey || context.key?.scopes.contains($0) == true }
    return Response(json: [
      "key": context.key.map { .string($0.name) } ?? .null, "scopes": .array(scopes.map { .string($0.rawValue) }),
      "requiresKey": .bool(context.needsKey), "version": .string(LogStore.version), "storeId": .string(storeID),
      "simulator": [
        "psp": .bool(simulatesPSP), "notifications": .bool(simulatesNotifications),
      ],
    ])
  }
}
