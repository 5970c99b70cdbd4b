import NIOCore

/// The address of a client for limits: an IPv4 address, or the /64 network of an IPv6 address, because one customer has 2^64
/// addresses in it.
struct ClientAddress: Sendable, Hashable {
  let text: String

  init(_ address: SocketAddress) {
    guard case .v6(let address6) = address else {
      text = address.ipAddress ?? "local"
      return
    }
    let bytes = withUnsafeBytes(of: address6.address.sin6_addr) { Array($0) }
    // A dual-stack socket shows an IPv4 client as ::ffff:a.b.c.d. The /64 of these addresses holds all of IPv4.
    let isMapped = bytes[0..<10].allSatisfy { $0 == 0 } && bytes[10] == 0xFF && bytes[11] == 0xFF
    text = isMapped ? bytes[12...].map { "\($0)" }.joined(separator: ".") : hexadecimal(bytes[0..<8])
  }
}
