import Foundation
import NIOCore
import NIOPosix
import NIOSSL

/// The address of a dependency: the parts of its base URL.
struct Endpoint: Sendable, Hashable {
  var isTLS: Bool
  var host: String
  var port: Int
  /// The beginning of every path, without a slash at its end.
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
    let authority = rest[..<slash]
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
    let (name, after) = try Self.host(authority, of: url)
    guard !name.isEmpty else { throw EndpointError(url: url, reason: "it names no host") }
    host = String(name)
    guard !after.isEmpty else { return }
    guard after.first == ":", let number = Int(after.dropFirst()), (1...65535).contains(number) else {
      throw EndpointError(url: url, reason: "the port must be 1 to 65535")
    }
    port = number
  }

  /// The host, and the rest: empty, or a colon and a port.
  private static func host(
    _ authority: Substring, of url: String
  ) throws(EndpointError) -> (name: Substring, after: Substring) {
    guard authority.hasPrefix("[") else {
      let end = authority.firstIndex(of: ":") ?? authority.endIndex
      let name = authority[..<end]
      guard !name.contains("["), !name.contains("]") else {
        throw EndpointError(url: url, reason: "only an IPv6 address is in brackets, and all of it")
      }
      return (name, authority[end...])
    }
    guard let end = authority.firstIndex(of: "]") else {
      throw EndpointError(url: url, reason: "its bracket is not closed")
    }
    let name = authority[..<end].dropFirst()
    // The only possible error: it is not an address.
    guard case .v6? = try? SocketAddress(ipAddress: String(name), port: 0) else {
      throw EndpointError(url: url, reason: "the text in brackets is not an IPv6 address")
    }
    return (name, authority[end...].dropFirst())
  }

  /// The caller has checked the parts.
  init(isTLS: Bool, host: String, port: Int) {
    self.isTLS = isTLS
    self.host = host
    self.port = port
    prefix = ""
  }

  /// The value of the `Host` field.
  var authority: String {
    let name = host.contains(":") ? "[\(host)]" : host
    return port == (isTLS ? 443 : 80) ? name : "\(name):\(port)"
  }
}

extension Endpoint {
  /// The base URL in one form: with the port only if it is not the scheme's, the host in lower case, no slash at the end.
  var url: String { (isTLS ? "https://" : "http://") + authority.lowercased() + prefix }
}

/// A base URL that can't be used.
public struct EndpointError: Error, Sendable, Hashable, CustomStringConvertible {
  var url: String
  var reason: String
  /// The URL can be used, but not the files for TLS, which the reason names.
  var isOfFiles = false

  public var description: String {
    isOfFiles ? reason : "\(BaseURL.shown(url)) is not a base URL for calls: \(reason)"
  }
}

/// Checks and shows a base URL that a command was given.
public enum BaseURL {
  public static func check(_ url: String) throws(EndpointError) { _ = try Endpoint(url) }

  /// The URL without the user name, the password and the query, for messages: they may be secrets. A URL that has them can't be used,
  /// and is still shown.
  public static func shown(_ url: String) -> String {
    let rest = withoutUser(url)
    return rest.firstIndex(of: "?").map { rest[...$0] + "…" } ?? rest
  }

  private static func withoutUser(_ url: String) -> String {
    // The last one: a password that is not encoded may hold any character.
    guard let at = url.lastIndex(of: "@") else { return url }
    let start = url.range(of: "://")?.upperBound ?? url.startIndex
    return (start <= at ? url[..<start] : "") + "…" + url[at...]
  }
}

extension String {
  fileprivate func dropping(prefix: String) -> Substring? { hasPrefix(prefix) ? dropFirst(prefix.count) : nil }
}
