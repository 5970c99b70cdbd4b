import HTTPTypes
import NIOCore

/// The proxies whose word about a client's address counts: what they write into `X-Forwarded-For`. Anybody can send that field, so from
/// all others it is ignored.
public struct TrustedProxies: Sendable, Hashable {
  /// Addresses with the same first bits. IPv4 addresses are written as IPv6 ones (`::ffff:a.b.c.d`).
  private struct Network: Sendable, Hashable {
    var prefix: [UInt8]
    var bitCount: Int

    func contains(_ bytes: [UInt8]) -> Bool {
      for index in 0..<16 {
        let bits = min(8, bitCount - 8 * index)
        guard bits > 0 else { return true }
        guard (prefix[index] ^ bytes[index]) >> UInt8(8 - bits) == 0 else { return false }
      }
      return true
    }
  }

  private var networks: [Network] = []

  /// Trusts nobody.
  public init() {}

  /// Nil unless each text is an IP address, or a network such as `10.0.0.0/8` or `fd00::/8`.
  public init?(_ texts: [String]) {
    for text in texts {
      let parts = text.split(separator: "/", omittingEmptySubsequences: false)
      guard let address = Self.address(String(parts[0])), let bytes = Self.bytes(of: address) else { return nil }
      let isFour = if case .v4 = address { true } else { false }
      var bitCount = isFour ? 32 : 128
      if parts.count > 1 {
        guard parts.count == 2, let number = UInt8(parts[1]), number <= bitCount else { return nil }
        bitCount = Int(number)
      }
      networks.append(Network(prefix: bytes, bitCount: isFour ? bitCount + 96 : bitCount))
    }
  }

  /// - Parameter address: of a connection's other side.
  func contains(_ address: SocketAddress?) -> Bool {
    guard !networks.isEmpty, let bytes = address.flatMap(Self.bytes) else { return false }
    return networks.contains { $0.contains(bytes) }
  }

  /// The address of the client that sent a request: the last one in `X-Forwarded-For` that no trusted proxy has. What a client itself
  /// wrote there stands before it.
  ///
  /// - Parameter address: of the connection's other side.
  func client(_ fields: HTTPFields, from address: SocketAddress) -> ClientAddress {
    guard contains(address) else { return ClientAddress(address) }
    var last = address
    let hops = fields[values: .xForwardedFor].flatMap { $0.split(separator: ",") }
    for hop in hops.reversed() {
      guard let next = Self.hop(hop) else { break }
      last = next
      if !contains(next) { break }
    }
    return ClientAddress(last)
  }

  /// An address as proxies write it: with a port or without, and IPv6 with brackets or without.
  private static func hop(_ text: Substring) -> SocketAddress? {
    let text = text.drop { $0 == " " || $0 == "\t" }.prefix { $0 != " " && $0 != "\t" }
    if text.first == "[" {
      guard let end = text.firstIndex(of: "]") else { return nil }
      return address(String(text[text.index(after: text.startIndex)..<end]))
    }
    if let whole = address(String(text)) { return whole }
    return text.firstIndex(of: ":").flatMap { address(String(text[..<$0])) }
  }

  /// Nil for what is no IP address; that is the only error.
  private static func address(_ text: String) -> SocketAddress? { try? SocketAddress(ipAddress: text, port: 0) }

  private static func bytes(of address: SocketAddress) -> [UInt8]? {
    switch address {
    case .v4(let address):
      [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF] + withUnsafeBytes(of: address.address.sin_addr) { Array($0) }
    case .v6(let address): withUnsafeBytes(of: address.address.sin6_addr) { Array($0) }
    case .unixDomainSocket: nil
    }
  }
}

extension HTTPField.Name {
  // A token by RFC 9110, which is all that the initialiser asks.
  fileprivate static let xForwardedFor = HTTPField.Name("X-Forwarded-For")!
}
