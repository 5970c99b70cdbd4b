import Hummingbird

/// The API's description, for people and programs; a test holds its routes to the server's.
struct OpenAPIRoutes: Sendable {
  func add(to router: Routes) {
    router.answer(
      "/openapi.json",
      [.get: { _, _ in Response(bytes: PackageResources.openapi_json, contentType: "application/json; charset=utf-8") }]
    )
  }
}
