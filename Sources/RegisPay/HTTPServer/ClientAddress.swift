import NIOCore

/// Where a request comes from, as far as limits are concerned: an IPv4 address, or the network of an IPv6 address, since
/// one customer has 2^64 of the latter.
struct ClientAddress: Sendable, Hashable {
  let text: String

  init(_ address: SocketAddress) {
    guard case .v6(let address6) = address else {
      text = address.ipAddress ?? "local"
      return
    }
    let bytes = withUnsafeBytes(of: address6.address.sin6_addr) { Array($0) }
    // An IPv4 client of a socket for both is ::ffff:a.b.c.d; its network would be everybody's.
    let isMapped = bytes[0..<10].allSatisfy { $0 == 0 } && bytes[10] == 0xFF && bytes[11] == 0xFF
    text = isMapped ? bytes[12...].map { "\($0)" }.joined(separator: ".") : hexadecimal(bytes[0..<8])
  }
}
