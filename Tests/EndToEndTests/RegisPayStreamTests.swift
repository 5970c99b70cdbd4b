import Foundation
import Testing

@Suite("RegisPay's event streams")
struct RegisPayStreamTests {
  private static let request = "GET /api/v1/events?from=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"

  /// The status of one more stream, which is closed at once.
  private func status(_ url: String, _ fields: String = "") async throws -> String {
    try await onThread {
      let connection = try RawConnection(url, sending: Self.request + fields + "\r\n")
      return String((connection.readSome() ?? "").prefix(12))
    }
  }

  /// Nil when it is refused.
  private func openStream(_ url: String) throws -> RawConnection? {
    let connection = try RawConnection(url, sending: Self.request + "\r\n")
    return connection.readSome()?.hasPrefix("HTTP/1.1 200 ") == true ? connection : nil
  }

  @Test("a client that ends its side leaves its place at once")
  func gone() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-streams-per-client", "2"])
      let url = server.url
      let begin = ContinuousClock.now
      for _ in 0..<5 {
        // The places of the round before: free just behind the end of the connection.
        var open: [RawConnection] = []
        try await eventually("two places are free", within: .seconds(5)) {
          let place = try await onThread { try openStream(url) }
          if let place { open.append(place) }
          return open.count == 2
        }
        #expect(try await status(url) == "HTTP/1.1 429")
        for connection in open { connection.endSending() }
        let ends = try await onThread { [open] in open.map { $0.readToEnd() } }
        #expect(ends.allSatisfy { $0 != nil }, "the server ends its side, too")
      }
      // A heartbeat, by which they would be noticed otherwise, comes after 10 s each time.
      #expect(begin.duration(to: .now) < .seconds(25))
    }
  }

  @Test("a client that closes its side before its stream begins gets the response up to the stream's end")
  func endedBefore() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-streams-per-client", "1"])
      let url = server.url
      _ = try await server.createPayment("1")
      // More often than there are places: each is free again.
      for delay: UInt32 in [0, 0, 0, 500, 2_000, 200_000] {
        var response = ""
        try await eventually("the place of the stream before is free", within: .seconds(5)) {
          response = try await onThread {
            let before = "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            let connection = try RawConnection(url, sending: before + Self.request + "\r\n")
            // It arrives before, between or after the parts of the response.
            usleep(delay)
            connection.endSending()
            return connection.readToEnd() ?? "still open"
          }
          return !response.contains("HTTP/1.1 429 ")
        }
        let responses = response.components(separatedBy: "HTTP/1.1 200 OK\r\n")
        #expect(responses.count == 3, "after \(delay) µs: \(response)")
        #expect(responses.last?.contains(": from offset 0\n\n") == true, "after \(delay) µs: \(response)")
        #expect(response.hasSuffix("\r\n0\r\n\r\n"), "after \(delay) µs: \(response)")
      }
    }
  }

  @Test("a client that reads nothing is cut off after the time for that")
  func unread() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--write-timeout", "10", "--max-streams-per-client", "1"])
      let url = server.url
      // More than the system's buffers take without the client.
      for _ in 0..<40 {
        try await withThrowingTaskGroup { group in
          for _ in 0..<100 { group.addTask { _ = try await server.createPayment("1") } }
          try await group.waitForAll()
        }
      }
      var reader: RawConnection?
      try await eventually("it has its place", within: .seconds(15)) {
        reader = try await onThread {
          let connection = try RawConnection(url, sending: Self.request + "\r\n", receiveBytes: 2_304)
          // It reads the response's beginning, and nothing after it.
          return connection.readSome()?.hasPrefix("HTTP/1.1 200 ") == true ? connection : nil
        }
        return reader != nil
      }
      // Long before the time is over, also on a server that is still busy with the payments.
      #expect(try await status(url) == "HTTP/1.1 429")
      try await eventually("it is cut off", within: .seconds(40)) { try await status(url) == "HTTP/1.1 200" }
      withExtendedLifetime(reader) {}
    }
  }

  private func keys(_ arguments: [String], in folder: String) async throws -> [String] {
    let process = try RegisPayProcess(["keys"] + arguments + ["--dir", folder + "/data"], folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    #expect(try await process.waitForExit().code == 0, "\(process.errorText)")
    return lines
  }

  /// A stream that was let in with a key.
  private func open(_ url: String, with key: Substring) async throws -> RawConnection {
    try await onThread {
      let connection = try RawConnection(url, sending: Self.request + "Authorization: Bearer \(key)\r\n\r\n")
      #expect(connection.readSome()?.hasPrefix("HTTP/1.1 200 ") == true)
      return connection
    }
  }

  private func expectEnd(of connection: RawConnection) async throws {
    let rest = try await onThread { connection.read { $0.hasSuffix("0\r\n\r\n") } }
    #expect(rest.contains("the key is no longer valid") && rest.hasSuffix("0\r\n\r\n"), "\(rest)")
  }

  @Test("a stream ends within seconds when its key is revoked")
  func revoked() async throws {
    try await withTemporaryFolder { folder in
      let lines = try await keys(["create", "--name", "reader", "--scope", "read"], in: folder)
      let key = try #require(lines.joined(separator: " ").split(separator: " ").first { $0.hasPrefix("rp_") })
      let server = try await RunningServer.start(directory: folder)
      let connection = try await open(server.url, with: key)
      let id = try #require(key.split(separator: "_").dropFirst().first)
      _ = try await keys(["revoke", String(id)], in: folder)
      let begin = ContinuousClock.now
      try await expectEnd(of: connection)
      #expect(begin.duration(to: .now) < .seconds(9))
      #expect(try await status(server.url, "Authorization: Bearer \(key)\r\n") == "HTTP/1.1 401")
    }
  }

  @Test("a stream ends within seconds when its key expires, and that of another key continues")
  func expired() async throws {
    try await withTemporaryFolder { folder in
      func create(_ scope: String, _ more: String...) async throws -> Substring {
        let lines = try await keys(["create", "--name", "client", "--scope", scope] + more, in: folder)
        return try #require(lines.joined(separator: " ").split(separator: " ").first { $0.hasPrefix("rp_") })
      }
      let (lasting, writer) = (try await create("read"), try await create("write"))
      let begin = ContinuousClock.now
      let short = try await create("read", "--expires", "15s")
      let made = ContinuousClock.now
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      let other = try await open(url, with: lasting)
      let connection = try await open(url, with: short)
      try await expectEnd(of: connection)
      // Times have whole seconds.
      #expect(begin.duration(to: .now) > .seconds(14) && made.duration(to: .now) < .seconds(15 + 9))
      #expect(try await status(url, "Authorization: Bearer \(short)\r\n") == "HTTP/1.1 401")
      #expect(try await status(url, "Authorization: Bearer \(lasting)\r\n") == "HTTP/1.1 200")
      // It still gets what happens.
      let response = try await server.post(
        "/api/v1/payments", #"{"amount":1,"currency":"GBP"}"#,
        headers: [("Authorization", "Bearer \(writer)"), ("Content-Type", "application/json")])
      #expect(response.status == 200)
      let text = try await onThread { other.read { $0.contains("PaymentInitiated") } }
      #expect(text.contains("PaymentInitiated"), "\(text)")
    }
  }
}
