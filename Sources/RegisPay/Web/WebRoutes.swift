import HTTPTypes
import Hummingbird

/// The page for people at `/`, which needs nothing but this server.
struct WebRoutes: Sendable {
  func add(to router: Routes) {
    router.answer(
      "/",
      [
        .get: { request, _ in
          let accepted = request.headers[.accept]?.lowercased() ?? ""
          guard accepted.contains("text/html") else {
            var response = Response(text: "Hello from RegisPay!\n")
            response.headers[.vary] = "Accept"
            return response
          }
          return asset(Page.html, "text/html")
        }
      ])
    router.answer("/assets/page.css", [.get: { _, _ in asset(Page.style, "text/css") }])
    router.answer("/assets/page.js", [.get: { _, _ in asset(Page.script, "text/javascript") }])
  }

  private func asset(_ text: String, _ type: String) -> Response {
    var response = Response(bytes: Array(text.utf8), contentType: "\(type); charset=utf-8")
    response.headers[.vary] = "Accept"
    // Nothing from elsewhere and nothing inline runs, whatever text a payment carries.
    response.headers[.contentSecurityPolicy] =
      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
      + "form-action 'self'; frame-ancestors 'none'"
    return response
  }
}

/// The page's texts.
enum Page {}
