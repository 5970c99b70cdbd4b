import Foundation
import Testing

/// A server whose calendar is wrong for a while: Support/clock.c is in front of its C library.
@Suite("RegisPay, on a machine whose clock is wrong")
struct RegisPayClockTests {
  private struct Machine {
    let folder: String
    private var clock: String { folder + "/clock" }
    private var open: String { folder + "/open" }

    func setClock(by seconds: Int) throws {
      try "\(seconds)\n".write(toFile: clock, atomically: true, encoding: .utf8)
    }

    func startServer(_ arguments: [String] = ["--allow-private-webhooks"]) async throws -> RunningServer {
      try await RunningServer.start(
        directory: folder, arguments: arguments,
        under: ["env", "LD_PRELOAD=\(try await TestTool.clock.value)", "SHIFTED_CLOCK=\(clock)"])
    }

    /// - Returns: the receiver with its address.
    func startReceiver() async throws -> (RegisPayProcess, url: String) {
      let process = try RegisPayProcess(
        program: "python3", [StoreUnderTest.support + "/busy_receiver.py", open, "2"], folder: folder)
      guard let port = try await process.nextLine() else {
        throw RegisPayProcess.Failure(description: "no port; on stderr: \(process.errorText)")
      }
      return (process, "http://127.0.0.1:\(port)/")
    }

    func openReceiver() throws { try "".write(toFile: open, atomically: true, encoding: .utf8) }
  }

  private static let days2 = 2 * 86_400
  private static let days400 = 400 * 86_400

  /// Waits until a message gets this status.
  private func receive(_ status: String, from receiver: RegisPayProcess) async throws {
    while true {
      let line = try await receiver.nextLine(within: .seconds(60))
      guard let line else { throw RegisPayProcess.Failure(description: "the receiver ended: \(receiver.errorText)") }
      if line.hasPrefix(status) { return }
    }
  }

  @Test(
    "a clock that is set forward or back while the server runs makes no key of its own old",
    arguments: [[days2], [days2, 0], [-days2], [days400, -days400, 0]])
  func keys(_ jumps: [Int]) async throws {
    try await withTemporaryFolder { folder in
      let machine = Machine(folder: folder)
      try machine.setClock(by: 0)
      // Every call may have been carried out, and waits on the log or in memory for the next one.
      let server = try await machine.startServer([
        "--breaker-seconds", "0.2", "--retry-delay-limit", "0.5", "--breaker-failures", "1000000",
      ])
      _ = try await server.post("/toggle-errors", "")
      let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "order-1")]
      let body = #"{"amount":5,"currency":"GBP"}"#
      let payment = try await server.post("/api/v1/payments", body, headers: headers).object()["paymentId"]
      let id = try #require(payment as? String)
      let attempts = { () async throws -> Int in
        let waiting = try await server.get("/api/v1/payments/\(id)").object()["waiting"] as? [String: Any]
        return waiting?["attempts"] as? Int ?? 0
      }
      for jump in [0] + jumps {
        try machine.setClock(by: jump)
        let seen = try await attempts()
        try await eventually("it is tried with this clock, or is at rest", within: .seconds(30)) {
          if try await server.status(of: id) == "OutcomeUnknown" { return true }
          return try await attempts() > seen + 1
        }
      }
      let again = try await server.post("/api/v1/payments", body, headers: headers)
      #expect(try again.object()["paymentId"] as? String == id, "the client's key is as young")
      _ = try await server.post("/toggle-errors", "")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// What happens between a request and its repeat.
  enum ClockEvent: Sendable {
    case setClock(Int), restart, removeTime, pay
  }

  @Test(
    "a client's key is remembered over restarts with a clock that is wrong",
    arguments: [
      [.setClock(days2), .restart], [.restart, .setClock(days2), .restart, .setClock(0)],
      [.setClock(days2), .pay, .restart, .setClock(0)], [.setClock(-days2), .pay, .setClock(days2), .restart],
      [.removeTime, .setClock(days2), .restart],
    ] as [[ClockEvent]])
  func clientKeysOverRestarts(_ events: [ClockEvent]) async throws {
    try await withTemporaryFolder { folder in
      let machine = Machine(folder: folder)
      try machine.setClock(by: 0)
      var server = try await machine.startServer()
      func pay(_ key: String) async throws -> String {
        let response = try await server.post(
          "/api/v1/payments", #"{"amount":5,"currency":"GBP"}"#,
          headers: [("Content-Type", "application/json"), ("Idempotency-Key", key)])
        return try #require(try response.object()["paymentId"] as? String)
      }
      var ids = ["first": try await pay("first")]
      for event in events {
        switch event {
        case .setClock(let seconds): try machine.setClock(by: seconds)
        case .restart, .removeTime:
          try await server.killHard()
          if case .removeTime = event { try FileManager.default.removeItem(atPath: folder + "/data/time") }
          server = try await machine.startServer()
        case .pay: ids["later"] = try await pay("later")
        }
        // For the server to notice the clock, and to write the time.
        try await Task.sleep(for: .seconds(1.2))
      }
      for (key, id) in ids { #expect(try await pay(key) == id, "\(key)") }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "webhooks go on as soon as the clock is set right, also after a restart",
    arguments: [(days400, false), (days400, true), (-days400, false), (-days400, true)])
  func webhooks(_ wrongBy: Int, _ restarts: Bool) async throws {
    try await withTemporaryFolder { folder in
      let machine = Machine(folder: folder)
      let (receiver, url) = try await machine.startReceiver()
      try machine.setClock(by: wrongBy)
      var server = try await machine.startServer()
      #expect(try await server.post("/api/v1/webhooks", "{\"url\":\"\(url)\"}").status == 201)
      _ = try await server.createPayment("1.00")
      try await receive("503", from: receiver)
      if restarts { #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false)) }
      try machine.setClock(by: 0)
      try machine.openReceiver()
      if restarts { server = try await machine.startServer() }
      try await receive("204", from: receiver)
      let started = server
      try await eventually("everything is delivered", within: .seconds(60)) {
        let endpoints = try await started.get("/api/v1/webhooks").object()["webhooks"] as? [[String: Any]]
        return endpoints?.first?["waiting"] as? Int == 0
      }
    }
  }

  /// Seconds since 1970 that no machine's clock should say, against the true time: before 1970, just behind it, and too many to be
  /// counted in microseconds.
  private static let impossible = [-100_000, 5, 900_000_000_000_000_000]

  @Test("a server takes payments and ends cleanly whatever the clock says", arguments: impossible)
  func impossibleClock(_ seconds: Int) async throws {
    try await withTemporaryFolder { folder in
      let machine = Machine(folder: folder)
      try machine.setClock(by: seconds - Int(Date().timeIntervalSince1970))
      let server = try await machine.startServer()
      let id = try await server.createPayment("1.00")
      #expect(try await server.get("/api/v1/payments/\(id)").status == 200)
      #expect(try await server.get("/health").status == 200)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      // What was written so is read when the clock is right.
      try machine.setClock(by: 0)
      let again = try await machine.startServer()
      #expect(try await again.get("/api/v1/payments/\(id)").status == 200)
      #expect(try await again.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a time that can't be kept is reported, and kept again as soon as it can be")
  func timeLost() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let path = folder + "/data/time"
      let isThere = { FileManager.default.fileExists(atPath: path) }
      try await eventually("the time is written", within: .seconds(10)) { isThere() }
      try FileManager.default.removeItem(atPath: path)
      try await eventually("it is written again", within: .seconds(10)) { isThere() }
      try FileManager.default.removeItem(atPath: path)
      try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
      try await eventually("/health says so", within: .seconds(10)) {
        let health = try await server.get("/health")
        return health.status == 200 && String(decoding: health.body, as: UTF8.self).contains("the time can't be kept")
      }
      try FileManager.default.removeItem(atPath: path)
      try await eventually("it is well again", within: .seconds(10)) {
        String(decoding: try await server.get("/health").body, as: UTF8.self) == "Healthy" && isThere()
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a key grows older over restarts after a clock that was ahead is set right")
  func keysOverRestarts() async throws {
    try await withTemporaryFolder { folder in
      let machine = Machine(folder: folder)
      try machine.setClock(by: 3_600)
      // The PSP keeps a key for 6 seconds, and no process lives as long.
      let item = PSPCase(amount: 500, step: "settle", fault: .forgets, first: nil, status: 500, isRestarted: false)
      let psp = try await OtherPSP.start([item], forgetSeconds: 6, in: folder)
      let life = Duration.seconds(2)
      let arguments = [
        "--psp-url", psp.url, "--notifications-url", psp.url, "--retry-delay-limit", "0.3", "--breaker-failures",
        "1000000",
        "--psp-key-lifetime", "\(5.0 / 3_600)",
      ]
      let first = try await machine.startServer(arguments)
      let id = try await first.createPayment("5.00")
      try await eventually("the settlement was carried out, and answered with 500", within: .seconds(20)) {
        try await psp.ledger().hasHappened("settle", item.amount)
      }
      try machine.setClock(by: 0)
      var server = first
      var status: String?
      let end = ContinuousClock.now + .seconds(20)
      repeat {
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
        server = try await machine.startServer(arguments)
        try await Task.sleep(for: life)
        status = try await server.status(of: id)
      } while status != "OutcomeUnknown" && ContinuousClock.now < end
      // And not for what a PSP that has forgotten the key says of the repeat.
      let unknown = try await server.get("/api/v1/payments/\(id)").object()["unknown"] as? [String: Any]
      let reason = try #require(unknown?["reason"] as? String)
      #expect(reason.contains("keeps its key"), "\(reason)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("logstore appends and prints whatever the clock says", arguments: impossible)
  func impossibleClockOfStore(_ seconds: Int) async throws {
    let store = try StoreUnderTest()
    let clock = store.scratch.newPath("clock")
    let shift = seconds - Int(Date().timeIntervalSince1970)
    try "\(shift)\n".write(toFile: clock, atomically: true, encoding: .utf8)
    let words = ["env", "LD_PRELOAD=\(try await TestTool.clock.value)", "SHIFTED_CLOCK=\(clock)"]
    let appended = try await store.run(["append"], input: Array("s\tT\tx\n".utf8), under: words)
    #expect(appended.exitCode == 0 && appended.text == "ok 0\n", "\(appended.errors)")
    let dumped = try await store.run(["dump", "--format", "json"], under: words)
    #expect(dumped.exitCode == 0 && dumped.lines.count == 1, "\(dumped.errors)")
    #expect(try await store.run("append", input: "s\tT\ty\n").text == "ok 1\n")
    #expect(try await store.run("verify").exitCode == 0)
  }
}
