import Foundation
import Testing

@Suite("RegisPay's activity")
struct RegisPayActivityTests {
  private static let request = "GET /api/v1/activity/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"

  /// The points, and the sum over them of a rate, as a number of payments; what isn't known counts as none.
  private func activity(
    _ server: RunningServer
  ) async throws -> (points: [[String: Any]], tick: [String: Any], sum: (String) -> Double) {
    let activity = try await server.get("/api/v1/activity").object()
    let points = try #require(activity["points"] as? [[String: Any]])
    let step = try #require(activity["stepSeconds"] as? Double)
    return (
      points, try #require(activity["tick"] as? [String: Any]),
      { name in points.reduce(0) { $0 + ($1[name] as? Double ?? 0) * step } }
    )
  }

  private func create(_ count: Int, _ server: RunningServer) async throws {
    try await withThrowingTaskGroup { group in
      for _ in 0..<count { group.addTask { _ = try await server.createPayment("1") } }
      try await group.waitForAll()
    }
  }

  /// Rates are rounded to hundredths: of 360 points each may be wrong by a twentieth of a payment, and few have any.
  private func isAbout(_ value: Double, _ expected: Double) -> Bool { abs(value - expected) < 1 }

  private func milliseconds(_ point: [String: Any], _ name: String) -> Double? {
    ((point["completionMilliseconds"] as? [String: Any])?[name] as? NSNumber)?.doubleValue
  }

  @Test("its numbers are those of a load, and after kill -9 and a start they are still there")
  func killed() async throws {
    try await withTemporaryFolder { folder in
      var server = try await RunningServer.start(directory: folder)
      try await create(60, server)
      // The tick of now: rates of the last five seconds, and the ends of log and list.
      try await eventually("the tick shows the load", within: .seconds(20)) {
        let tick = try await activity(server).tick
        return (tick["acceptedPerSecond"] as? Double ?? 0) > 0 && milliseconds(tick, "p99") != nil
      }
      try await eventually("the points show the load", within: .seconds(60)) {
        let found = try await activity(server)
        return isAbout(found.sum("acceptedPerSecond"), 60) && isAbout(found.sum("completedPerSecond"), 60)
          && ["acceptedPerSecond", "completedPerSecond"].allSatisfy { found.tick[$0] as? Double == 0 }
      }
      let before = try await activity(server)
      #expect(before.tick["logEnd"] as? Int == 240 && before.tick["listEnd"] as? Int == 240)
      #expect(before.tick["healthy"] as? Bool == true)
      #expect((before.tick["lag"] as? [String: Any])?["events"] as? Int == 0)
      #expect(((before.tick["disk"] as? [String: Any])?["availableBytes"] as? Double ?? 0) > 0)
      let loaded = try #require(before.points.first { milliseconds($0, "p50") != nil })
      #expect((loaded["lag"] as? [String: Any])?["events"] != nil && loaded["parked"] as? Int == 0)
      #expect((loaded["syncMilliseconds"] as? [String: Any])?["p99"] != nil)
      try await server.killHard()
      server = try await RunningServer.start(directory: folder)
      try await create(10, server)
      try await eventually("the points from before are there", within: .seconds(60)) {
        let found = try await activity(server)
        return isAbout(found.sum("acceptedPerSecond"), 70) && isAbout(found.sum("completedPerSecond"), 70)
      }
      let after = try await activity(server)
      let same = try #require(after.points.first { $0["at"] as? String == loaded["at"] as? String })
      // A payment at a point's edge may be in the next one: by the time of its event here, by that of its response there.
      let rates = [same, loaded].compactMap { $0["acceptedPerSecond"] as? Double }
      #expect(rates.count == 2 && abs(rates[0] - rates[1]) < 0.35, "\(rates)")
      let (p50, earlier) = (try #require(milliseconds(same, "p50")), try #require(milliseconds(loaded, "p50")))
      // By the log's times here, by the time of the response there.
      #expect(abs(p50 - earlier) < max(50, earlier * 0.3), "\(p50) \(earlier)")
      #expect(same["lag"] is NSNull && same["parked"] is NSNull && same["syncMilliseconds"] is NSNull)
    }
  }

  /// Reads a stream until it has sent this many ticks.
  private func ticks(_ count: Int, _ connection: RawConnection) async throws -> [String] {
    let text = try await onThread { connection.read { $0.components(separatedBy: "}\n\n").count > count } }
    return text.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("data: ") }.map(String.init)
  }

  @Test("a stream has one tick a second, the same for all, and counts as an event stream")
  func stream() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-streams-per-client", "2"])
      let url = server.url
      let begin = ContinuousClock.now
      let connections = try await onThread {
        try (0..<2).map { _ in try RawConnection(url, sending: Self.request + "\r\n") }
      }
      async let first = ticks(4, connections[0])
      async let second = ticks(4, connections[1])
      let (one, other) = try await (first, second)
      #expect(begin.duration(to: .now) > .seconds(3))
      #expect(Set(one).intersection(other).count >= 3, "\(one) \(other)")
      let data = try #require(one.last?.dropFirst(6).data(using: .utf8))
      let tick = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
      #expect(tick["logEnd"] as? Int == 0 && tick["openBreakers"] as? [String] == [])
      for path in ["/api/v1/activity/stream", "/api/v1/events"] {
        #expect(try await server.get(path).status == 429)
      }
      withExtendedLifetime(connections) {}
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a client that is gone leaves its place")
  func gone() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--max-streams-per-client", "1"])
      let url = server.url
      for _ in 0..<3 {
        try await eventually("the place is free", within: .seconds(10)) {
          try await onThread {
            let connection = try RawConnection(url, sending: Self.request + "\r\n")
            return connection.readSome()?.hasPrefix("HTTP/1.1 200 ") == true
          }
        }
      }
    }
  }

  @Test("a stream ends within seconds when its key is revoked")
  func revoked() async throws {
    try await withTemporaryFolder { folder in
      func keys(_ arguments: String...) async throws -> String {
        let process = try RegisPayProcess(["keys"] + arguments + ["--dir", folder + "/data"], folder: folder)
        var lines: [String] = []
        while let line = try await process.nextLine() { lines.append(line) }
        #expect(try await process.waitForExit().code == 0, "\(process.errorText)")
        return lines.joined(separator: " ")
      }
      let created = try await keys("create", "--name", "desk", "--scope", "read")
      let key = try #require(created.split(separator: " ").first { $0.hasPrefix("rp_") })
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      let connection = try await onThread {
        try RawConnection(url, sending: Self.request + "Authorization: Bearer \(key)\r\n\r\n")
      }
      #expect(try await !ticks(1, connection).isEmpty)
      _ = try await keys("revoke", String(try #require(key.split(separator: "_").dropFirst().first)))
      let begin = ContinuousClock.now
      // A stream that goes on has more every second.
      let rest = try await onThread {
        connection.read { $0.hasSuffix("0\r\n\r\n") || begin.duration(to: .now) > .seconds(15) }
      }
      #expect(rest.contains("the key is no longer valid") && rest.hasSuffix("0\r\n\r\n"), "\(rest)")
      #expect(begin.duration(to: .now) < .seconds(9))
      #expect(try await server.get("/api/v1/activity").status == 401)
    }
  }
}
