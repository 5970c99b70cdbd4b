import Hummingbird

/// The API's description, for people and programs. A test compares its routes with the server's.
struct OpenAPIRoutes: Sendable {
  func add(to router: Routes) {
    router.handle(
      "/openapi.json",
      [.get: { _, _ in Response(bytes: PackageResources.openapi_json, contentType: "application/json; charset=utf-8") }]
    )
  }
}
