import Foundation
import LogStore
import Testing

@testable import RegisPay

/// `regispay simulator` in this process.
@Suite("The simulator by itself")
struct SimulatorServerTests {
  /// Runs a simulator on `folder/data` while `work` runs.
  private func run(
    in folder: String, _ change: (inout SimulatorOptions) -> Void = { _ in },
    _ work: @escaping @Sendable (TestServer) async throws -> Void
  ) async throws {
    var options = SimulatorOptions(directory: folder + "/data")
    options.port = 0
    options.segmentBytes = 1 << 20
    change(&options)
    let server = try SimulatorServer.open(options, logger: silent)
    let addresses = AsyncStream<String>.makeStream()
    let run = Task {
      defer { addresses.continuation.finish() }
      try await server.run { addresses.continuation.yield($0) }
    }
    var failure: (any Error)?
    do {
      if let url = await addresses.stream.first(where: { _ in true }) { try await work(TestServer(url: url)) }
    } catch {
      failure = error
    }
    server.stop()
    try await run.value
    if let failure { throw failure }
  }

  @Test(
    "it has the routes of the services that it stands for and /alive, and no other route of a server",
    arguments: [[Simulator.Service.psp, .notifications], [.psp], [.notifications]])
  func routes(_ services: [Simulator.Service]) async throws {
    var prefixes = services.map { "/\($0.rawValue)/" }
    prefixes += ["/toggle-errors", "/alive"]
    try await withTemporaryFolder { folder in
      try await run(in: folder, { $0.services = Set(services) }) { [prefixes] server in
        var served: [String] = []
        for path in RouteAccess.all.keys {
          // No route has this method: 405 tells that there is one.
          let status = try await server.send("PATCH", path.replacing("{", with: "").replacing("}", with: "")).status
          #expect([404, 405].contains(status), "\(path): \(status)")
          if status == 405 { served.append(path) }
        }
        let expected = RouteAccess.all.keys.filter { path in prefixes.contains { path.hasPrefix($0) } }
        #expect(Set(served) == Set(expected))
      }
    }
  }

  @Test("other sites' pages and unknown hosts are refused while it asks for no key")
  func browser() async throws {
    try await withTemporaryFolder { folder in
      try await run(in: folder, { $0.allowedHosts = ["psp.test"] }) { server async throws in
        func ledger(_ headers: [(String, String)]) async throws -> Int {
          try await server.send("GET", "/psp/api/ledger", headers: headers).status
        }
        #expect(try await ledger([]) == 200)
        #expect(try await ledger([("Host", "evil.example")]) == 421)
        #expect(try await ledger([("Host", "psp.test")]) == 200)
        #expect(try await ledger([("Sec-Fetch-Site", "cross-site")]) == 403)
        #expect(try await ledger([("Origin", "http://evil.example")]) == 403)
      }
    }
  }

  @Test("it begins with the faults that it was given, until they are changed")
  func faults() async throws {
    try await withTemporaryFolder { folder in
      let faults = try Faults(text: #"{"failBefore": 1, "failStatuses": [503]}"#)
      try await run(in: folder, { $0.faults[.psp] = faults }) { server async throws in
        let body = #"{"amount":1.00,"currency":"GBP"}"#
        #expect(try await server.create(body, path: "/psp/api/payments/create").status == 503)
        let message = #"{"id":"a","jsonPayload":"{}"}"#
        #expect(try await server.create(message, path: "/notifications/api/send").status == 202)
        #expect(try await server.send("DELETE", "/psp/api/faults").status == 200)
        #expect(try await server.create(body, path: "/psp/api/payments/create").status == 202)
      }
    }
  }

  @Test("a key is answered the same way after a restart, and the ledger has one charge")
  func restart() async throws {
    try await withTemporaryFolder { folder in
      let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "a:create")]
      let body = Array(#"{"amount":1.00,"currency":"GBP"}"#.utf8)
      let answers = AsyncStream<String>.makeStream()
      for _ in 1...2 {
        try await run(in: folder) { server in
          let response = try await server.send("POST", "/psp/api/payments/create", headers: headers, body: body)
          #expect(response.status == 202)
          answers.continuation.yield(response.text)
          #expect(try await server.get("/psp/api/ledger").text.contains(#""count":1}"#))
        }
      }
      answers.continuation.finish()
      let all = await answers.stream.reduce(into: []) { $0.append($1) }
      #expect(all.count == 2 && Set(all).count == 1)
    }
  }

  @Test("every name that it leaves in its directory is known, and the directory is not taken for a server's")
  func names() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      _ = try KeyStore.open(data)
      // With keys alone either program may have it.
      try DataDirectory.check(data, for: .server)
      try await run(in: folder) { server in _ = try await server.get("/alive") }
      for name in try FileManager.default.contentsOfDirectory(atPath: data) {
        #expect(DataDirectory.isOwn(name), "\(name)")
      }
      try DataDirectory.check(data)
      try DataDirectory.check(data, for: .simulator)
      #expect(throws: DataDirectory.Refusal.self) { try DataDirectory.check(data, for: .server) }
      #expect(throws: ServerError.self) { try Server.open(ServerOptions(directory: data), logger: silent) }
    }
  }

  @Test("a payments log in the place of its own is refused")
  func wrongLog() async throws {
    try await withTemporaryFolder { folder in
      var options = LogStore.Options()
      options.segmentBytes = 1 << 20
      try PrivateFiles.makeDirectory(folder + "/data")
      let log = try LogStore.open(folder + "/data/ledger", options: options)
      _ = try await log.append(Append([NewEvent(stream: "a", type: "PaymentInitiated", payload: [])]))
      try await log.close()
      let error = await #expect(throws: ServerError.self) { try await run(in: folder) { _ in } }
      #expect(error?.description.contains("\(folder)/data/ledger holds another log") == true)
    }
  }

  @Test(
    "a directory with anything of a server's is refused",
    arguments: ["payments", "simulator", "projection", "webhooks", "payments.known", "restoration"])
  func servers(_ name: String) async throws {
    try await withTemporaryFolder { folder in
      try Data().write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
      let refusal = #expect(throws: DataDirectory.Refusal.self) {
        try DataDirectory.check(folder, for: .simulator)
      }
      #expect(refusal?.description.contains(name) == true)
    }
  }
}
