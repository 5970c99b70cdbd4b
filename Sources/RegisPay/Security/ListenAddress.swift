import Foundation

/// Properties of an address to listen on.
enum ListenAddress {
  /// True only for addresses that can't belong to another machine; a host name that begins with 127 could.
  static func isLoopback(_ host: String) -> Bool {
    var address = in_addr()
    guard inet_pton(AF_INET, host, &address) == 1 else { return host == "localhost" || host == "::1" }
    return UInt32(bigEndian: address.s_addr) >> 24 == 127
  }

  /// The form in a URL or a `Host` field.
  static func bracketed(_ host: String) -> String { host.contains(":") ? "[\(host)]" : host }
}
