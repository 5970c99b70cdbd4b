import NIOCore
import NIOPosix
import NIOSSL

/// Where a dependency is: the parts of its base URL.
struct Endpoint: Sendable, Hashable {
  var isTLS: Bool
  var host: String
  var port: Int
  /// What every path begins with; without a slash at its end.
  var prefix: String

  /// - Parameter url: such as `https://psp.example:8443/v2`.
  init(_ url: String) throws(EndpointError) {
    let rest: Substring
    if let after = url.dropping(prefix: "http://") {
      (isTLS, rest) = (false, after)
    } else if let after = url.dropping(prefix: "https://") {
      (isTLS, rest) = (true, after)
    } else {
      throw EndpointError(url: url, reason: "it must begin with http:// or https://")
    }
    let slash = rest.firstIndex(of: "/") ?? rest.endIndex
    var authority = rest[..<slash]
    var path = rest[slash...]
    while path.last == "/" { path.removeLast() }
    prefix = String(path)
    let isAllowed: (Unicode.Scalar) -> Bool = {
      $0.value > 32 && $0.value < 127 && !"?#@\\".unicodeScalars.contains($0)
    }
    guard rest.unicodeScalars.allSatisfy(isAllowed) else {
      throw EndpointError(url: url, reason: "only a host, a port and a path are possible")
    }
    port = isTLS ? 443 : 80
    // A colon within brackets belongs to an IPv6 address.
    if let colon = authority.lastIndex(of: ":"), !authority[colon...].contains("]") {
      guard let number = Int(authority[authority.index(after: colon)...]), (1...65535).contains(number) else {
        throw EndpointError(url: url, reason: "the port must be 1 to 65535")
      }
      port = number
      authority = authority[..<colon]
    }
    if authority.hasPrefix("["), authority.hasSuffix("]") { authority = authority.dropFirst().dropLast() }
    guard !authority.isEmpty else { throw EndpointError(url: url, reason: "it names no host") }
    host = String(authority)
  }

  /// One whose parts were checked before.
  init(isTLS: Bool, host: String, port: Int) {
    self.isTLS = isTLS
    self.host = host
    self.port = port
    prefix = ""
  }

  /// As the Host field has it.
  var authority: String {
    let name = host.contains(":") ? "[\(host)]" : host
    return port == (isTLS ? 443 : 80) ? name : "\(name):\(port)"
  }
}

/// A base URL that can't be used.
public struct EndpointError: Error, Sendable, Hashable, CustomStringConvertible {
  var url: String
  var reason: String

  public var description: String { "\(url) is no base URL for calls: \(reason)" }
}

extension String {
  fileprivate func dropping(prefix: String) -> Substring? { hasPrefix(prefix) ? dropFirst(prefix.count) : nil }
}
