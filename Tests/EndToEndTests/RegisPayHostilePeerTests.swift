import Foundation
import Testing

/// A PSP, a notification service and receivers of webhooks that send arbitrary bytes: `Support/hostile_peer.py`.
@Suite("RegisPay, while peers send arbitrary bytes")
struct RegisPayHostilePeerTests {
  private func waitForRest(_ ids: [String], _ server: RunningServer) async throws -> [String: Int] {
    let deadline = ContinuousClock.now + .seconds(240)
    while true {
      var states: [String: Int] = [:]
      for id in ids { states[try await server.status(of: id) ?? "missing", default: 0] += 1 }
      if states.keys.allSatisfy({ ["Completed", "OutcomeUnknown"].contains($0) }) { return states }
      guard ContinuousClock.now < deadline else { throw RegisPayProcess.Failure(description: "no rest: \(states)") }
      // Polls the server: outside of it there is no event to wait for.
      try await Task.sleep(for: .milliseconds(500))
    }
  }

  /// Two messages to a separate endpoint; the peer responds to the first with the case's bytes.
  private func deliver(_ number: Int, to url: String, by server: RunningServer) async throws {
    let hook = try await server.post("/api/v1/webhooks", "{\"url\":\"\(url)/hook/\(number)\"}").object()
    let id = try #require(hook["id"] as? String)
    let first = try await server.post("/api/v1/webhooks/\(id)/test", "").object()
    #expect(["failed", "delivered"].contains(first["outcome"] as? String), "case \(number): \(first)")
    let second = try await server.post("/api/v1/webhooks/\(id)/test", "").object()
    #expect(second["outcome"] as? String == "delivered", "case \(number): \(first), then \(second)")
  }

  @Test(
    "the process survives, every payment and endpoint reaches a declared state, and the next good response counts",
    arguments: [false, true])
  func anything(isTLS: Bool) async throws {
    try await withTemporaryFolder { folder in
      let wrapper = isTLS ? try await TestCertificates.make(["hooks.example.test"], in: folder) : []
      let certificate = isTLS ? [folder + "/hooks.example.test.crt", folder + "/hooks.example.test.key"] : []
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/hostile_peer.py"] + certificate, folder: folder)
      let line = try await peer.nextLine() ?? ""
      let numbers = line.split(separator: " ").compactMap { Int($0) }
      try #require(numbers.count == 2, "no port: \(peer.errorText)")
      let (port, caseCount) = (numbers[0], numbers[1])
      let url = isTLS ? "https://hooks.example.test:\(port)" : "http://127.0.0.1:\(port)"
      let server = try await RunningServer.start(
        directory: folder,
        arguments: [
          "--psp-url", url + "/psp", "--notifications-url", url + "/notifications", "--allow-private-webhooks",
          "--call-timeout", "1", "--webhook-timeout", "2", "--retry-delay-limit", "1", "--breaker-seconds", "0.1",
          "--breaker-failures", "1000000",
        ], under: wrapper)
      var ids: [[String]] = [[], [], []]
      for number in 0..<caseCount {
        for step in 0..<3 {
          let amount = 1_001 + 3 * number + step
          ids[step].append(
            try await server.createPayment("\(amount / 100).\(amount % 100 < 10 ? "0" : "")\(amount % 100)"))
        }
      }
      // An accepted creation without a reference can't be resolved; every other call is repeated and ends.
      let created = try await waitForRest(ids[0], server)
      #expect((created["OutcomeUnknown"] ?? 0) < caseCount / 2, "\(created)")
      #expect(try await waitForRest(ids[1] + ids[2], server) == ["Completed": 2 * caseCount])
      try await withThrowingTaskGroup { group in
        for number in 0..<caseCount { group.addTask { try await deliver(number, to: url, by: server) } }
        try await group.waitForAll()
      }
      let last = try await server.createPayment("5000.00")
      try await server.wait(for: last, status: "Completed", within: .seconds(30))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
    }
  }
}
