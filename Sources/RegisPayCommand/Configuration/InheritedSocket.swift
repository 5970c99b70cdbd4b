import Foundation

/// A listening socket that the process was started with, by the protocol of systemd's socket activation
/// (https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html): `LISTEN_PID`, `LISTEN_FDS`, and descriptors from 3
/// on. It stays open while no process serves it, so a restart refuses no connection.
struct InheritedSocket: Sendable {
  let descriptor: Int32
  let host: String
  let port: Int

  /// The first inherited descriptor.
  private static let first: Int32 = 3

  /// Why the sockets that the process was given can't be used.
  struct Refusal: Error, CustomStringConvertible {
    let description: String
  }

  /// Nil if the process was given none.
  static func find(_ environment: [String: String]) throws(Refusal) -> InheritedSocket? {
    guard let pid = environment["LISTEN_PID"].flatMap({ pid_t($0) }), pid == getpid(),
      let count = environment["LISTEN_FDS"].flatMap({ Int($0) }), count > 0
    else { return nil }
    guard count == 1 else {
      throw Refusal(description: "LISTEN_FDS: the server takes one socket, and was given \(count)")
    }
    // No program that the server may start should keep it.
    guard fcntl(first, F_SETFD, FD_CLOEXEC) == 0 else {
      throw Refusal(description: "LISTEN_FDS: descriptor \(first) is not open")
    }
    guard option(SO_TYPE) == Int32(SOCK_STREAM.rawValue), option(SO_ACCEPTCONN) == 1 else {
      throw Refusal(description: "LISTEN_FDS: descriptor \(first) is no socket that listens for TCP connections")
    }
    guard let (host, port) = address() else {
      throw Refusal(description: "LISTEN_FDS: descriptor \(first) is no socket of an IP address")
    }
    return InheritedSocket(descriptor: first, host: host, port: port)
  }

  private static func option(_ name: Int32) -> Int32? {
    var value: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(first, SOL_SOCKET, name, &value, &size) == 0 ? value : nil
  }

  private static func address() -> (host: String, port: Int)? {
    var storage = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    return withUnsafeMutablePointer(to: &storage) { storage in
      storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        guard getsockname(first, address, &size) == 0,
          [AF_INET, AF_INET6].contains(Int32(address.pointee.sa_family))
        else { return nil }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        guard
          getnameinfo(
            address, size, &host, socklen_t(host.count), &port, socklen_t(port.count), NI_NUMERICHOST | NI_NUMERICSERV)
            == 0,
          let number = Int(text(port))
        else { return nil }
        return (text(host), number)
      }
    }
  }

  private static func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
