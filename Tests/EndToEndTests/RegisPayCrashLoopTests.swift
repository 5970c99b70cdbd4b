import Foundation
import Testing

/// A peer whose calls end the process, at every start again: `Support/crashing_peer.py`.
@Suite("RegisPay, when a peer crashes it at each start", .serialized)
struct RegisPayCrashLoopTests {
  private func start(_ folder: String, _ peer: String) async throws -> RunningServer {
    // The backtrace of a debug build takes many seconds, and nobody reads it.
    try await RunningServer.start(
      directory: folder, arguments: ["--psp-url", peer + "/psp", "--allow-private-webhooks", "--call-timeout", "2"],
      under: ["env", "SWIFT_BACKTRACE=enable=no"])
  }

  /// Starts the server again and again until it stays.
  ///
  /// - Returns: how often it crashed.
  private func settle(
    _ folder: String, _ peer: String, until isOver: (RunningServer) async throws -> Bool
  ) async throws -> (server: RunningServer, crashCount: Int) {
    for count in 1...8 {
      let server = try await start(folder, peer)
      let deadline = ContinuousClock.now + .seconds(40)
      while kill(server.process.pid, 0) == 0, ContinuousClock.now < deadline {
        // It may end as it is asked.
        if let isOver = try? await isOver(server), isOver { return (server, count) }
        try await Task.sleep(for: .milliseconds(50))
      }
      let exit = try await server.process.waitForExit()
      #expect(exit.isSignal && exit.code == SIGILL, "\(exit)")
    }
    throw RegisPayProcess.Failure(description: "it crashes for ever")
  }

  private func withPeer(_ work: (_ folder: String, _ url: String) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in
      let peer = try RegisPayProcess(
        program: "python3", ["-B", StoreUnderTest.support + "/crashing_peer.py"], folder: folder)
      let port = try #require(try await peer.nextLine(), "no port: \(peer.errorText)")
      try await work(folder, "http://127.0.0.1:\(port)")
      withExtendedLifetime(peer) {}
    }
  }

  @Test("a webhook whose calls crash it is disabled after four crashes; payments and other webhooks go on meanwhile")
  func webhook() async throws {
    try await withPeer { folder, peer in
      let first = try await start(folder, peer)
      let good = try await first.post("/api/v1/webhooks", "{\"url\":\"\(peer)/good\"}").object()
      let bad = try await first.post("/api/v1/webhooks", "{\"url\":\"\(peer)/crash\"}").object()
      let (goodID, badID) = (try #require(good["id"] as? String), try #require(bad["id"] as? String))
      _ = try? await first.createPayment("1.00")
      #expect(try await first.process.waitForExit().isSignal)
      let (server, count) = try await settle(folder, peer) { server in
        try await server.get("/api/v1/webhooks/\(badID)").object()["enabled"] as? Bool == false
      }
      #expect(count <= 5)
      let payment = try await server.createPayment("2.00")
      try await server.wait(for: payment, status: "Completed", within: .seconds(20))
      try await eventually("the good endpoint has everything", within: .seconds(20)) {
        let shown = try await server.get("/api/v1/webhooks/\(goodID)").object()
        return shown["offset"] as? Int == shown["logEnd"] as? Int
      }
      let health = String(decoding: try await server.get("/health").body, as: UTF8.self)
      #expect(health.contains("crashed"), "\(health)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a payment whose call crashes it has an unknown outcome after that; the others complete")
  func payment() async throws {
    try await withPeer { folder, peer in
      let first = try await start(folder, peer)
      let good = try await first.createPayment("1.00")
      try await first.wait(for: good, status: "Completed", within: .seconds(20))
      let bad = try await first.createPayment("66.60")
      #expect(try await first.process.waitForExit().isSignal)
      let (server, count) = try await settle(folder, peer) { server in
        try await server.status(of: bad) == "OutcomeUnknown"
      }
      #expect(count <= 5)
      let payment = try await server.createPayment("2.00")
      try await server.wait(for: payment, status: "Completed", within: .seconds(20))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      // It ended as it should: the next start is one like any other.
      let next = try await start(folder, peer)
      #expect(!String(decoding: try await next.get("/health").body, as: UTF8.self).contains("crashed"))
      #expect(try await next.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
