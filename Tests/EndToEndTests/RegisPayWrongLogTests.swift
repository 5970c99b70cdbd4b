import Foundation
import Testing

@Suite("RegisPay, whose logs were replaced between two runs")
struct RegisPayWrongLogTests {
  private static let order = [("Content-Type", "application/json"), ("Idempotency-Key", "order-1")]

  /// Leaves a data directory with a completed payment, after a clean stop.
  ///
  /// - Returns: the payment's id.
  @discardableResult private func use(_ folder: String) async throws -> String {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let server = try await RunningServer.start(directory: folder)
    let id = try await pay(server)
    try await server.wait(for: id, status: "Completed", within: .seconds(10))
    #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    return id
  }

  private func pay(_ server: RunningServer) async throws -> String {
    let made = try await server.post("/api/v1/payments", #"{"amount":5,"currency":"GBP"}"#, headers: Self.order)
    return try #require(try made.object()["paymentId"] as? String)
  }

  private func known(_ folder: String) throws -> String {
    try String(contentsOfFile: folder + "/data/payments.known", encoding: .utf8)
  }

  private func knownID(_ folder: String) throws -> String {
    let object = try JSONSerialization.jsonObject(with: Data(known(folder).utf8)) as? [String: Any]
    return try #require(object?["storeID"] as? String)
  }

  private func remove(_ path: String) throws { try FileManager.default.removeItem(atPath: path) }

  private func move(_ path: String, to target: String) throws {
    try FileManager.default.moveItem(atPath: path, toPath: target)
  }

  /// A start that is refused.
  ///
  /// - Returns: the line that says why.
  private func refusal(_ folder: String) async throws -> String {
    let process = try RegisPayProcess(
      ["serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576"], folder: folder)
    #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    return process.errorText.split(separator: "\n").last.map(String.init) ?? ""
  }

  @Test("the log of another server is refused at each start with both ids; with the right one a repeated key pays once")
  func otherServers() async throws {
    try await withTemporaryFolder { folder in
      let (data, other) = (folder + "/data/", folder + "/other")
      let payment = try await use(folder)
      try await use(other)
      let (before, own, foreign) = (try known(folder), try knownID(folder), try knownID(other))
      try move(data + "payments", to: folder + "/kept")
      try move(other + "/data/payments", to: data + "payments")
      for _ in 1...2 {
        let line = try await refusal(folder)
        #expect(line.contains("\(data)payments holds another log: its id is \(foreign)"), "\(line)")
        #expect(line.contains("payments.known says \(own)."), "\(line)")
        #expect(try known(folder) == before)
      }
      try remove(data + "payments")
      try move(folder + "/kept", to: data + "payments")
      let server = try await RunningServer.start(directory: folder)
      #expect(try await pay(server) == payment)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("swapped logs are refused, also when everything derived from them is gone", arguments: [false, true])
  func swapped(onlyLogs: Bool) async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data/"
      let payment = try await use(folder)
      func swap() throws {
        try move(data + "payments", to: folder + "/kept")
        try move(data + "simulator", to: data + "payments")
        try move(folder + "/kept", to: data + "simulator")
      }
      try swap()
      if onlyLogs { for name in ["payments.known", "projection", "webhooks"] { try remove(data + name) } }
      for _ in 1...2 {
        let line = try await refusal(folder)
        #expect(line.contains("\(data)payments holds another log: "), "\(line)")
        #expect(line.contains("which only the simulator writes"), "\(line)")
        #expect(line.contains("its id is ") == !onlyLogs, "\(line)")
      }
      try swap()
      let server = try await RunningServer.start(directory: folder)
      #expect(try await pay(server) == payment)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a log that ends before its known end starts with a warning that names the offsets, until the file is removed")
  func shorter() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data/"
      try await use(folder)
      let object = try JSONSerialization.jsonObject(with: Data(known(folder).utf8)) as? [String: Any]
      let end = try #require(object?["events"] as? Int)
      try move(data + "payments", to: folder + "/kept")
      // As from an older backup.
      let program = RegisPayProcess.buildFolder.appendingPathComponent("logstore").path
      for arguments in [
        ["backup", "--dir", folder + "/kept", "--to", folder + "/backup"],
        ["restore", "--from", folder + "/backup", "--dir", data + "payments", "--until", "2"],
      ] {
        let process = try RegisPayProcess(program: program, arguments, folder: folder)
        #expect(try await process.waitForExit() == .init(code: 0, isSignal: false))
      }
      let text = "the events that had the offsets 2..\(end - 1) are gone"
      for number in 1...3 {
        if number == 3 { try remove(data + "payments.known") }
        let server = try await RunningServer.start(directory: folder)
        let health = try await server.get("/health")
        let lines = String(decoding: health.body, as: UTF8.self)
        #expect(health.status == 200)
        #expect(lines.contains("warning: the payments log was shorter") == (number < 3), "\(lines)")
        #expect(lines.contains(text) == (number < 3), "\(lines)")
        #expect(server.process.errorText.contains(text) == (number < 3), "\(server.process.errorText)")
        // The log passes its earlier end.
        for _ in 0...end { _ = try await server.createPayment("1") }
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      }
    }
  }
}
