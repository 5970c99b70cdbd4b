import HTTPTypes
import Hummingbird

/// Keeps web pages from using a server that asks for no key, through the browser of somebody who can reach it. A page
/// can send requests anywhere, and a name of its own can be made to lead here (DNS rebinding). Programs that are no
/// browser send neither `Origin` nor `Sec-Fetch-Site`, and notice nothing.
struct BrowserProtection: Sendable {
  /// Names by which the server may be addressed; nil for any.
  let hosts: Set<String>?

  /// - Parameter allowedHosts: further names, without a port.
  init(listeningOn host: String, allowedHosts: [String]) {
    let allowed = allowedHosts.map { $0.lowercased() }
    guard ListenAddress.isLoopback(host) else {
      // By which names and addresses a machine is reached it can't know.
      hosts = allowed.isEmpty ? nil : Set(allowed)
      return
    }
    hosts = Set(["localhost", "127.0.0.1", "[::1]", ListenAddress.bracketed(host).lowercased()] + allowed)
  }

  /// Whether a page of another site has sent a request is said by the browser: `Sec-Fetch-Site` (all browsers since 2023,
  /// to loopback addresses also over plain HTTP), `Origin` (with what its page may read if we let it, event streams
  /// included, and with changes) and `Referer`, which the page can leave out. What has none of the three, and is no
  /// browser's newer than that, is taken for a program's.
  ///
  /// - Parameter isPage: what is asked for is the same for everybody and costs nothing, so a link from elsewhere, such as
  ///   one in an e-mail, may lead there.
  /// - Throws: 421 for a name that is not ours, 403 for what another site asks for.
  func check(_ head: HTTPRequest, isPage: Bool) throws(Problem) {
    // No browser leaves it out.
    guard let authority = head.authority else { return }
    if let hosts {
      let host = Self.host(authority)
      guard hosts.contains(host) || hosts.contains(host.lowercased()) else {
        throw Problem(
          status: .misdirectedRequest, name: "unknown-host",
          detail: "This server is not known by the name that the Host field says; --allowed-host adds one.")
      }
    }
    let isRead = head.method == .get || head.method == .head
    let fields = head.headerFields
    if let site = fields[.secFetchSite] {
      // What a person typed, or this server's own page.
      if site == "same-origin" || site == "none" { return }
      // A link that a person follows, as a whole page: not one in a frame, and no picture or script.
      let isNavigation = fields[.secFetchMode] == "navigate" && fields[.secFetchDest] == "document"
      guard isPage, isRead, isNavigation else { throw Self.crossOrigin }
    } else if let origin = fields[.origin] {
      guard Self.authority(of: origin) == authority.lowercased() else { throw Self.crossOrigin }
    } else if let referer = fields[.referer], !(isPage && isRead) {
      guard Self.authority(of: referer) == authority.lowercased() else { throw Self.crossOrigin }
    }
  }

  /// Without the scheme, which may differ, as a proxy in front may speak HTTPS. Nil for what is no URL.
  private static func authority(of url: String) -> String? {
    guard let start = url.firstRange(of: "://")?.upperBound else { return nil }
    return url[start...].prefix { $0 != "/" && $0 != "?" && $0 != "#" }.lowercased()
  }

  private static let crossOrigin = Problem(
    status: .forbidden, name: "cross-origin", detail: "Nothing was done: another site's page asked for it.")

  /// Without the port.
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
