import Foundation

/// An address to listen on or to connect to.
struct ProbedAddress: Sendable {
  struct Failure: Error {
    var reason: String
  }

  private let storage: sockaddr_storage
  private let length: socklen_t
  private let family: Int32

  /// Blocks, for a host name, for a name server.
  init(host: String, port: Int) throws(Failure) {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_PASSIVE
    var list: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(host, String(port), &hints, &list)
    defer { if list != nil { freeaddrinfo(list) } }
    guard code == 0, let first = list?.pointee, let address = first.ai_addr,
      first.ai_addrlen <= socklen_t(MemoryLayout<sockaddr_storage>.size)
    else { throw Failure(reason: code == 0 ? "there is none" : String(cString: gai_strerror(code))) }
    var storage = sockaddr_storage()
    // Both are plain bytes, and the length was checked.
    withUnsafeMutableBytes(of: &storage) {
      $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(first.ai_addrlen)))
    }
    (self.storage, length, family) = (storage, first.ai_addrlen, first.ai_family)
  }

  /// Why the server can't bind the address; 0 if it can. The address is free again afterwards, and nobody can connect meanwhile.
  func bindError() -> Int32 {
    let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return errno }
    defer { close(descriptor) }
    // As the server's own socket: connections of an earlier process that are not quite over don't count.
    var one: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
    return withAddress { bind(descriptor, $0, length) == 0 ? 0 : errno }
  }

  /// Sends some bytes and reads what comes, up to a number of bytes or until the other side ends it.
  ///
  /// - Parameter seconds: the limit of each call; together at most three times as long.
  /// - Returns: nil if nobody accepts the connection, or sends anything or ends it in time.
  func exchange(_ bytes: [UInt8], limit: Int, seconds: Int) -> [UInt8]? {
    let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var time = timeval(tv_sec: seconds, tv_usec: 0)
    for option in [SO_SNDTIMEO, SO_RCVTIMEO] {
      setsockopt(descriptor, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
    }
    guard withAddress({ connect(descriptor, $0, length) }) == 0,
      send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    else { return nil }
    // One that sends a byte now and then does not keep the thread.
    let deadline = ContinuousClock.now + .seconds(seconds)
    var received: [UInt8] = []
    var isEnded = false
    var piece = [UInt8](repeating: 0, count: 4096)
    while received.count < limit, ContinuousClock.now < deadline {
      let count = recv(descriptor, &piece, piece.count, 0)
      if count < 0, errno == EINTR { continue }
      // The time limit's error is EAGAIN; another one, such as a reset, ends the connection.
      isEnded = count == 0 || (count < 0 && errno != EAGAIN)
      guard count > 0 else { break }
      received += piece[..<count]
    }
    return received.isEmpty && !isEnded ? nil : received
  }

  private func withAddress<Value>(_ work: (UnsafePointer<sockaddr>) -> Value) -> Value {
    // The kernel reads no more than `length` bytes, which are those of an address of this family.
    withUnsafePointer(to: storage) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1, work) }
  }
}

/// Asks a server whether it is alive.
enum AliveProbe {
  static let healthy = "Healthy"

  /// The body of the response; nil if there is none within a few seconds, or one that is no success.
  static func response(host: String, port: Int) -> String? {
    guard let bytes = exchange(host, port) else { return nil }
    let text = String(decoding: bytes, as: UTF8.self)
    guard text.hasPrefix("HTTP/1.1 200 "), let end = text.range(of: "\r\n\r\n") else { return nil }
    return String(text[end.upperBound...])
  }

  /// Whether nobody sends anything or ends the connection within a few seconds, as on a socket that nobody serves.
  static func isSilent(host: String, port: Int) -> Bool { exchange(host, port) == nil }

  private static func exchange(_ host: String, _ port: Int) -> [UInt8]? {
    let host = ["0.0.0.0": "127.0.0.1", "::": "::1"][host] ?? host
    let request =
      "GET \(HealthRoutes.alivePath) HTTP/1.1\r\nHost: \(ListenAddress.bracketed(host)):\(port)\r\nConnection: close\r\n\r\n"
    // ``PortCheck`` has just found this address; if it is gone since, nobody responds there.
    guard let address = try? ProbedAddress(host: host, port: port) else { return nil }
    return address.exchange(Array(request.utf8), limit: 64 << 10, seconds: 2)
  }
}
