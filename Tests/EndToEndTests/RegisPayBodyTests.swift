import Foundation
import Testing

@Suite("RegisPay and bodies that nobody may send, or that never end", .serialized)
struct RegisPayBodyTests {
  private static let host = "Host: 127.0.0.1\r\n"
  private static let json = "Content-Type: application/json\r\n"
  private static let payment = #"{"amount":1,"currency":"GBP"}"#
  private static let half = String(repeating: " ", count: 60_000)

  /// Starts a server with a key, so that it asks for one.
  private static func start(_ folder: String, _ scopes: [String], _ arguments: [String] = []) async throws -> (
    server: RunningServer, authorization: String
  ) {
    let make = try RegisPayProcess(
      ["keys", "create", "--dir", folder + "/data", "--name", "a"] + scopes.flatMap { ["--scope", $0] }, folder: folder)
    let key = try #require(try await make.nextLine())
    return (try await RunningServer.start(directory: folder, arguments: arguments), "Authorization: Bearer \(key)\r\n")
  }

  private static func anonymousKilobytes(_ server: RunningServer) throws -> Int {
    let status = try String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") })
    return try #require(line.split(separator: " ").dropFirst().first.flatMap { Int($0) })
  }

  /// Connections that send most of a body each, and no more.
  private static func sendHalves(_ server: RunningServer, _ count: Int, _ fields: String) async throws
    -> [RawConnection]
  {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    let url = server.url
    return try await onThread {
      let connections = try (0..<count).map { _ in
        try RawConnection(
          url, sending: "POST /api/payment/create HTTP/1.1\r\n\(host)\(json)\(fields)Content-Length: 65536\r\n\r\n")
      }
      for connection in connections { connection.send(half) }
      return connections
    }
  }

  private static func create(_ server: RunningServer, _ fields: String) async throws -> String? {
    try await RawConnection.response(
      to: "POST /api/payment/create HTTP/1.1\r\n\(host)\(json)\(fields)Connection: close\r\n"
        + "Content-Length: \(payment.utf8.count)\r\n\r\n\(payment)", from: server.url)
  }

  @Test("half a body from each of 500 clients without a key takes no memory: each gets its 401 at once")
  func withoutKey() async throws {
    try await withTemporaryFolder { folder in
      let (server, authorization) = try await Self.start(folder, ["write"])
      #expect(try await Self.create(server, authorization)?.hasPrefix("HTTP/1.1 200 ") == true)
      let before = try Self.anonymousKilobytes(server)
      let connections = try await Self.sendHalves(server, 500, "")
      let responses = try await onThread { connections.map { $0.readToEnd() ?? "still open" } }
      for response in responses {
        #expect(response.hasPrefix("HTTP/1.1 401 ") && response.contains("\r\nConnection: close\r\n"), "\(response)")
      }
      let grown = try Self.anonymousKilobytes(server) - before
      #expect(grown < 15 << 10, "KiB; the bodies have 30,000 together")
      #expect(try await Self.create(server, authorization)?.hasPrefix("HTTP/1.1 200 ") == true)
      #expect(server.process.errorText.isEmpty)
      withExtendedLifetime(connections) {}
    }
  }

  @Test("half a body from each of 500 clients with a key takes what the limit allows, and others create payments")
  func withKey() async throws {
    try await withTemporaryFolder { folder in
      let (server, authorization) = try await Self.start(
        folder, ["write"], ["--max-unfinished-body-bytes", "2000000", "--body-timeout", "600"])
      var connections = try await Self.sendHalves(server, 500, authorization)
      // 30 bodies of 64 KiB are within the limit. The others are refused; which, depends on the order of their packets.
      try await eventually("all are refused that are above the limit", within: .seconds(20)) {
        connections.count { $0.canRead } >= 470
      }
      #expect(connections.contains { !$0.canRead }, "those within the limit may go on")
      for connection in connections where connection.canRead {
        let response = connection.readSome() ?? "closed"
        #expect(response.hasPrefix("HTTP/1.1 503 ") && response.contains("\r\nRetry-After: 1\r\n"), "\(response)")
      }
      let other = try await Self.create(server, authorization)
      #expect(other?.hasPrefix("HTTP/1.1 200 ") == true, "\(other ?? "still open")")
      // What ended connections held is free for others.
      connections = []
      try await eventually("a large body has room again", within: .seconds(20)) {
        let body = Self.half + Self.payment
        let response = try await RawConnection.response(
          to: "POST /api/payment/create HTTP/1.1\r\n\(Self.host)\(Self.json)\(authorization)Connection: close\r\n"
            + "Content-Length: \(body.utf8.count)\r\n\r\n\(body)", from: server.url)
        return response?.hasPrefix("HTTP/1.1 200 ") == true
      }
    }
  }

  @Test("a request is refused at its head with the response that it would get after its body")
  func sameResponses() async throws {
    try await withTemporaryFolder { folder in
      let (server, authorization) = try await Self.start(folder, ["write"])
      let unknown = "Authorization: Bearer rp_000000000000_x\r\n"
      let targets = [
        "POST /api/v1/payments", "POST /api/v1/webhooks", "POST /nothing", "DELETE /alive", "PUT /api/v1/payments/x",
        "POST /api/v1/payments/", "POST //api/v1/webhooks", "POST /api/v1/payments?x=1", "POST /api/v1/webhooks?x",
        "OPTIONS *",
      ]
      var statuses: Set<String> = []
      for target in targets {
        for fields in ["", unknown, "Authorization: Basic eDp5\r\n", authorization] {
          let head = "\(target) HTTP/1.1\r\n\(Self.host)\(fields)Connection: close\r\n"
          // This one alone is accepted at its head.
          if target == targets[0], fields == authorization { continue }
          func response(_ more: String) async throws -> String {
            let response = try await RawConnection.response(to: head + more + "\r\n", from: server.url) ?? "still open"
            return response.replacing(#/Date: [^\r]*/#, with: "Date: now")
          }
          let expected = try await response("")
          statuses.insert(String(expected.prefix(12).suffix(3)))
          let length = "Content-Length: 5\r\n"
          for more in [length, "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n" + length] {
            #expect(try await response(more) == expected, "\(target) \(more)")
          }
        }
      }
      #expect(statuses == ["400", "401", "403", "404", "405"])
    }
  }

  @Test("an encoded body is refused at its head, also one that is not encoded after all")
  func encoded() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for (coding, status) in [("gzip", "415"), ("identity, br", "415"), ("identity", "200"), ("Identity", "200")] {
        let response = try await Self.create(server, "Content-Encoding: \(coding)\r\n") ?? "still open"
        #expect(response.hasPrefix("HTTP/1.1 \(status) "), "\(coding): \(response)")
        guard status == "415" else { continue }
        #expect(response.contains("\r\nAccept-Encoding: identity\r\n") && response.contains("must not be encoded"))
        #expect(response.contains("\r\nContent-Type: application/problem+json\r\n"))
      }
      #expect((try await server.get("/api/v1/payments").object()["payments"] as? [Any])?.count ?? 0 <= 2)
    }
  }
}
