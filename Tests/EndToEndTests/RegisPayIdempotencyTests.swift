import Foundation
import Testing

@Suite("RegisPay, one key from many clients")
struct RegisPayIdempotencyTests {
  @Test("100 clients with one key, through a kill -9: one payment, one charge, the same response for all")
  func throughAKill() async throws {
    try await withTemporaryFolder { folder in
      let first = try await RunningServer.start(directory: folder)
      let port = try #require(URL(string: first.url)?.port)
      try await withThrowingTaskGroup(of: String.self) { group in
        for client in 0..<100 {
          group.addTask {
            // Some are sent before the kill, some after, and all are repeated until they get a response.
            try await Task.sleep(for: .milliseconds(client * 3))
            return try await response(first, within: .seconds(60))
          }
        }
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...200)))
        try await first.killHard()
        let restarted = try await RunningServer.start(directory: folder, port: port)
        let responses = try await group.reduce(into: [String]()) { $0.append($1) }
        #expect(responses.count == 100)
        #expect(Set(responses).count == 1)
        let json = try JSONSerialization.jsonObject(with: Data(try #require(responses.first).utf8)) as? [String: Any]
        let id = try #require(json?["paymentId"] as? String)
        try await restarted.wait(for: id, status: "Completed", within: .seconds(60))
        let list = try await restarted.get("/api/v1/payments").object()["payments"] as? [Any]
        #expect(list?.count == 1)
        let ledger = try await restarted.get("/psp/api/ledger").object()
        #expect(ledger["count"] as? Int == 1)
      }
    }
  }

  private func response(_ server: RunningServer, within limit: Duration) async throws -> String {
    let deadline = ContinuousClock.now + limit
    while true {
      let response = try? await server.post(
        "/api/v1/payments", #"{"amount":12.34,"currency":"GBP"}"#,
        headers: [("Content-Type", "application/json"), ("Idempotency-Key", "one")])
      if let response, response.status == 200 { return String(decoding: response.body, as: UTF8.self) }
      guard ContinuousClock.now < deadline else { throw RegisPayProcess.Failure(description: "no response in time") }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}
