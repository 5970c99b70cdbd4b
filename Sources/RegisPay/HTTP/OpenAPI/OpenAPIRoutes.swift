import Hummingbird

/// The API's description, for people and programs; the tests hold the server to it.
struct OpenAPIRoutes: Sendable {
  func add(to router: Routes) {
    router.answer(
      "/openapi.json",
      [.get: { _, _ in Response(bytes: PackageResources.openapi_json, contentType: "application/json; charset=utf-8") }]
    )
  }
}
