import Crypto
import HTTPTypes
import Hummingbird

/// The operator's pages at `/`. Their files are embedded in the binary, and they load nothing from another server.
struct WebRoutes: Sendable {
  /// Without the pages, `/` still says hello.
  let hasPages: Bool
  let reports: PolicyReports

  private static let assetRoute = "/assets/{name}"
  /// The routes that exist with the pages only.
  static let pageRoutes: Set = [assetRoute, PolicyReports.route]

  private static let page = WebAsset(PackageResources.page_html, "text/html")
  private static let assets: [String: WebAsset] = {
    let modules = [
      "actions": PackageResources.actions_js, "api": PackageResources.api_js, "batches": PackageResources.batches_js,
      "create": PackageResources.create_js,
      "dom": PackageResources.dom_js,
      "format": PackageResources.format_js, "live": PackageResources.live_js, "log": PackageResources.log_js,
      "main": PackageResources.main_js, "overview": PackageResources.overview_js,
      "parts": PackageResources.parts_js, "payment": PackageResources.payment_js,
      "payments": PackageResources.payments_js, "processing": PackageResources.processing_js,
      "settings": PackageResources.settings_js, "simulator": PackageResources.simulator_js,
      "system": PackageResources.system_js, "text": PackageResources.text_js, "text-de": PackageResources.text_de_js,
      "text-en": PackageResources.text_en_js, "webhooks": PackageResources.webhooks_js,
    ]
    var assets = ["page.css": WebAsset(PackageResources.page_css, "text/css")]
    for (name, bytes) in modules { assets["\(name).js"] = WebAsset(bytes, "text/javascript") }
    return assets
  }()

  func add(to router: Routes) {
    router.handle(
      "/",
      [
        .get: { request, _ in
          let accepted = request.headers[.accept]?.lowercased() ?? ""
          guard hasPages, accepted.contains("text/html") else {
            var response = Response(text: "Hello from RegisPay!\n")
            response.headers[.vary] = "Accept"
            return response
          }
          var response = Self.page.response(to: request)
          response.headers[.vary] = "Accept"
          // No inline code and no code from elsewhere runs, and no text becomes markup, whatever a payment contains.
          response.headers[.contentSecurityPolicy] =
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
            + "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
          return response
        }
      ])
    guard hasPages else { return }
    reports.add(to: router)
    router.handle(
      RouterPath(Self.assetRoute),
      [
        .get: { request, context in
          guard let asset = Self.assets[context.parameters.get("name") ?? ""] else {
            throw Problem.notFound("The pages have no such file.")
          }
          return asset.response(to: request)
        }
      ])
  }
}

/// A file of the pages.
private struct WebAsset: Sendable {
  private let bytes: [UInt8]
  private let contentType: String
  /// Of the content, so that a browser asks again after an upgrade and gets 304 otherwise.
  private let tag: String

  init(_ bytes: [UInt8], _ type: String) {
    self.bytes = bytes
    contentType = "\(type); charset=utf-8"
    let digits = Array("0123456789abcdef")
    tag =
      "\"" + String(SHA256.hash(data: bytes).prefix(16).flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }) + "\""
  }

  func response(to request: Request) -> Response {
    let known =
      request.headers[.ifNoneMatch]?.split(separator: ",").map { $0.trimmingPrefix(while: \.isWhitespace) } ?? []
    var response =
      known.contains { $0 == tag } ? Response(status: .notModified) : Response(bytes: bytes, contentType: contentType)
    response.headers[.eTag] = tag
    response.headers[.cacheControl] = "no-cache"
    return response
  }
}
