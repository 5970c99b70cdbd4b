import Foundation
import Testing

extension RegisPayDamageTests {
  /// Each way of the server's to a finished segment.
  enum Reading: CaseIterable {
    case payment, events, command, keyOfRequest, eventStream, replay, ledger, keyOfSimulator

    var log: String {
      switch self {
      case .ledger, .keyOfSimulator: "simulator"
      default: "payments"
      }
    }
  }

  private func read(_ reading: Reading, _ id: String, _ server: RunningServer) async throws -> Int {
    switch reading {
    case .payment: return try await server.get("/api/v1/payments/\(id)").status
    case .events: return try await server.get("/api/v1/payments/\(id)/events").status
    case .command: return try await server.post("/api/v1/payments/\(id)/refunds", #"{"amount":1}"#).status
    case .keyOfRequest:
      return try await server.post("/api/payment/create", Template.body, headers: Template.keyHeaders).status
    case .eventStream:
      let request = "GET /api/v1/events?from=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
      let stream = try RawConnection(server.url, sending: request)
      let text = stream.read { $0.contains("event: missing") }
      try #require(text.contains("event: missing"), "\(text)")
      return 500
    case .replay:
      let made = try await server.post("/api/v1/webhooks", #"{"url": "http://127.0.0.1:1025/"}"#).object()
      let webhook = try #require(made["id"] as? String)
      return try await server.post("/api/v1/webhooks/\(webhook)/replay", #"{"from": "2000-01-01T00:00:00Z"}"#).status
    case .ledger: return try await server.get("/psp/api/ledger").status
    case .keyOfSimulator:
      return try await server.post("/psp/api/payments/create", Template.body, headers: Template.keyHeaders).status
    }
  }

  @Test(
    "who first meets a finished segment that is spoilt while the server runs makes /health tell of it at once",
    arguments: Reading.allCases)
  func metFirst(_ reading: Reading) async throws {
    let template = try await Self.template.value
    let id = try #require(template.first.min())
    try await withCopy(template) { folder in
      // Nobody but the reader looks.
      let server = try await RunningServer.start(
        directory: folder, arguments: Self.small + ["--scrub-rate", "0", "--allow-private-webhooks"])
      #expect(try await health(server) == "Healthy")
      let path = "\(folder)/data/\(reading.log)/00000000000000000000.log"
      let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
      try handle.write(contentsOf: Data(repeating: 7, count: 65_536))
      try handle.close()
      let status = try await read(reading, id, server)
      #expect(status == [.ledger: 200, .keyOfSimulator: 503][reading, default: 500])
      let warnings = try await health(server)
      #expect(warnings.contains("warning: the \(reading.log) log: damaged \(path) @"), "\(warnings)")
      #expect(try await server.get("/alive").status == 200)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
