import Foundation
import Testing

@Suite("RegisPay's connections")
struct RegisPayConnectionTests {
  private static let head = "Host: 127.0.0.1\r\n"

  @Test("a client that asks for several things at once and leaves is no failure of the server")
  func givenUp() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for _ in 0..<20 { _ = try await server.createPayment("1") }
      let request = "GET /api/v1/payments?limit=200 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
      for _ in 0..<200 { _ = try RawConnection(server.url, sending: request + request) }
      try await eventually("all are closed", within: .seconds(20)) {
        let text = String(decoding: try await server.get("/metrics").body, as: UTF8.self)
        return text.contains(#/regispay_http_connections [12]\n/#)
      }
      let text = String(decoding: try await server.get("/metrics").body, as: UTF8.self)
      #expect(!text.contains("http_response_status_code=\"500\""))
      #expect(!server.process.errorText.contains("request failed"), "\(server.process.errorText)")
    }
  }

  @Test(
    "a client that closes its side gets every response completely, however slowly it reads",
    arguments: [false, true])
  func halfClosed(_ closesLate: Bool) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for _ in 0..<200 { _ = try await server.createPayment("1") }
      try await withDeadline(.seconds(20), "200 payments in the list") {
        while (try await server.get("/api/v1/payments?limit=200").object()["payments"] as? [Any])?.count != 200 {
          try await Task.sleep(for: .milliseconds(20))
        }
      }
      let url = server.url
      // Together more than the system takes without the client.
      let response = try await onThread {
        let request = "GET /api/v1/payments?limit=200 HTTP/1.1\r\n\(Self.head)\r\n"
        let connection = try RawConnection(url, sending: String(repeating: request, count: 30), receiveBytes: 2_304)
        if closesLate { usleep(500_000) }
        connection.endSending()
        usleep(500_000)
        return connection.readToEnd()
      }
      let responses = response?.components(separatedBy: "HTTP/1.1 200 OK\r\n").dropFirst() ?? []
      #expect(responses.count == 30)
      for response in responses {
        let body = response.range(of: "\r\n\r\n").map { response[$0.upperBound...] } ?? ""
        let json = try? JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any]
        #expect((json?["payments"] as? [Any])?.count == 200)
      }
    }
  }

  @Test("pipelined requests get their responses in order, also after the client closes its side")
  func pipelined() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let paths = ["/alive", "/openapi.json", "/nothing", "/alive"]
      let responses = try await RawConnection.response(
        to: paths.map { "GET \($0) HTTP/1.1\r\n\(Self.head)\r\n" }.joined(), from: server.url, endsSending: true)
      let lines = responses?.components(separatedBy: "HTTP/1.1 ").dropFirst().map { $0.prefix(3) }
      #expect(lines == ["200", "200", "404", "200"])
    }
  }

  @Test(
    "a connection that is reset within a request or its response is released at once",
    arguments: ["", "GET /al", "POST /api/v1/payments HTTP/1.1\r\n\(head)Content-Length: 100\r\n\r\n{", streamed])
  func reset(_ sent: String) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      // Only sockets: the server may be writing a file, which it closes a moment later.
      func socketCount() throws -> Int {
        let folder = "/proc/\(server.process.pid)/fd"
        return try FileManager.default.contentsOfDirectory(atPath: folder).count { name in
          // One that was closed meanwhile has no target.
          (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(name)").hasPrefix("socket:")) == true
        }
      }
      _ = try await server.get("/alive")
      let before = try socketCount()
      let connections = try await onThread {
        try (0..<50).map { _ in try RawConnection(url, sending: sent) }
      }
      try await eventually("all are taken", within: .seconds(30)) { try socketCount() >= before + 50 }
      for connection in connections { connection.reset() }
      // Sooner than any time limit: 10 s for a head, 30 s for a body and for an unread response.
      try await eventually("all are let go", within: .seconds(5)) { try socketCount() <= before + 15 }
    }
  }

  private static let streamed = "GET /api/v1/events?from=0 HTTP/1.1\r\n\(head)\r\n"

  @Test("a client that breaks off in the middle of a body is let go, and nothing is created")
  func brokenOff() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let response = try await RawConnection.response(
        to: "GET /alive HTTP/1.1\r\n\(Self.head)\r\nPOST /api/v1/payments HTTP/1.1\r\n\(Self.head)"
          + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"amount\":1,",
        from: server.url, endsSending: true)
      #expect(response?.hasPrefix("HTTP/1.1 200 ") == true, "\(response ?? "still open")")
      #expect((try await server.get("/api/v1/payments").object()["payments"] as? [Any])?.isEmpty == true)
    }
  }
}
