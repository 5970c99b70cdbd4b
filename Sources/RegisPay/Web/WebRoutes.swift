import HTTPTypes
import Hummingbird

/// The web page at `/`. Its files are embedded in the binary, and it loads nothing from another server.
struct WebRoutes: Sendable {
  /// Without it, `/` still says hello.
  let hasPage: Bool

  /// The routes that exist with the page only.
  static let assets: Set = ["/assets/page.css", "/assets/page.js"]

  func add(to router: Routes) {
    router.handle(
      "/",
      [
        .get: { request, _ in
          let accepted = request.headers[.accept]?.lowercased() ?? ""
          guard hasPage, accepted.contains("text/html") else {
            var response = Response(text: "Hello from RegisPay!\n")
            response.headers[.vary] = "Accept"
            return response
          }
          return asset(PackageResources.page_html, "text/html")
        }
      ])
    guard hasPage else { return }
    router.handle("/assets/page.css", [.get: { _, _ in asset(PackageResources.page_css, "text/css") }])
    router.handle("/assets/page.js", [.get: { _, _ in asset(PackageResources.page_js, "text/javascript") }])
  }

  private func asset(_ bytes: [UInt8], _ type: String) -> Response {
    var response = Response(bytes: bytes, contentType: "\(type); charset=utf-8")
    response.headers[.vary] = "Accept"
    // No inline code and no code from elsewhere runs, whatever text a payment contains.
    response.headers[.contentSecurityPolicy] =
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
      + "form-action 'self'; frame-ancestors 'none'"
    return response
  }
}
