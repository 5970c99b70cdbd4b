import Foundation
import Testing

@Suite("RegisPay, as a process", .serialized)
struct RegisPayServeTests {
  @Test("a payment created over HTTP is completed within two seconds")
  func completes() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(2))
      let events = try await server.get("/api/v1/payments/\(id)/events").object()["events"] as? [[String: Any]]
      #expect(
        events?.map { $0["type"] as? String } == [
          "PaymentInitiated", "PaymentCreated", "PaymentSettled", "PaymentCompleted",
        ])
      #expect(events?.map { $0["eventId"] as? String } == (1...4).map { "pay:\(id):\($0)" })
      #expect(try await server.get("/health").status == 200)
      #expect(try await server.get("/alive").status == 200)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "stopped in the middle of a load, it responds to what it accepted, exits with 0 and continues at the next start")
  func stopsGracefully() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let ids = try await withThrowingTaskGroup(of: String?.self) { group in
        for index in 0..<300 {
          group.addTask { try? await server.createPayment("\(index + 1)") }
        }
        // The signal arrives while most are in flight.
        _ = try await group.next()
        server.process.signal(SIGTERM)
        return try await group.reduce(into: [String]()) { if let id = $1 { $0.append(id) } }
      }
      #expect(try await server.process.waitForExit() == .init(code: 0, isSignal: false))
      #expect(!ids.isEmpty)
      let restarted = try await RunningServer.start(directory: folder)
      #expect(!restarted.process.errorText.contains("log opened"), "both logs were closed")
      for id in ids { try await restarted.wait(for: id, status: "Completed", within: .seconds(20)) }
      let charges = try await restarted.get("/psp/api/ledger").object()["charges"] as? [[String: Any]] ?? []
      let charged = charges.compactMap { $0["paymentId"] as? String }
      #expect(Set(charged).count == charged.count)
      #expect(Set(charged).isSuperset(of: ids))
      #expect(try await restarted.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("an open event stream does not delay the stop, and can be resumed")
  func eventStream() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let first = try await server.createPayment("1")
      try await server.wait(for: first, status: "Completed", within: .seconds(5))
      let stream = Task { try await server.get("/api/v1/events?from=0") }
      let second = try await server.createPayment("2")
      try await server.wait(for: second, status: "Completed", within: .seconds(5))
      let before = ContinuousClock.now
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      #expect(before.duration(to: .now) < .seconds(5))
      let text = String(decoding: try await stream.value.body, as: UTF8.self)
      #expect(offsets(text) == Array(0..<8))

      let restarted = try await RunningServer.start(directory: folder)
      let rest = Task {
        try await restarted.get("/api/v1/events?type=PaymentCompleted", headers: [("Last-Event-ID", "3")])
      }
      let third = try await restarted.createPayment("3")
      try await restarted.wait(for: third, status: "Completed", within: .seconds(5))
      #expect(try await restarted.stopGracefully() == .init(code: 0, isSignal: false))
      #expect(offsets(String(decoding: try await rest.value.body, as: UTF8.self)) == [7, 11])
    }
  }

  /// The ids of a stream of server-sent events.
  private func offsets(_ text: String) -> [Int] {
    text.split(separator: "\n").compactMap {
      $0.hasPrefix("id: ") ? $0.split(separator: "-").last.flatMap { Int($0) } : nil
    }
  }

  @Test("while errors are switched on payments wait, and go on when they are switched off")
  func outage() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      #expect(try await server.post("/toggle-errors", "").object()["errors"] as? Bool == true)
      let id = try await server.createPayment("1")
      let deadline = ContinuousClock.now + .seconds(10)
      while try await server.get("/api/v1/payments/\(id)").object()["waiting"] == nil {
        try #require(ContinuousClock.now < deadline, "the API shows that the payment waits")
      }
      #expect(try await server.status(of: id) == "Initiated")
      #expect(try await server.post("/toggle-errors", "").object()["errors"] as? Bool == false)
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a second server on the same directory says who holds it, in one line")
  func locked() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let second = try RegisPayProcess(
        ["serve", "--dir", folder + "/data", "--port", "0", "--log-format", "text"], folder: folder)
      #expect(try await second.waitForExit() == .init(code: 1, isSignal: false))
      let lines = second.errorText.split(separator: "\n")
      #expect(lines.count == 1)
      #expect(lines.first?.contains("\(server.process.pid)") == true)
      #expect(lines.first?.hasPrefix("regispay: ") == true)
    }
  }

  @Test("a damaged log is refused with the file, in one line, and left as it is")
  func damaged() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(5))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      let payments = folder + "/data/payments"
      let segment = try #require(
        try FileManager.default.contentsOfDirectory(atPath: payments).filter { $0.hasSuffix(".log") }.sorted().first)
      let path = payments + "/" + segment
      var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
      // The id of the payment is in its first event.
      let place = try #require(bytes.range(of: Data(id.utf8))?.lowerBound)
      bytes[place] ^= 1
      try bytes.write(to: URL(fileURLWithPath: path))
      let second = try RegisPayProcess(["serve", "--dir", folder + "/data", "--port", "0"], folder: folder)
      #expect(try await second.waitForExit() == .init(code: 1, isSignal: false))
      #expect(second.errorText.split(separator: "\n").count == 1)
      #expect(second.errorText.contains(segment), "\(second.errorText)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == bytes)
    }
  }

  @Test("once a sync fails nothing more is taken, health is red, and what was taken is there after a restart")
  func failedSync() async throws {
    try await withTemporaryFolder { folder in
      // Made before, so that the failing sync is one of the running server's.
      #expect(try await RunningServer.start(directory: folder).stopGracefully().code == 0)
      // With -D the process started is the server itself, so that killing it kills no tracer in its stead.
      let server = try await RunningServer.start(
        directory: folder,
        under: ["strace", "-D", "-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=40+"])
      var taken: [String] = []
      var refusal: RunningServer.Response?
      for amount in 1...200 where refusal == nil {
        let response = try await server.post("/api/payment/create", "{\"amount\":\(amount),\"currency\":\"GBP\"}")
        if response.status == 200 {
          taken.append(try #require(try response.object()["paymentId"] as? String))
        } else {
          refusal = response
        }
      }
      #expect(refusal?.status == 503)
      #expect(!taken.isEmpty)
      let health = try await server.get("/health")
      #expect(health.status == 503)
      #expect(String(decoding: health.body, as: UTF8.self).contains("can't write"))
      #expect(try await server.get("/alive").status == 200)
      #expect(try await server.get("/api/v1/payments/\(taken[0])").status == 200, "reading works")
      try await server.killHard()
      let restarted = try await RunningServer.start(directory: folder)
      for id in taken { try await restarted.wait(for: id, status: "Completed", within: .seconds(20)) }
      let charges = try await restarted.get("/psp/api/ledger").object()["charges"] as? [[String: Any]] ?? []
      let charged = charges.compactMap { $0["paymentId"] as? String }
      #expect(Set(charged).count == charged.count)
      #expect(Set(charged).isSuperset(of: taken))
    }
  }

  @Test("a port in use is said in one line")
  func portInUse() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let port = try #require(server.url.split(separator: ":").last.map(String.init))
      let second = try RegisPayProcess(
        ["serve", "--dir", folder + "/other", "--port", port, "--log-level", "warning"], folder: folder)
      #expect(try await second.waitForExit() == .init(code: 1, isSignal: false))
      #expect(second.errorText.split(separator: "\n").count == 1)
      #expect(second.errorText.contains("port \(port)"))
    }
  }

  @Test(
    "wrong usage ends with 64",
    arguments: [
      ["serve", "--port", "x"], ["load"], ["load", "--rate", "0", "--seconds", "1"], ["no-such-command"],
    ])
  func wrongUsage(_ arguments: [String]) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(arguments, folder: folder)
      #expect(try await process.waitForExit() == .init(code: 64, isSignal: false))
    }
  }

  @Test(
    "without a key an address that others may reach is not listened on: exit code 1",
    arguments: ["0.0.0.0", "127.example.org", "::"])
  func noKeys(_ host: String) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(["serve", "--dir", folder + "/data", "--host", host], folder: folder)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
      #expect(process.errorText.contains("there is no valid key"), "\(process.errorText)")
    }
  }

  @Test("the load command reports what was accepted and completed")
  func load() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let load = try RegisPayProcess(["load", "--rate", "50", "--seconds", "2", "--url", server.url], folder: folder)
      let line = try await load.nextLine()
      #expect(line == "sent 100, accepted 100, completed 100, errors 0, not completed 0")
      #expect(try await load.waitForExit() == .init(code: 0, isSignal: false))
      let charges = try await server.get("/psp/api/ledger").object()["count"] as? Int
      #expect(charges == 100)
    }
  }
}
