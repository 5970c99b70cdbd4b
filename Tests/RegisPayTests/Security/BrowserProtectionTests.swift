import HTTPTypes
import Testing

@testable import RegisPay

@Suite("Protection from web pages")
struct BrowserProtectionTests {
  private func status(
    _ method: HTTPRequest.Method, _ authority: String?, _ fields: HTTPFields = [:],
    _ protection: BrowserProtection = .init(listeningOn: "127.0.0.1", allowedHosts: ["Pay.example"])
  ) -> Int? {
    do {
      try protection.check(
        HTTPRequest(method: method, scheme: "http", authority: authority, path: "/", headerFields: fields))
      return nil
    } catch {
      return error.status.code
    }
  }

  @Test(
    "only names of this machine and those that are allowed are answered",
    arguments: [
      ("127.0.0.1:8080", true), ("localhost", true), ("LOCALHOST:1", true), ("[::1]:8080", true), ("[::1]", true),
      ("pay.example:443", true), ("evil.example", false), ("evil.example:8080", false),
      ("127.0.0.1.evil.example", false),
      ("localhost@evil.example", false), ("", false), (":8080", false), ("[::2]:8080", false),
    ])
  func host(_ host: String, _ isAllowed: Bool) {
    #expect(status(.get, host) == (isAllowed ? nil : 421))
  }

  @Test("a change that another site asks for is refused; reading, this page and other programs are not")
  func crossOrigin() {
    let host = "127.0.0.1:8080"
    #expect(status(.post, host) == nil)
    #expect(status(.post, nil) == nil)
    #expect(status(.post, host, [.secFetchSite: "same-origin", .origin: "http://127.0.0.1:8080"]) == nil)
    #expect(status(.post, host, [.secFetchSite: "none"]) == nil)
    #expect(status(.post, host, [.origin: "https://127.0.0.1:8080"]) == nil)
    for site in ["cross-site", "same-site", "x"] { #expect(status(.post, host, [.secFetchSite: site]) == 403) }
    for origin in ["http://evil.example", "null", "http://127.0.0.1:8081", "http://127.0.0.1:8080.evil.example", ""] {
      #expect(status(.post, host, [.origin: origin]) == 403, "\(origin)")
      #expect(status(.delete, host, [.origin: origin]) == 403, "\(origin)")
      #expect(status(.get, host, [.origin: origin]) == nil, "\(origin)")
    }
  }

  @Test("where it can't know its names any is answered, until some are given")
  func elsewhere() {
    #expect(status(.get, "any.example", [:], .init(listeningOn: "0.0.0.0", allowedHosts: [])) == nil)
    #expect(status(.get, "any.example", [:], .init(listeningOn: "0.0.0.0", allowedHosts: ["a.example"])) == 421)
    #expect(
      status(.post, "a.example", [.origin: "http://b.example"], .init(listeningOn: "0.0.0.0", allowedHosts: [])) == 403)
  }
}
