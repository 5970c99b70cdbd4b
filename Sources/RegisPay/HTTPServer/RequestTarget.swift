import HTTPTypes
import NIOHTTP1

/// A request's host and path.
struct RequestTarget {
  // HTTP types name it only as an authority.
  private static let hostField = HTTPField.Name("Host")!

  var authority: String?
  var path: String

  /// The target of an HTTP/1 request.
  init(_ head: HTTPRequestHead) throws(Problem) {
    let hosts = head.headers.values("Host")
    guard hosts.count < 2 else { throw .badRequest("A request has one Host field.") }
    guard let host = hosts.first else {
      guard head.version.minor == 0 else { throw .badRequest("A request has a Host field.") }
      (authority, path) = (nil, head.uri)
      try checkForm(head)
      return
    }
    try Self.checkHost(host)
    (authority, path) = (String(host), head.uri)
    try checkForm(head)
  }

  /// The target of an HTTP/2 request (RFC 9113, 8.3.1), which is never an absolute URL.
  init(_ head: HTTPRequest) throws(Problem) {
    // Neither CONNECT nor any other request for a tunnel is served.
    guard head.method != .connect, let path = head.path else { throw .methodNotImplemented }
    let hosts = head.headerFields[fields: Self.hostField]
    guard hosts.count < 2 else { throw .badRequest("A request has one Host field.") }
    if let host = hosts.first?.value {
      try Self.checkHost(host)
      guard head.authority == nil || head.authority == host else {
        throw .badRequest("The Host field and the :authority are the same.")
      }
    }
    guard let authority = head.authority ?? hosts.first?.value else {
      throw .badRequest("A request has an :authority or a Host field.")
    }
    guard Self.isAuthority(authority), !authority.isEmpty else {
      throw .badRequest("The :authority is not a host with an optional port.")
    }
    guard path.hasPrefix("/") || (path == "*" && head.method == .options) else {
      throw .badRequest("The :path starts with a slash.")
    }
    (self.authority, self.path) = (authority, path)
  }

  private static func checkHost(_ host: some StringProtocol) throws(Problem) {
    guard host.isEmpty || isAuthority(host) else {
      throw .badRequest("The Host field is not a host with an optional port.")
    }
  }

  private mutating func checkForm(_ head: HTTPRequestHead) throws(Problem) {
    if path.hasPrefix("/") || head.method == .CONNECT { return }
    if path == "*" {
      guard head.method == .OPTIONS else { throw .badRequest("Only OPTIONS has the target *.") }
      return
    }
    guard let colon = path.range(of: "://"), ["http", "https"].contains(path[..<colon.lowerBound].lowercased()) else {
      throw .badRequest("A request's target is a path or an absolute http URL.")
    }
    let rest = path[colon.upperBound...]
    let named = rest.prefix { $0 != "/" && $0 != "?" }
    guard Self.isAuthority(named) else { throw .badRequest("The target's host is not a host with an optional port.") }
    // An origin server ignores the Host field then (RFC 9112, 3.2.2). `BrowserProtection` checks this authority.
    authority = String(named)
    let tail = rest[named.endIndex...]
    path = tail.hasPrefix("/") ? String(tail) : "/" + tail
  }

  /// A name, an IPv4 address or an IPv6 address in brackets, with an optional port and without user information.
  private static func isAuthority(_ text: some StringProtocol) -> Bool {
    var isInBrackets = false
    var portDigits: Int?
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "["):
        guard byte == text.utf8.first, !isInBrackets else { return false }
        isInBrackets = true
      case UInt8(ascii: "]"):
        guard isInBrackets else { return false }
        isInBrackets = false
      case UInt8(ascii: ":") where !isInBrackets:
        guard portDigits == nil else { return false }
        portDigits = 0
      case UInt8(ascii: "0")...UInt8(ascii: "9"): if let digits = portDigits { portDigits = digits + 1 }
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "."),
        UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "~"), UInt8(ascii: "%"), UInt8(ascii: ":"):
        guard portDigits == nil else { return false }
      default: return false
      }
    }
    return !isInBrackets && portDigits.map { $0 <= 5 } ?? true && text.utf8.first != UInt8(ascii: ":")
  }
}
