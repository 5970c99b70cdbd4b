import Foundation
import Testing

@Suite("RegisPay, whose files were lost between two runs")
struct RegisPayLostFileTests {
  private static let order = [("Content-Type", "application/json"), ("Idempotency-Key", "order-1")]
  private static let amount = #"{"amount":5,"currency":"GBP"}"#

  /// Leaves a directory with a completed payment and a webhook, after a clean stop.
  private func use(_ folder: String) async throws -> (payment: String, webhook: String) {
    let server = try await RunningServer.start(directory: folder)
    let webhook = try await server.post("/api/v1/webhooks", #"{"url":"https://hooks.example/"}"#).object()["id"]
    let payment = try await server.post("/api/v1/payments", Self.amount, headers: Self.order).object()["paymentId"]
    let id = try #require(payment as? String)
    try await server.wait(for: id, status: "Completed", within: .seconds(10))
    try await eventually("it is listed", within: .seconds(10)) { try await self.isListed(id, by: server) }
    #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    return (id, try #require(webhook as? String))
  }

  private func isListed(_ id: String, by server: RunningServer) async throws -> Bool {
    let payments = try await server.get("/api/v1/payments?status=Completed").object()["payments"] as? [[String: Any]]
    return payments?.contains { $0["paymentId"] as? String == id } ?? false
  }

  private func webhooks(of server: RunningServer) async throws -> [String] {
    let all = try await server.get("/api/v1/webhooks").object()["webhooks"] as? [[String: Any]]
    return try #require(all).compactMap { $0["id"] as? String }
  }

  /// A start that is refused.
  ///
  /// - Returns: the line that says why.
  private func refusal(_ folder: String) async throws -> String {
    let process = try RegisPayProcess(
      ["serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576", "--log-format", "text"],
      folder: folder)
    #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    return process.errorText.split(separator: "\n").last.map(String.init) ?? ""
  }

  @Test(
    "a lost file that can't be rebuilt is reported at each start, until it is restored",
    arguments: ["payments", "webhooks", "webhooks/webhooks.sqlite"])
  func missed(_ name: String) async throws {
    try await withTemporaryFolder { folder in
      let (payment, webhook) = try await use(folder)
      let (path, kept) = (folder + "/data/" + name, folder + "/kept")
      try FileManager.default.moveItem(atPath: path, toPath: kept)
      for _ in 1...2 {
        let line = try await refusal(folder)
        #expect(line.hasPrefix("regispay: ") && line.contains(path) && line.contains("restore "), "\(line)")
        if name == "payments" { #expect(line.contains("projection/payments.sqlite"), "says what knows of it: \(line)") }
        #expect(!FileManager.default.fileExists(atPath: path), "nothing stands in the way of a copy")
      }
      try FileManager.default.moveItem(atPath: kept, toPath: path)
      let server = try await RunningServer.start(directory: folder)
      let again = try await server.post("/api/v1/payments", Self.amount, headers: Self.order)
      #expect(try again.object()["paymentId"] as? String == payment)
      #expect(try await webhooks(of: server) == [webhook])
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "a log that was lost together with the list of payments is missed, also after a kill right after the first payment")
  func lostWithItsList() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let mark = folder + "/data/payments.known"
      func known() throws -> String { try String(contentsOfFile: mark, encoding: .utf8) }
      try await eventually("there is nothing to lose yet", within: .seconds(10)) {
        try FileManager.default.fileExists(atPath: mark) && known().contains(#""events":0"#)
      }
      #expect(try await server.post("/api/v1/payments", Self.amount, headers: Self.order).status == 200)
      try await eventually("the mark tells of it", within: .seconds(10)) { try !known().contains(#""events":0"#) }
      try await server.killHard()
      for name in ["payments", "projection", "webhooks"] {
        try FileManager.default.removeItem(atPath: folder + "/data/" + name)
      }
      for torn in [false, true] {
        if torn { try Data().write(to: URL(fileURLWithPath: mark)) }
        let line = try await refusal(folder)
        #expect(line.contains(mark) && line.contains("restore "), "\(line)")
      }
      // What the message says.
      for name in ["simulator", "payments.known"] {
        try FileManager.default.removeItem(atPath: folder + "/data/" + name)
      }
      let again = try await RunningServer.start(directory: folder)
      #expect(try await again.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("an empty log that was begun in the place of a lost one is refused too, and the list of payments stays")
  func emptyLog() async throws {
    try await withTemporaryFolder { folder in
      _ = try await use(folder)
      let other = folder + "/other"
      try FileManager.default.createDirectory(atPath: other, withIntermediateDirectories: true)
      let empty = try await RunningServer.start(directory: other)
      #expect(try await empty.stopGracefully() == .init(code: 0, isSignal: false))
      try FileManager.default.removeItem(atPath: folder + "/data/payments")
      try FileManager.default.moveItem(atPath: other + "/data/payments", toPath: folder + "/data/payments")
      for _ in 1...2 { #expect(try await refusal(folder).contains("missing or empty")) }
      // What the message says.
      for name in ["projection", "simulator", "webhooks", "payments.known"] {
        try FileManager.default.removeItem(atPath: folder + "/data/" + name)
      }
      let server = try await RunningServer.start(directory: folder)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "a webhooks file that is there and holds no endpoint is refused at each start, until the right one is put back",
    arguments: [false, true])
  func emptyWebhooks(hasNoBytes: Bool) async throws {
    try await withTemporaryFolder { folder in
      let (_, webhook) = try await use(folder)
      let (path, kept, other) = (folder + "/data/webhooks", folder + "/kept", folder + "/other")
      try FileManager.default.moveItem(atPath: path, toPath: kept)
      try FileManager.default.createDirectory(atPath: other, withIntermediateDirectories: true)
      if hasNoBytes {
        try FileManager.default.createDirectory(
          atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
        #expect(
          FileManager.default.createFile(
            atPath: path + "/webhooks.sqlite", contents: nil, attributes: [.posixPermissions: 0o600]))
      } else {
        // As a server without endpoints leaves it.
        let server = try await RunningServer.start(directory: other)
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
        try FileManager.default.moveItem(atPath: other + "/data/webhooks", toPath: path)
      }
      for _ in 1...2 {
        let line = try await refusal(folder)
        #expect(line.contains(path + "/webhooks.sqlite") && line.contains("it holds no webhook endpoint"), "\(line)")
        #expect(line.contains("--new-webhooks"), "\(line)")
      }
      try FileManager.default.removeItem(atPath: path)
      try FileManager.default.moveItem(atPath: kept, toPath: path)
      let server = try await RunningServer.start(directory: folder)
      #expect(try await webhooks(of: server) == [webhook])
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("--new-webhooks is needed once, and after the last webhook was removed nothing is")
  func newWebhooks() async throws {
    try await withTemporaryFolder { folder in
      _ = try await use(folder)
      let path = folder + "/data/webhooks"
      try FileManager.default.removeItem(atPath: path)
      #expect(try await refusal(folder).contains("--new-webhooks"))
      for arguments in [["--new-webhooks"], []] {
        let server = try await RunningServer.start(directory: folder, arguments: arguments)
        #expect(try await webhooks(of: server).isEmpty)
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      }
      var server = try await RunningServer.start(directory: folder)
      var ids: [String] = []
      for _ in 1...2 {
        let id = try await server.post("/api/v1/webhooks", #"{"url":"https://hooks.example/"}"#).object()["id"]
        ids.append(try #require(id as? String))
      }
      #expect(try await server.delete("/api/v1/webhooks/\(ids[0])").status == 204)
      try await server.killHard()
      try FileManager.default.moveItem(atPath: path, toPath: folder + "/kept")
      #expect(try await refusal(folder).contains("--new-webhooks"), "there is one still")
      try FileManager.default.moveItem(atPath: folder + "/kept", toPath: path)
      server = try await RunningServer.start(directory: folder)
      #expect(try await server.delete("/api/v1/webhooks/\(ids[1])").status == 204)
      try await server.killHard()
      try FileManager.default.removeItem(atPath: path)
      server = try await RunningServer.start(directory: folder)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("after a clean stop each SQLite file is whole without those beside it")
  func whole() async throws {
    try await withTemporaryFolder { folder in
      let (payment, webhook) = try await use(folder)
      for path in ["webhooks/webhooks.sqlite", "projection/payments.sqlite"] {
        for suffix in ["-wal", "-shm"] where FileManager.default.fileExists(atPath: "\(folder)/data/\(path)\(suffix)") {
          try FileManager.default.removeItem(atPath: "\(folder)/data/\(path)\(suffix)")
        }
      }
      let server = try await RunningServer.start(directory: folder)
      #expect(try await webhooks(of: server) == [webhook])
      #expect(try await isListed(payment, by: server))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      #expect(!server.process.errorText.contains("is rebuilt"), "\(server.process.errorText)")
    }
  }
}
