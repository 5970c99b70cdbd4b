import Foundation
import Testing

/// The lock file, or the directory, taken away under a running server.
@Suite("A lock that is taken away from a running server", .serialized)
struct LockRemovedTests {
  enum Loss: String, CaseIterable {
    case removed, replaced
  }

  private func append(_ log: String, folder: String) async throws -> (code: Int32, errors: String) {
    let program = RegisPayProcess.buildFolder.appendingPathComponent("logstore").path
    let process = try RegisPayProcess(
      program: program, ["append", "--dir", log, "--stream", "a", "--type", "b", "--data", "c"], folder: folder)
    return (try await process.waitForExit().code, process.errorText)
  }

  @Test("lets no second writer in, and loses no payment", arguments: Loss.allCases)
  func lockFile(loss: Loss) async throws {
    try await withTemporaryFolder { folder in
      let log = folder + "/data/payments"
      let server = try await RunningServer.start(directory: folder)
      var payments = [try await server.createPayment("1")]
      try FileManager.default.removeItem(atPath: log + "/lock")
      if loss == .replaced { FileManager.default.createFile(atPath: log + "/lock", contents: nil) }

      let second = try await append(log, folder: folder)
      #expect(second.code != 0)
      #expect(second.errors.contains("process \(server.process.pid) (regispay, user \(geteuid()))"), "\(second.errors)")
      let other = try RegisPayProcess(["serve", "--dir", folder + "/data", "--port", "0"], folder: folder)
      #expect(try await other.waitForExit().code != 0)
      #expect(other.errorText.contains("is locked by process"), "\(other.errorText)")

      // The first one notices, and refuses; what it has answered before counts.
      try await eventually("it acknowledges nothing any more", within: .seconds(20)) {
        let answer = try await server.post("/api/payment/create", #"{"amount": 2, "currency": "GBP"}"#)
        if let id = try? answer.object()["paymentId"] as? String { payments.append(id) }
        return answer.status == 503
      }
      try await server.killHard()
      let next = try await RunningServer.start(directory: folder)
      for id in payments { #expect(try await next.status(of: id) != nil, "\(id)") }
    }
  }

  @Test("is seen when the directory is moved away and another takes its place")
  func directory() async throws {
    try await withTemporaryFolder { folder in
      let log = folder + "/data/payments"
      let server = try await RunningServer.start(directory: folder)
      _ = try await server.createPayment("1")
      try FileManager.default.moveItem(atPath: log, toPath: folder + "/moved")
      #expect(try await append(log, folder: folder).code == 0, "another store, which nobody writes")
      try await eventually("it acknowledges nothing any more", within: .seconds(20)) {
        try await server.post("/api/payment/create", #"{"amount": 2, "currency": "GBP"}"#).status == 503
      }
      let health = String(decoding: try await server.get("/health").body, as: UTF8.self)
      #expect(health.contains("the payments log can't write"), "\(health)")
    }
  }
}
