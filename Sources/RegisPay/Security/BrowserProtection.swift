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

  /// - Throws: 421 for a name that is not ours, 403 for a change that another site asks for.
  func check(_ head: HTTPRequest) throws(Problem) {
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
    switch head.method {
    case .get, .head, .options: return
    default: break
    }
    if let site = head.headerFields[.secFetchSite] {
      // What a person typed, or this server's own page.
      guard site == "same-origin" || site == "none" else { throw Self.crossOrigin }
    } else if let origin = head.headerFields[.origin] {
      // Its scheme may differ, as a proxy in front may speak HTTPS.
      guard let start = origin.firstRange(of: "://")?.upperBound,
        origin[start...].lowercased() == authority.lowercased()
      else { throw Self.crossOrigin }
    }
  }

  private static let crossOrigin = Problem(
    status: .forbidden, name: "cross-origin", detail: "Nothing was changed: another site's page asked for it.")

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
}
