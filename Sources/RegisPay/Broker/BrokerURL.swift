import Foundation

/// Where a broker is: `amqp(s)://user@host:port/vhost`. The password is a setting of its own, so that it is in no URL.
struct BrokerURL: Sendable, Hashable {
  var isTLS: Bool
  var user: String
  var host: String
  var port: Int
  var vhost: String

  /// What is wrong with a text. The description does not repeat it: somebody may have put a password in.
  struct Refusal: Error, Sendable, Hashable, CustomStringConvertible {
    var description: String
  }

  private static let longest = 255

  /// Reads a URL as the AMQP URI specification of RabbitMQ has it: without a user the user is `guest`, without a path the virtual
  /// host is `/`, and a path names one, in which a slash is written as %2F.
  init(_ text: String) throws(Refusal) {
    let rest: Substring
    if text.hasPrefix("amqp://") {
      (isTLS, rest) = (false, text.dropFirst("amqp://".count))
    } else if text.hasPrefix("amqps://") {
      (isTLS, rest) = (true, text.dropFirst("amqps://".count))
    } else {
      throw Refusal(description: "a broker's URL begins with amqp:// or amqps://")
    }
    guard rest.utf8.allSatisfy({ (0x21...0x7e).contains($0) }), !rest.contains("?"), !rest.contains("#") else {
      throw Refusal(description: "a broker's URL has a user, a host, a port and a virtual host, and nothing else")
    }
    let slash = rest.firstIndex(of: "/") ?? rest.endIndex
    var authority = rest[..<slash]
    user = "guest"
    if let at = authority.lastIndex(of: "@") {
      let named = authority[..<at]
      guard !named.contains(":") else {
        throw Refusal(
          description: "a broker's URL must not contain a password: name a file with it in"
            + " REGISPAY_BROKER_PASSWORD_FILE instead")
      }
      user = try Self.decoded(named, "user")
      guard !user.isEmpty else { throw Refusal(description: "the user in a broker's URL is empty") }
      authority = authority[authority.index(after: at)...]
    }
    (host, port) = try Self.address(authority, usualPort: isTLS ? 5671 : 5672)
    let path = rest[slash...].dropFirst()
    guard !path.contains("/") else {
      throw Refusal(description: "a slash in the name of a virtual host is written as %2F")
    }
    vhost = path.isEmpty ? "/" : try Self.decoded(path, "virtual host")
  }

  private static func decoded(_ text: Substring, _ part: String) throws(Refusal) -> String {
    guard let decoded = text.removingPercentEncoding, decoded.utf8.count <= longest, !decoded.utf8.contains(0) else {
      throw Refusal(
        description: "the \(part) in a broker's URL is at most \(longest) bytes, and % is followed by two digits")
    }
    return decoded
  }

  private static func address(_ text: Substring, usualPort: Int) throws(Refusal) -> (String, Int) {
    var (name, after) = (text, text[text.endIndex...])
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else {
        throw Refusal(description: "the bracket in a broker's URL is not closed")
      }
      (name, after) = (text[..<end].dropFirst(), text[end...].dropFirst())
    } else if let colon = text.firstIndex(of: ":") {
      (name, after) = (text[..<colon], text[colon...])
    }
    guard !name.isEmpty, name.utf8.count <= longest, !name.contains("["), !name.contains("%") else {
      throw Refusal(description: "a broker's URL names no host")
    }
    guard !after.isEmpty else { return (String(name), usualPort) }
    guard after.first == ":", let port = UInt16(after.dropFirst()), port > 0 else {
      throw Refusal(description: "the port in a broker's URL must be 1 to 65535")
    }
    return (String(name), Int(port))
  }

  /// Host and port, for log lines and the API.
  var address: String { "\(host.contains(":") ? "[\(host)]" : host):\(port)" }

  /// As MassTransit writes the address of something at this broker: without the port if it is the scheme's, and without the virtual
  /// host `/`.
  func massTransitAddress(of name: String) -> String {
    let shownHost = host.contains(":") ? "[\(host)]" : host
    let shownPort = port == (isTLS ? 5671 : 5672) ? "" : ":\(port)"
    // The characters that .NET's Uri.EscapeDataString leaves: RFC 3986's unreserved ones.
    let unreserved = CharacterSet(
      charactersIn: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
    // Fails only for text that is no Unicode, which a String is.
    let escaped = vhost.addingPercentEncoding(withAllowedCharacters: unreserved) ?? vhost
    return "\(isTLS ? "rabbitmqs" : "rabbitmq")://\(shownHost)\(shownPort)/\(vhost == "/" ? "" : escaped + "/")\(name)"
  }
}
