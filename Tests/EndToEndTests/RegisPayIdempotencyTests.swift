import Foundation
import Testing

@Suite("RegisPay, one key from many clients")
struct RegisPayIdempotencyTests {
  @Test("100 clients with one key, through a kill -9: one payment, one charge, the same answer for all")
  func throughAKill() async throws {
    try await withTemporaryFolder { folder in
      let first = try await RunningServer.start(directory: folder)
      let port = try #require(URL(string: first.url)?.port)
      try await withThrowingTaskGroup(of: String.self) { group in
        for client in 0..<100 {
          group.addTask {
            // Some come before the kill, some after, and all go on until they have an answer.
            try await Task.sleep(for: .milliseconds(client * 3))
            return try await answer(first, within: .seconds(60))
          }
        }
        try await Task.sleep(for: .milliseconds(Int.random(in: 0...200)))
        try await first.killHard()
        let restarted = try await RunningServer.start(directory: folder, port: port)
        let answers = try await group.reduce(into: [String]()) { $0.append($1) }
        #expect(answers.count == 100)
        #expect(Set(answers).count == 1)
        let json = try JSONSerialization.jsonObject(with: Data(try #require(answers.first).utf8)) as? [String: Any]
        let id = try #require(json?["paymentId"] as? String)
        try await restarted.wait(for: id, status: "Completed", within: .seconds(60))
        let list = try await restarted.get("/api/v1/payments").object()["payments"] as? [Any]
        #expect(list?.count == 1)
        let ledger = try await restarted.get("/psp/api/ledger").object()
        #expect(ledger["count"] as? Int == 1)
      }
    }
  }

  private func answer(_ server: RunningServer, within limit: Duration) async throws -> String {
    let deadline = ContinuousClock.now + limit
    while true {
      let answer = try? await server.post(
        "/api/v1/payments", #"{"amount":12.34,"currency":"GBP"}"#,
        headers: [("Content-Type", "application/json"), ("Idempotency-Key", "one")])
      if let answer, answer.status == 200 { return String(decoding: answer.body, as: UTF8.self) }
      guard ContinuousClock.now < deadline else { throw RegisPayProcess.Failure(description: "no answer in time") }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}
