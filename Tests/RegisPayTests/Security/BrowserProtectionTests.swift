import HTTPTypes
import Testing

@testable import RegisPay

@Suite("Protection from web pages")
struct BrowserProtectionTests {
  private func status(
    _ method: HTTPRequest.Method, _ authority: String?, _ fields: HTTPFields = [:],
    _ protection: BrowserProtection = .init(listeningOn: "127.0.0.1", allowedHosts: ["Pay.example"]),
    isPage: Bool = false
  ) -> Int? {
    do {
      try protection.check(
        HTTPRequest(method: method, scheme: "http", authority: authority, path: "/", headerFields: fields),
        isPage: isPage)
      return nil
    } catch {
      return error.status.code
    }
  }

  @Test(
    "only requests for this machine's names and allowed names are accepted",
    arguments: [
      ("127.0.0.1:8080", true), ("localhost", true), ("LOCALHOST:1", true), ("[::1]:8080", true), ("[::1]", true),
      ("pay.example:443", true), ("evil.example", false), ("evil.example:8080", false),
      ("127.0.0.1.evil.example", false),
      ("localhost@evil.example", false), ("", false), (":8080", false), ("[::2]:8080", false),
    ])
  func host(_ host: String, _ isAllowed: Bool) {
    #expect(status(.get, host) == (isAllowed ? nil : 421))
  }

  @Test(
    "what another site asks for is refused, reading too; this server's page and other programs are not",
    arguments: [HTTPRequest.Method.get, .head, .post, .put, .delete, .options])
  func crossOrigin(_ method: HTTPRequest.Method) {
    let host = "127.0.0.1:8080"
    #expect(status(method, host) == nil)
    #expect(status(method, nil) == nil)
    #expect(status(method, host, [.secFetchSite: "same-origin", .origin: "http://127.0.0.1:8080"]) == nil)
    #expect(status(method, host, [.secFetchSite: "none"]) == nil)
    #expect(status(method, host, [.origin: "https://127.0.0.1:8080"]) == nil)
    #expect(status(method, host, [.referer: "http://127.0.0.1:8080/?status=Failed"]) == nil)
    // Pictures, scripts, frames, `fetch` in any mode: none of them.
    for site in ["cross-site", "same-site", "x", "same-origin, cross-site"] {
      #expect(status(method, host, [.secFetchSite: site]) == 403)
      for mode in ["no-cors", "cors", "navigate", "websocket"] {
        #expect(status(method, host, [.secFetchSite: site, .secFetchMode: mode, .secFetchDest: "image"]) == 403)
      }
    }
    for origin in ["http://evil.example", "null", "http://127.0.0.1:8081", "http://127.0.0.1:8080.evil.example", ""] {
      #expect(status(method, host, [.origin: origin]) == 403, "\(origin)")
      #expect(status(method, host, [.referer: origin + "/a?b"]) == 403, "\(origin)")
    }
    #expect(status(method, host, [.referer: "http://127.0.0.1:8080@evil.example/"]) == 403)
  }

  @Test("a link on another site leads to the page as a whole, and to nothing else, and not from a frame")
  func links() {
    let host = "127.0.0.1:8080"
    let link: HTTPFields = [.secFetchSite: "cross-site", .secFetchMode: "navigate", .secFetchDest: "document"]
    #expect(status(.get, host, link, isPage: true) == nil)
    #expect(status(.head, host, link, isPage: true) == nil)
    #expect(status(.get, host, link) == 403)
    #expect(status(.post, host, link, isPage: true) == 403, "a form on another site")
    #expect(status(.get, host, [.referer: "https://mail.example/"], isPage: true) == nil, "an old browser's")
    #expect(status(.get, "evil.example", link, isPage: true) == 421)
    for dest in ["iframe", "object", "embed", "image", "script", ""] {
      var fields = link
      fields[.secFetchDest] = dest
      #expect(status(.get, host, fields, isPage: true) == 403, "\(dest)")
    }
  }

  @Test("on an address that others can reach any name is accepted, until names are configured")
  func elsewhere() {
    #expect(status(.get, "any.example", [:], .init(listeningOn: "0.0.0.0", allowedHosts: [])) == nil)
    #expect(status(.get, "any.example", [:], .init(listeningOn: "0.0.0.0", allowedHosts: ["a.example"])) == 421)
    #expect(
      status(.post, "a.example", [.origin: "http://b.example"], .init(listeningOn: "0.0.0.0", allowedHosts: [])) == 403)
  }
}
