import Foundation
import Testing

@Suite("RegisPay and clients that don't read")
struct RegisPayUnreadTests {
  private static let large = "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

  /// Connections whose clients send requests again and again and read nothing.
  ///
  /// - Parameter pause: between two bursts. The server must have time to respond to one before the next, or too many requests
  ///   wait, which ends the connection.
  private static func unread(
    _ url: String, connections: Int, bursts: Int, pauseMilliseconds: UInt32 = 50
  ) async throws -> [RawConnection] {
    try await onThread {
      let made = try (0..<connections).map { _ in try RawConnection(url, receiveBytes: 2_304) }
      for _ in 0..<bursts {
        // Fewer than the limit, so that each burst alone is allowed.
        for connection in made { connection.send(String(repeating: large, count: 10)) }
        usleep(pauseMilliseconds * 1_000)
      }
      return made
    }
  }

  private static func descriptorCount(_ server: RunningServer) throws -> Int {
    try FileManager.default.contentsOfDirectory(atPath: "/proc/\(server.process.pid)/fd").count
  }

  @Test("a client that pipelines and reads nothing gets few responses, and takes little memory")
  func memory() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let connections = try await Self.unread(server.url, connections: 30, bursts: 25, pauseMilliseconds: 250)
      #expect(try await server.get("/alive").status == 200)
      let status = try String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
      let peak = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }?
        .split(separator: " ").dropFirst().first.flatMap { Int($0) }
      #expect((peak ?? .max) < 200 << 10, "KiB of the server's memory after 7,500 requests for 66 kB each")
      withExtendedLifetime(connections) {}
    }
  }

  @Test("a connection whose responses stay unread is closed after the write timeout, also if requests follow")
  func time() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--write-timeout", "1"])
      let before = try Self.descriptorCount(server)
      let connections = try await Self.unread(server.url, connections: 20, bursts: 30)
      try await eventually("all 20 are closed; the server opens some for itself", within: .seconds(10)) {
        try Self.descriptorCount(server) <= before + 10
      }
      withExtendedLifetime(connections) {}
    }
  }

  @Test("unread responses of all connections together are bounded, and a client that reads is served")
  func total() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-unread-bytes", "1000000"])
      let before = try Self.descriptorCount(server)
      let connections = try await Self.unread(server.url, connections: 60, bursts: 30)
      let held = try Self.descriptorCount(server) - before
      #expect(held > 0, "connections below the limit stay")
      #expect(
        held < 45,
        "descriptors; 15 of the 60 responses of 66 kB are within the limit, and the server opens some for itself")
      #expect(try await server.get("/openapi.json").status == 200)
      withExtendedLifetime(connections) {}
    }
  }
}
