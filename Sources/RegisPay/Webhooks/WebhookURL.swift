/// An endpoint's URL. It is parsed more strictly than the standards require, so that this parser and the code that connects
/// can't see different hosts. Its text is rebuilt from the parsed parts.
struct WebhookURL: Sendable, Hashable {
  let isSecure: Bool
  /// A name in lower case, or the usual form of an address, without brackets.
  let host: String
  let port: Int
  /// The host's address, if the host is an address.
  let literal: IPAddress?
  /// Path and query, as sent in the request.
  let target: String

  /// Longest URL, in bytes.
  static let limit = 2_048

  /// Why a URL is refused. It never contains the URL, which may hold a secret of the receiver.
  struct Refusal: Error, Hashable, CustomStringConvertible {
    var description: String
  }

  init(_ text: String) throws(Refusal) {
    guard text.utf8.count <= Self.limit else { throw Refusal(description: "A URL may have \(Self.limit) bytes") }
    guard let colon = text.range(of: "://") else { throw Refusal(description: "A URL begins with https://") }
    switch text[..<colon.lowerBound].lowercased() {
    case "https": isSecure = true
    case "http": isSecure = false
    default: throw Refusal(description: "A URL begins with https://")
    }
    let rest = text[colon.upperBound...]
    let authority = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
    guard !authority.contains("@") else {
      throw Refusal(description: "A URL must not hold a user name or a password")
    }
    (host, literal, port) = try Self.parseAuthority(authority, defaultPort: isSecure ? 443 : 80)
    let tail = rest[authority.endIndex...]
    target = tail.hasPrefix("/") ? String(tail) : "/" + tail
    try Self.check(target)
  }

  /// The complete URL.
  var text: String { origin + target }

  /// The URL without path and query, which may hold a secret.
  var origin: String {
    let name = literal?.bytes.count == 16 ? "[\(host)]" : host
    let isUsual = port == (isSecure ? 443 : 80)
    return "\(isSecure ? "https" : "http")://\(name)\(isUsual ? "" : ":\(port)")"
  }

  /// Why nothing is delivered to this URL, judged by the URL alone; nil if it is allowed.
  func refusal(allowingPrivate: Bool) -> Refusal? {
    // A signature does not hide the message, so unencrypted messages must stay within a private network.
    guard isSecure || allowingPrivate else { return Refusal(description: "The URL must begin with https://") }
    guard port == 80 || port == 443 || port >= 1_024 else {
      return Refusal(description: "The port must be 443, 80, or 1024 and up: the others belong to other protocols")
    }
    if let literal, let reason = literal.refusal(allowingPrivate: allowingPrivate) {
      return Refusal(description: "\(literal) is \(reason)")
    }
    let name = host.hasSuffix(".") ? host.dropLast() : host[...]
    let isLocal = name == "localhost" || name.hasSuffix(".localhost")
    guard !isLocal || allowingPrivate else { return Refusal(description: "localhost is this machine") }
    return nil
  }

  private static func parseAuthority(
    _ authority: Substring, defaultPort: Int
  ) throws(Refusal) -> (host: String, literal: IPAddress?, port: Int) {
    let name: Substring
    let after: Substring
    if authority.hasPrefix("[") {
      guard let end = authority.firstIndex(of: "]") else { throw Refusal(description: "The URL's host is unreadable") }
      name = authority[authority.index(after: authority.startIndex)..<end]
      after = authority[authority.index(after: end)...]
      let isPlain = name.utf8.allSatisfy { isHexadecimal($0) || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ".") }
      guard isPlain, let address = IPAddress(literal: String(name)), address.bytes.count == 16 else {
        throw Refusal(description: "The URL's host is not an IPv6 address")
      }
      return (address.description, address, try port(after, or: defaultPort))
    }
    name = authority.prefix { $0 != ":" }
    after = authority[name.endIndex...]
    guard isName(name) else {
      throw Refusal(description: "The URL's host must be a name of ASCII letters, digits, dots and hyphens")
    }
    let literal = IPAddress(literal: String(name))
    return (literal?.description ?? name.lowercased(), literal, try port(after, or: defaultPort))
  }

  private static func port(_ text: Substring, or usual: Int) throws(Refusal) -> Int {
    guard !text.isEmpty else { return usual }
    let digits = text.dropFirst()
    guard text.hasPrefix(":"), (1...5).contains(digits.utf8.count), digits.utf8.allSatisfy(isDigit),
      let port = Int(digits), (1...65_535).contains(port)
    else { throw Refusal(description: "The URL's port must be a number of 1 to 65535") }
    return port
  }

  private static func isName(_ name: Substring) -> Bool {
    guard (1...253).contains(name.utf8.count) else { return false }
    // A trailing dot stands for the root domain.
    let full = name.hasSuffix(".") ? name.dropLast() : name
    return full.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { label in
      (1...63).contains(label.utf8.count)
        && label.utf8.allSatisfy {
          isDigit($0) || isLetter($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
        }
    }
  }

  /// Path and query, by RFC 3986.
  private static func check(_ target: String) throws(Refusal) {
    let marks = Set("-._~!$&'()*+,;=:@/?".utf8)
    var digitsDue = 0
    for byte in target.utf8 {
      if digitsDue > 0 {
        guard isHexadecimal(byte) else { throw Refusal(description: "A % in a URL is followed by two digits") }
        digitsDue -= 1
      } else if byte == UInt8(ascii: "%") {
        digitsDue = 2
      } else if byte == UInt8(ascii: "#") {
        throw Refusal(description: "A URL must not have a fragment, which is never sent")
      } else if !isDigit(byte), !isLetter(byte), !marks.contains(byte) {
        throw Refusal(description: "Other characters than RFC 3986's are written as %XX in a URL")
      }
    }
    guard digitsDue == 0 else { throw Refusal(description: "A % in a URL is followed by two digits") }
  }

  private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
  private static func isLetter(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
  }
  private static func isHexadecimal(_ byte: UInt8) -> Bool {
    isDigit(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte | 0x20)
  }
}
