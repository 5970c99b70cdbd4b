import Foundation
import Testing

@Suite("RegisPay, abused over raw sockets", .serialized)
struct RegisPayAbuseTests {
  private static let post = "POST /api/v1/payments HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

  @Test(
    "a malformed request gets an error, and the connection is closed",
    arguments: [
      ("garbage", "\u{16}\u{3}\u{1}garbage\r\n\r\n", 501),
      ("NUL in a path", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
      ("NUL in a field", "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n", 400),
      ("both lengths", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
      ("two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
      ("a bad length", post + "Content-Length: -1\r\n\r\n", 400),
      ("a bad chunk", post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
      ("huge fields", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \(String(repeating: "x", count: 100_000))\r\n\r\n", 431),
      (
        "many fields",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\(String(repeating: "X: y\r\n", count: 200))\r\n", 431
      ),
      ("a long path", "GET /\(String(repeating: "x", count: 10_000)) HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
      ("a body said to be huge", post + "Content-Length: 100000000\r\n\r\n", 413),
      (
        "another host", "GET http://evil.example/alive HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421
      ),
      ("an absolute URI", "GET http://127.0.0.1/alive HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 200),
      ("another page", post + "Origin: http://evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 403),
    ])
  func malformed(_ name: String, _ request: String, _ status: Int) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let response = try await RawConnection.response(to: request, from: server.url)
      #expect(response?.hasPrefix("HTTP/1.1 \(status) ") == true, "\(name): \(response ?? "still open")")
      #expect(try await server.get("/alive").status == 200)
      #expect(server.process.errorText.isEmpty, "nothing that a client sends fills the log")
    }
  }

  @Test("an address gets so many connections and no more, and the server's own calls from it are none of them")
  func connectionsOfOneAddress() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--max-connections-per-address", "4"])
      let url = server.url
      func responseToOneMore() async throws -> String? {
        let request = "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        return try await RawConnection.response(to: request, from: url)
      }
      // One connection, over which one request goes after another, and three more.
      #expect(try await server.get("/alive").status == 200)
      var held = try (0..<3).map { _ in try RawConnection(url) }
      for connection in held {
        // A connection counts from its first request on, which has arrived once there is a response.
        connection.send("GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        #expect(connection.readSome()?.hasPrefix("HTTP/1.1 200 ") == true)
      }
      #expect(try await responseToOneMore() == "", "it is closed without a response")
      let id = try await server.createPayment("3.00")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(try await responseToOneMore() == "")
      withExtendedLifetime(held) {}
      held = []
      try await eventually("there is room again", within: .seconds(10)) {
        try await responseToOneMore()?.hasPrefix("HTTP/1.1 200 ") == true
      }
    }
  }

  @Test("garbage after a request does not discard its response")
  func pipelinedGarbage() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      let (garbage, flood) = try await onThread {
        let request = "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        let garbage = try RawConnection(url, sending: request + "\u{1}\u{2}garbage\r\n\r\n")
        let flood = try RawConnection(url, sending: String(repeating: request, count: 1_000))
        return (garbage.readToEnd(), flood.readToEnd())
      }
      #expect(garbage?.hasPrefix("HTTP/1.1 200 ") == true, "\(garbage ?? "still open")")
      #expect(garbage?.contains("HTTP/1.1 501 ") == true, "\(garbage ?? "still open")")
      #expect(flood != nil, "too many requests at once end the connection")
    }
  }

  @Test("a refusal at a request's head does not become the response to an earlier request")
  func refusedBehindAnother() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let body = #"{"amount":1,"currency":"GBP"}"#
      for (refused, status) in [("Content-Length: 1000000\r\n\r\n", "413"), ("Host: b\r\n\r\n", "400")] {
        // It takes a sync of the disk, in which the next one comes.
        let first = Self.post + "Content-Length: \(body.utf8.count)\r\n\r\n\(body)"
        let response = try await RawConnection.response(to: first + Self.post + refused, from: server.url)
        let statuses = response?.matches(of: #/HTTP\/1\.1 ([0-9]{3}) /#).map { String($0.1) }
        #expect(statuses == ["200", status], "\(response ?? "still open")")
      }
    }
  }

  @Test(
    "what follows the last request of a connection takes no memory, however much it is",
    arguments: [
      "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
      "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
      "GET /alive HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ])
  func flood(_ request: String) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      let sent = try await onThread {
        // As long as the server lingers, so that its response is not lost.
        try RawConnection(url, sending: request).sendWhileTaken(String(repeating: "x", count: 1 << 20))
      }
      #expect(sent < 256 << 20, "MiB \(sent >> 20): what is thrown away is read slowly")
      let status = try String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
      let peak = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }?
        .split(separator: " ").dropFirst().first.flatMap { Int($0) }
      #expect((peak ?? .max) < 200 << 10, "KiB of the server's memory, after \(sent >> 20) MiB")
      #expect(try await server.get("/alive").status == 200)
    }
  }

  @Test("slow heads, half bodies and endless bodies are cut while others are served")
  func slow() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--head-timeout", "1", "--body-timeout", "1"])
      let url = server.url
      async let head = onThread {
        let connection = try RawConnection(url, sending: "GET /alive HTTP/1.1\r\n")
        // A byte now and then must not win time.
        for _ in 0..<100 where connection.send("X") { usleep(50_000) }
        return connection.readToEnd()
      }
      async let body = RawConnection.response(
        to: Self.post + "Content-Length: 100\r\n\r\n{\"amount\":1,\"currency\":\"GBP\"}", from: url)
      let chunk = "1000\r\n\(String(repeating: " ", count: 4_096))\r\n"
      async let endless = onThread {
        try RawConnection(url, sending: Self.post + "Transfer-Encoding: chunked\r\n\r\n").sendWhileTaken(chunk)
      }
      async let unread = onThread {
        let head = "POST /health HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        return try RawConnection(url, sending: head).sendWhileTaken(chunk)
      }
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(5))
      #expect(try await body?.hasPrefix("HTTP/1.1 408 ") == true)
      #expect(try await head != nil)
      #expect(try await endless < 1 << 30)
      #expect(try await unread < 1 << 30)
      let list = try await server.get("/api/v1/payments").object()["payments"] as? [Any]
      #expect((list?.count ?? 0) <= 1, "half a body creates nothing")
      #expect(server.process.errorText.isEmpty, "\(server.process.errorText)")
    }
  }

  @Test("ten thousand idle connections keep nobody else out, and memory is bounded")
  func idle() async throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    try #require(limit.rlim_cur > 12_000, "this test needs 12,000 descriptors; the hard limit is \(limit.rlim_max)")
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-connections", "2000"])
      let url = server.url
      let (opened, half) = try await onThread {
        var connections: [RawConnection] = []
        for index in 0..<10_000 {
          guard let connection = try? RawConnection(url) else { break }
          // Every second one begins a request that never ends.
          if index % 2 == 0 { connection.send("GET /alive HTTP/1.1\r\nX: y") }
          connections.append(connection)
        }
        let status = (try? String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)) ?? ""
        let files = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(server.process.pid)/fd").count
        let kilobytes = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }?
          .split(separator: " ").dropFirst().first.flatMap { Int($0) }
        return (connections.count, (files, kilobytes ?? .max, connections))
      }
      #expect(opened == 10_000)
      let begin = ContinuousClock.now
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(10))
      #expect(begin.duration(to: .now) < .seconds(10))
      #expect(half.0 < 4_000, "descriptors of the server")
      #expect(half.1 < 800 << 10, "KiB of the server's memory")
      withExtendedLifetime(half.2) {}
    }
  }

  @Test("no log line of a server with keys and faults holds a secret")
  func secrets() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--log-level", "trace"])
      let make = try RegisPayProcess(
        [
          "keys", "create", "--dir", folder + "/data", "--name", "a", "--scope", "read", "--scope", "write", "--scope",
          "operate",
        ], folder: folder)
      let key = try #require(try await make.nextLine())
      #expect(key.hasPrefix("rp_"))
      let headers = [("Authorization", "Bearer \(key)"), ("Content-Type", "application/json")]
      let deadline = ContinuousClock.now + .seconds(10)
      while try await server.get("/api/v1/payments").status != 401 {
        try #require(ContinuousClock.now < deadline, "the key is in force")
        try await Task.sleep(for: .milliseconds(20))
      }
      _ = try await server.post("/toggle-errors", "", headers: headers)
      _ = try await server.post("/api/v1/payments", #"{"amount":1,"currency":"GBP"}"#, headers: headers)
      for path in ["/nothing", "/api/v1/payments/x", "/api/v1/payments?status=x", "/api/v1/events?from=x"] {
        let response = try await server.get(path, headers: headers)
        #expect(!String(decoding: response.body, as: UTF8.self).contains(key.suffix(72)))
      }
      _ = try await server.post("/toggle-errors", "", headers: headers)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      let log = server.process.errorText
      #expect(!log.isEmpty)
      #expect(!log.contains(key.suffix(72)))
      #expect(!log.contains("Bearer"), "nor the server's own token")
    }
  }
}
