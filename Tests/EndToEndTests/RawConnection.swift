import Foundation

/// A TCP connection that sends whatever bytes a test likes. Its calls block; to be used from a thread of its own.
final class RawConnection: Sendable {
  private let descriptor: Int32

  /// - Parameters:
  ///   - text: is sent at once.
  ///   - receiveBytes: of the system's buffer for what was not read yet; nil for as many as it likes.
  init(_ url: String, sending text: String = "", receiveBytes: Int32? = nil) throws {
    let port = url.split(separator: ":").last.flatMap { UInt16($0) } ?? 0
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    if var receiveBytes {
      setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &receiveBytes, socklen_t(MemoryLayout<Int32>.size))
    }
    var address = sockaddr_in.loopback(port: port)
    let result = address.withSystemAddress { connect(descriptor, $0, $1.pointee) }
    guard descriptor >= 0, result == 0 else {
      let reason = String(cString: strerror(errno))
      if descriptor >= 0 { close(descriptor) }
      throw RegisPayProcess.Failure(description: "can't connect: \(reason)")
    }
    // So that a server that does not respond fails the test instead of blocking it.
    var limit = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    if !text.isEmpty { send(text) }
  }

  deinit { close(descriptor) }

  /// - Returns: false when the server has closed the connection.
  @discardableResult
  func send(_ text: String) -> Bool {
    let bytes = Array(text.utf8)
    return Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
  }

  /// Sends a text again and again, for as long as the server takes it; a gibibyte at most.
  ///
  /// - Returns: the bytes that were sent.
  func sendWhileTaken(_ text: String) -> Int {
    var sent = 0
    while sent < 1 << 30, send(text) { sent += text.utf8.count }
    return sent
  }

  /// Tells the server that nothing more will be sent.
  func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

  /// Ends the connection with a reset: Linux sends one when a socket that is connected is taken off its address.
  func reset() {
    var nowhere = sockaddr()
    nowhere.sa_family = sa_family_t(AF_UNSPEC)
    connect(descriptor, &nowhere, socklen_t(MemoryLayout<sockaddr>.size))
  }

  /// Something has come that was not read yet, or the connection's end.
  var canRead: Bool {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&entry, 1, 0) > 0
  }

  /// What has come, as soon as something has; nil when nothing does, or no more.
  func readSome() -> String? {
    var buffer = [UInt8](repeating: 0, count: 16 << 10)
    let count = recv(descriptor, &buffer, buffer.count, 0)
    return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
  }

  /// What has come, once it is enough; less when nothing comes, or no more.
  ///
  /// - Parameter text: what was read before.
  func read(after text: String = "", until isEnough: (String) -> Bool) -> String {
    var text = text
    while !isEnough(text), let more = readSome() { text += more }
    return text
  }

  /// Everything until the server closes the connection; nil when it does not.
  func readToEnd() -> String? {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 16 << 10)
    while true {
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count > 0 {
        bytes.append(contentsOf: buffer[..<count])
      } else {
        return count == 0 || errno == ECONNRESET ? String(decoding: bytes, as: UTF8.self) : nil
      }
    }
  }
}

extension RawConnection {
  /// Sends a text over a connection of its own, on a thread of its own.
  ///
  /// - Parameter endsSending: tells the server that nothing more will be sent.
  /// - Returns: everything until the server closes the connection; nil when it does not.
  static func response(to text: String, from url: String, endsSending: Bool = false) async throws -> String? {
    try await onThread {
      let connection = try RawConnection(url, sending: text)
      if endsSending { connection.endSending() }
      return connection.readToEnd()
    }
  }
}

extension sockaddr_in {
  static func loopback(port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
  }

  /// As the calls for sockets take an address, with its length.
  mutating func withSystemAddress(
    _ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) -> Int32 {
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    return withUnsafeMutablePointer(to: &self) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, &length) }
    }
  }
}
