import HTTPTypes
import Hummingbird

/// Protects a server without API keys from other sites' pages in the browser of a person who can reach the server. A page can send
/// requests anywhere, and its own host name can resolve to this server (DNS rebinding). Programs that are not browsers send neither
/// `Origin` nor `Sec-Fetch-Site` and are not affected.
struct BrowserProtection: Sendable {
  /// Host names that a request may use; nil for any.
  let hosts: Set<String>?

  /// - Parameter allowedHosts: further names, without a port.
  init(listeningOn host: String, allowedHosts: [String]) {
    let allowed = allowedHosts.map { $0.lowercased() }
    guard ListenAddress.isLoopback(host) else {
      // The server can't know by which names and addresses others reach the machine.
      hosts = allowed.isEmpty ? nil : Set(allowed)
      return
    }
    hosts = Set(["localhost", "127.0.0.1", "[::1]", ListenAddress.bracketed(host).lowercased()] + allowed)
  }

  /// The browser says whether another site's page sent a request: in `Sec-Fetch-Site` (all browsers since 2023, to loopback addresses
  /// also over plain HTTP), in `Origin` (on changes, and on requests whose response the page could read, including event streams)
  /// and in `Referer`, which a page can suppress. A request with none of the three is treated as a program's; it may come from an
  /// older browser.
  ///
  /// - Parameter isPage: the resource is the same for everybody and costs nothing, so a link from elsewhere, such as one in an
  ///   e-mail, may lead to it.
  /// - Throws: 421 for an unknown host name, 403 for another site's request.
  func check(_ head: HTTPRequest, isPage: Bool) throws(Problem) {
    // Every browser sends a Host field.
    guard let authority = head.authority else { return }
    if let hosts {
      let host = Self.host(authority)
      guard hosts.contains(host) || hosts.contains(host.lowercased()) else {
        throw Problem(
          status: .misdirectedRequest, name: "unknown-host",
          detail: "The request names an unknown host; start the server with --allowed-host to add it.")
      }
    }
    let isRead = head.method == .get || head.method == .head
    let fields = head.headerFields
    if let site = fields[.secFetchSite] {
      // A person entered the address, or this server's own page sent the request.
      if site == "same-origin" || site == "none" { return }
      // A person followed a link to a whole page, not to a frame, a picture or a script.
      let isNavigation = fields[.secFetchMode] == "navigate" && fields[.secFetchDest] == "document"
      guard isPage, isRead, isNavigation else { throw Self.crossOrigin }
    } else if let origin = fields[.origin] {
      guard Self.authority(of: origin) == authority.lowercased() else { throw Self.crossOrigin }
    } else if let referer = fields[.referer], !(isPage && isRead) {
      guard Self.authority(of: referer) == authority.lowercased() else { throw Self.crossOrigin }
    }
  }

  /// The URL without its scheme, which may differ because a proxy may speak HTTPS. Nil if the text is not a URL.
  private static func authority(of url: String) -> String? {
    guard let start = url.firstRange(of: "://")?.upperBound else { return nil }
    return url[start...].prefix { $0 != "/" && $0 != "?" && $0 != "#" }.lowercased()
  }

  private static let crossOrigin = Problem(
    status: .forbidden, name: "cross-origin", detail: "Nothing was done: another site's page sent the request.")

  /// The host without its port.
  private static func host(_ authority: String) -> String {
    guard let colon = authority.utf8.lastIndex(of: UInt8(ascii: ":")) else { return authority }
    // An IPv6 address without a port ends with its bracket.
    guard authority.utf8.last != UInt8(ascii: "]") else { return authority }
    return String(authority[..<colon])
  }
}

extension HTTPField.Name {
  // A token by RFC 9110, which is all that the initialiser asks.
  static let secFetchSite = HTTPField.Name("Sec-Fetch-Site")!
  static let secFetchMode = HTTPField.Name("Sec-Fetch-Mode")!
  static let secFetchDest = HTTPField.Name("Sec-Fetch-Dest")!
}
