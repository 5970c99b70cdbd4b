import Foundation

/// What can be told of an address to listen on.
enum ListenAddress {
  /// Only what can't be another machine's: a name that begins with 127 could be one.
  static func isLoopback(_ host: String) -> Bool {
    var address = in_addr()
    guard inet_pton(AF_INET, host, &address) == 1 else { return host == "localhost" || host == "::1" }
    return UInt32(bigEndian: address.s_addr) >> 24 == 127
  }

  /// As it stands in a URL or a `Host` field.
  static func bracketed(_ host: String) -> String { host.contains(":") ? "[\(host)]" : host }
}
