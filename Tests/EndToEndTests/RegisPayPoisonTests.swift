import Foundation
import Testing

/// One payment of many goes wrong, for good or for a while.
@Suite("RegisPay, with a payment that fails")
struct RegisPayPoisonTests {
  private func setFaults(_ server: RunningServer, _ faults: String) async throws {
    let response = try await server.put("/psp/api/faults", faults)
    #expect(response.status == 200)
  }

  private func payment(_ server: RunningServer, _ id: String) async throws -> [String: Any] {
    try await server.get("/api/v1/payments/\(id)").object()
  }

  /// The parked payments that the list knows.
  private func parkedPayments(_ server: RunningServer) async throws -> [String] {
    let payments = try await server.get("/api/v1/payments?status=Failed").object()["payments"] as? [[String: Any]]
    return payments?.compactMap { $0["paymentId"] as? String } ?? []
  }

  private func command(_ folder: String, _ arguments: String...) async throws -> [String] {
    let process = try RegisPayProcess(arguments, folder: folder)
    var lines: [String] = []
    while let line = try await process.nextLine() { lines.append(line) }
    #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
    return lines
  }

  @Test("one that fails for ever and may have been carried out delays no other, and ends as a person finds")
  func neverSucceeds() async throws {
    try await withTemporaryFolder { folder in
      // The breaker's time is the default, and longer than other payments may take.
      let server = try await RunningServer.start(directory: folder, arguments: ["--retry-delay-limit", "0.05"])
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[500]}"#)
      let poisoned = try await server.createPayment("500.00")
      // While it is alone its failures look like an outage.
      try await eventually("its failures open the breaker", within: .seconds(20)) {
        let consumers = try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]] ?? []
        return consumers.contains { ($0["breaker"] as? [String: Any])?["state"] as? String == "open" }
      }
      let waiting = try await payment(server, poisoned)["waiting"] as? [String: Any]
      #expect(waiting?["reason"] as? String == "the PSP returned 500")
      #expect(waiting?["step"] as? String == "create")
      var others: [String] = []
      while try await server.status(of: poisoned) != "OutcomeUnknown" {
        let other = try await server.createPayment("1.00")
        try await server.wait(for: other, status: "Completed", within: .seconds(15))
        others.append(other)
        try #require(others.count < 2_000, "parked at last")
        // Its turn comes between the others, which it is counted by.
        try await Task.sleep(for: .milliseconds(20))
      }
      #expect(others.count >= 30)
      let unknown = try await payment(server, poisoned)["unknown"] as? [String: Any]
      #expect((unknown?["reason"] as? String)?.contains("the PSP returned 500") == true)
      let lines = try await command(folder, "unknown", "list", "--url", server.url)
      #expect(lines.count == 1 && lines.first?.hasPrefix(poisoned) == true && lines.first?.contains("500") == true)
      _ = try await command(
        folder, "unknown", "resolve", poisoned, "--step", "create", "--did-not-happen", "--url", server.url)
      try await server.wait(for: poisoned, status: "Declined", within: .seconds(15))
      #expect(try await command(folder, "unknown", "list", "--url", server.url).isEmpty)
      let ledger = try await server.get("/psp/api/ledger").object()
      #expect(ledger["count"] as? Int == others.count)
    }
  }

  @Test("one whose call the PSP doesn't know is parked, is seen with its reason, and finishes once it is released")
  func parked() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--retry-delay-limit", "0.05"])
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[404]}"#)
      let poisoned = try await server.createPayment("500.00")
      // Others go through meanwhile: it is no outage.
      while try await server.status(of: poisoned) != "Failed" {
        try await server.wait(for: try await server.createPayment("1.00"), status: "Completed", within: .seconds(15))
      }
      let failure = try await payment(server, poisoned)["failure"] as? [String: Any]
      #expect((failure?["reason"] as? String)?.contains("404") == true)
      try await eventually("the list, which follows the log, shows it", within: .seconds(10)) {
        try await parkedPayments(server) == [poisoned]
      }
      let lines = try await command(folder, "parked", "list", "--url", server.url)
      #expect(lines.count == 1 && lines.first?.hasPrefix(poisoned) == true && lines.first?.contains("404") == true)
      try await setFaults(server, "{}")
      _ = try await command(folder, "parked", "release", "--url", server.url, poisoned)
      try await server.wait(for: poisoned, status: "Completed", within: .seconds(15))
      #expect(try await command(folder, "parked", "list", "--url", server.url).isEmpty)
    }
  }

  @Test("all parked payments are released, also beside another person's release of some of them")
  func releasedByTwo() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--retry-delay-limit", "0.05"])
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[404]}"#)
      var parked: [String] = []
      // One after another, while others go through: more at once would look like an outage.
      for _ in 0..<8 {
        let id = try await server.createPayment("500.00")
        while try await server.status(of: id) != "Failed" {
          try await server.wait(for: try await server.createPayment("1.00"), status: "Completed", within: .seconds(15))
        }
        parked.append(id)
      }
      try await eventually("the list, which follows the log, shows all", within: .seconds(10)) {
        try await Set(parkedPayments(server)) == Set(parked)
      }
      try await setFaults(server, "{}")
      // Two at once: each meets payments that the other has released.
      async let first = command(folder, "parked", "release", "--all", "--url", server.url)
      async let second = command(folder, "parked", "release", "--all", "--url", server.url)
      _ = try await (first, second)
      for id in parked { try await server.wait(for: id, status: "Completed", within: .seconds(20)) }
      // One that is named and can't be released stops no other, and is told.
      let process = try RegisPayProcess(["parked", "release", "--url", server.url] + parked.prefix(2), folder: folder)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
      #expect(parked.prefix(2).allSatisfy { process.errorText.contains("regispay: \($0): refused with 409: ") })
      #expect(process.errorText.hasSuffix("2 of 2 payments were not released\n"), "\(process.errorText)")
    }
  }

  @Test("a payment with a Retry-After waits as long through a kill -9, and its reason and time are shown")
  func waitsThroughAKill() async throws {
    try await withTemporaryFolder { folder in
      var server = try await RunningServer.start(directory: folder)
      try await setFaults(server, #"{"failFrom":500,"failStatuses":[429],"retryAfter":25}"#)
      let id = try await server.createPayment("500.00")
      try await eventually("it waits", within: .seconds(10)) {
        (try await payment(server, id)["waiting"] as? [String: Any])?["until"] != nil
      }
      let waiting = try #require(try await payment(server, id)["waiting"] as? [String: Any])
      // Others go through, so that the cursor passes it.
      for _ in 0..<3 {
        try await server.wait(for: try await server.createPayment("1.00"), status: "Completed", within: .seconds(10))
      }
      try await server.killHard()
      // Without the faults: whenever it is tried, it goes through.
      server = try await RunningServer.start(directory: folder)
      let again = try await payment(server, id)
      #expect(again["status"] as? String == "Initiated")
      #expect((again["waiting"] as? [String: Any])?["until"] as? String == waiting["until"] as? String)
      try await eventually("it is counted", within: .seconds(15)) {
        let consumers = try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]] ?? []
        return consumers.first { $0["name"] as? String == "payment-create" }?["delayed"] as? Int == 1
      }
      try await server.wait(for: id, status: "Completed", within: .seconds(90))
      let events = try #require(
        try await server.get("/api/v1/payments/\(id)/events").object()["events"] as? [[String: Any]])
      #expect(
        events.compactMap { $0["type"] as? String }
          == ["PaymentInitiated", "PaymentDelayed", "PaymentCreated", "PaymentSettled", "PaymentCompleted"])
      // Both as RFC 3339 in UTC and of one length: their order is that of time.
      let until = try #require(waiting["until"] as? String)
      let created = try #require(events.first { $0["type"] as? String == "PaymentCreated" }?["timestamp"] as? String)
      #expect(created >= until)
    }
  }
}
