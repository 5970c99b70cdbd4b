import Foundation

/// An IPv4 or IPv6 address.
struct IPAddress: Sendable, Hashable, CustomStringConvertible {
  /// 4 or 16 bytes, in network order.
  let bytes: [UInt8]

  /// Parses every numeric form that the system's resolver takes for an address without a query: `127.1`, `0x7f000001`,
  /// `2130706433` and `0177.0.0.1` are the same address. Nil for a name.
  init?(literal text: String) {
    var hints = addrinfo()
    hints.ai_flags = AI_NUMERICHOST
    guard let address = Self.lookUp(text, hints: hints).addresses.first else { return nil }
    self = address
  }

  private init?(_ address: UnsafeMutablePointer<sockaddr>?) {
    guard let address else { return nil }
    switch Int32(address.pointee.sa_family) {
    case AF_INET:
      bytes = address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { pointer in
        withUnsafeBytes(of: pointer.pointee.sin_addr) { Array($0) }
      }
    case AF_INET6:
      bytes = address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { pointer in
        withUnsafeBytes(of: pointer.pointee.sin6_addr) { Array($0) }
      }
    default: return nil
    }
  }

  /// Asks the system's resolver, and blocks until it responds.
  static func lookUp(_ host: String, hints given: addrinfo = addrinfo()) -> (addresses: [IPAddress], failure: String?) {
    var hints = given
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(host, nil, &hints, &list)
    guard code == 0 else { return ([], String(cString: gai_strerror(code))) }
    defer { freeaddrinfo(list) }
    var addresses: [IPAddress] = []
    var entry = list
    while let current = entry {
      if let address = IPAddress(current.pointee.ai_addr), !addresses.contains(address) { addresses.append(address) }
      entry = current.pointee.ai_next
    }
    return (addresses, nil)
  }

  var description: String {
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    let family = bytes.count == 4 ? AF_INET : AF_INET6
    // Can't fail: the buffer has room for the longest form of either family.
    _ = bytes.withUnsafeBytes { inet_ntop(family, $0.baseAddress, &text, socklen_t(text.count)) }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

extension IPAddress {
  /// Why nothing is sent to this address, such as "a loopback address"; nil if it is allowed.
  ///
  /// - Parameter allowingPrivate: allows this machine and private networks.
  func refusal(allowingPrivate: Bool) -> String? {
    // Checked before the private networks, because some of these addresses lie in them.
    if isMetadata { return "an address of a cloud's own services" }
    let ranges = bytes.count == 4 ? Self.refusedIPv4 : Self.refusedIPv6
    if let range = ranges.first(where: { $0.contains(self) }) {
      return range.isPrivate && allowingPrivate ? nil : range.name
    }
    // Only this eighth of IPv6 is assigned to globally reachable addresses.
    return bytes.count == 16 && bytes[0] & 0xE0 != 0x20 ? "a reserved address" : nil
  }

  /// At these addresses a cloud serves its machines with metadata, including credentials. No receiver of messages is there, in
  /// whatever network the server runs.
  private var isMetadata: Bool {
    if bytes.count == 4 { return Self.metadataIPv4.contains(bytes) }
    // An address that is translated to IPv4 contains the IPv4 address at one of six positions (RFC 6052, section 2.2), of which
    // the well-known prefixes use only the last; byte 8 is skipped. An unrelated address matches by chance once in a hundred
    // million.
    let embeddedPositions = [
      [4, 5, 6, 7], [5, 6, 7, 9], [6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15],
    ]
    return Self.metadataIPv6.contains { $0.contains(self) }
      || embeddedPositions.contains { positions in Self.metadataIPv4.contains(positions.map { bytes[$0] }) }
  }

  private struct Block: Sendable {
    let prefix: [UInt8]
    let bitCount: Int
    let name: String
    /// A user may have receivers in this range.
    let isPrivate: Bool

    init(_ prefix: [UInt8], _ bitCount: Int, _ name: String, isPrivate: Bool = false) {
      self.prefix = prefix
      self.bitCount = bitCount
      self.name = name
      self.isPrivate = isPrivate
    }

    func contains(_ address: IPAddress) -> Bool {
      (0..<bitCount).allSatisfy { bit in
        let (byte, shift) = (bit / 8, 7 - bit % 8)
        let expected = byte < prefix.count ? prefix[byte] : 0
        return (address.bytes[byte] ^ expected) >> shift & 1 == 0
      }
    }
  }

  // From the clouds' manuals and cloud-init: AWS (with ECS and EKS), Google, Azure, Oracle, Alibaba, Tencent, Scaleway; most
  // others use the first.
  private static let metadataIPv4: Set<[UInt8]> = [
    [169, 254, 169, 254], [169, 254, 170, 2], [169, 254, 170, 23], [169, 254, 0, 23], [169, 254, 42, 42],
    [168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192],
  ]

  private static let metadataIPv6 = [
    Block([0xFD, 0x00, 0x0E, 0xC2], 32, "AWS: metadata, credentials of pods, names, time"),
    Block([0xFD, 0x20, 0x00, 0xCE], 32, "Google"),
    Block([0xFD, 0x00, 0x00, 0xC1, 0, 0, 0, 0, 0, 0, 0, 0, 0xA9, 0xFE, 0xA9, 0xFE], 128, "Oracle"),
    Block([0xFD, 0x00, 0x00, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42], 128, "Scaleway"),
    Block([0xFD, 0x00, 0xA9, 0xFE, 0xA9, 0xFE], 48, "Akamai"),
    Block([0xFD, 0x00, 0x01, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00, 0x02, 0x00], 128, "Alibaba"),
  ]

  // IANA's registries of special-purpose addresses: all that are not globally reachable, and those that stand for an IPv4
  // address: https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry
  private static let refusedIPv4 = [
    Block([0], 8, "an unspecified address"),
    Block([10], 8, "a private address", isPrivate: true),
    Block([100, 64], 10, "a carrier's private address", isPrivate: true),
    Block([127], 8, "a loopback address", isPrivate: true),
    Block([169, 254], 16, "a link-local address"),
    Block([172, 16], 12, "a private address", isPrivate: true),
    Block([192, 0, 0], 24, "a reserved address"),
    Block([192, 0, 2], 24, "an address for documentation"),
    Block([192, 88, 99], 24, "a reserved address"),
    Block([192, 168], 16, "a private address", isPrivate: true),
    Block([198, 18], 15, "an address for benchmarks"),
    Block([198, 51, 100], 24, "an address for documentation"),
    Block([203, 0, 113], 24, "an address for documentation"),
    Block([224], 4, "a multicast address"),
    Block([240], 4, "a reserved address"),
  ]

  private static let refusedIPv6 = [
    Block([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128, "a loopback address", isPrivate: true),
    Block([], 128, "an unspecified address"),
    Block([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], 96, "an IPv4-mapped address"),
    Block([0x00, 0x64, 0xFF, 0x9B], 32, "an address translated to IPv4"),
    Block([0x20, 0x01, 0x00], 23, "a reserved address"),
    Block([0x20, 0x01, 0x0D, 0xB8], 32, "an address for documentation"),
    Block([0x20, 0x02], 16, "an address that stands for an IPv4 one"),
    Block([0x3F, 0xFF], 20, "an address for documentation"),
    Block([0xFC], 7, "a private address", isPrivate: true),
    Block([0xFE, 0x80], 10, "a link-local address"),
    Block([0xFE, 0xC0], 10, "a site-local address"),
    Block([0xFF], 8, "a multicast address"),
  ]
}
