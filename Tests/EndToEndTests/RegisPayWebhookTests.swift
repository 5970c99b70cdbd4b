import Foundation
import Testing

/// A real server, and a receiver that verifies with somebody else's program.
@Suite("RegisPay's webhooks, received by another program")
struct RegisPayWebhookTests {
  /// The receiver, with the package installed for it alone.
  private struct Receiver {
    let process: RegisPayProcess
    let url: String
    private let secretFile: String

    static func start(in folder: String) async throws -> Receiver {
      let python = try await PythonEnvironment.make(in: folder, installing: "standardwebhooks")
      let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Support/receive_webhooks.py")
      let secretFile = folder + "/secret"
      let process = try RegisPayProcess(
        program: python.programs + "/python3", [script.path, secretFile], folder: folder)
      guard let port = try await process.nextLine() else {
        throw RegisPayProcess.Failure(description: "no port; on stderr: \(process.errorText)")
      }
      return Receiver(process: process, url: "http://127.0.0.1:\(port)/hook?shop=1", secretFile: secretFile)
    }

    func use(_ secret: String) throws { try secret.write(toFile: secretFile, atomically: true, encoding: .utf8) }

    /// The words of the next lines, as many as are asked for; id and rest by the first word.
    func lines(_ count: Int) async throws -> [[String]] {
      var lines: [[String]] = []
      for _ in 0..<count {
        guard let line = try await process.nextLine() else {
          throw RegisPayProcess.Failure(description: "the receiver ended: \(process.errorText)")
        }
        lines.append(line.split(separator: " ").map(String.init))
      }
      return lines
    }
  }

  private func register(_ receiver: Receiver, at server: RunningServer) async throws -> (id: String, secret: String) {
    let response = try await server.post("/api/v1/webhooks", "{\"url\":\"\(receiver.url)\"}")
    #expect(response.status == 201)
    let object = try response.object()
    return (try #require(object["id"] as? String), try #require(object["secret"] as? String))
  }

  private let types = ["payment.completed", "payment.created", "payment.initiated", "payment.settled"]

  @Test("a payment's way verifies with the PyPI package, after a rotation with either secret, and never with another")
  func verifies() async throws {
    try await withTemporaryFolder { folder in
      let receiver = try await Receiver.start(in: folder)
      let server = try await RunningServer.start(directory: folder, arguments: ["--allow-private-webhooks"])
      let (id, secret) = try await register(receiver, at: server)
      try receiver.use(secret)
      let payment = try await server.createPayment("12.34")
      let lines = try await receiver.lines(4)
      #expect(lines.allSatisfy { $0[0] == "verified" }, "\(lines)")
      #expect(lines.map { $0[2] }.sorted() == types)
      #expect(Set(lines.map { $0[1] }) == Set((1...4).map { "msg_\(payment)_\($0)" }))
      #expect(Set(lines.map { $0[3] }) == ["Initiated", "Created", "Settled", "Completed"])

      let rotated = try await server.post("/api/v1/webhooks/\(id)/rotate", "").object()
      let newSecret = try #require(rotated["secret"] as? String)
      for usable in [secret, newSecret] {
        try receiver.use(usable)
        #expect(try await server.post("/api/v1/webhooks/\(id)/test", "").object()["status"] as? Int == 204)
        #expect(try await receiver.lines(1)[0][0] == "verified")
      }
      try receiver.use("whsec_" + Data(repeating: 7, count: 32).base64EncodedString())
      #expect(try await server.post("/api/v1/webhooks/\(id)/test", "").object()["status"] as? Int == 401)
      #expect(try await receiver.lines(1)[0][0] == "refused")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      for text in [secret, newSecret] {
        #expect(!server.process.errorText.contains(text.dropFirst("whsec_".count)))
        for name in try FileManager.default.subpathsOfDirectory(atPath: folder + "/data/payments") {
          let bytes = try Data(contentsOf: URL(fileURLWithPath: folder + "/data/payments/" + name))
          #expect(bytes.range(of: Data(text.dropFirst("whsec_".count).utf8)) == nil)
        }
      }
    }
  }

  @Test("killed while a receiver refuses, the server sends everything after its next start, and loses no endpoint")
  func killed() async throws {
    try await withTemporaryFolder { folder in
      let receiver = try await Receiver.start(in: folder)
      let arguments = ["--allow-private-webhooks"]
      let server = try await RunningServer.start(directory: folder, arguments: arguments)
      let (id, secret) = try await register(receiver, at: server)
      try receiver.use("whsec_" + Data(repeating: 7, count: 32).base64EncodedString())
      let payment = try await server.createPayment("12.34")
      #expect(try await receiver.lines(4).allSatisfy { $0[0] == "refused" })
      try await server.killHard()
      let restarted = try await RunningServer.start(directory: folder, arguments: arguments)
      try receiver.use(secret)
      // Five seconds after the first try each is tried again, or at once if its failure was not written any more.
      var verified: Set<String> = []
      while verified.count < 4 {
        let line = try await receiver.lines(1)[0]
        if line[0] == "verified" { verified.insert(line[1]) }
      }
      #expect(verified == Set((1...4).map { "msg_\(payment)_\($0)" }))
      let shown = try await restarted.get("/api/v1/webhooks/\(id)").object()
      #expect(shown["enabled"] as? Bool == true && shown["secret"] == nil)
      #expect(try await restarted.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("without the option nothing is delivered to this machine")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for host in ["127.0.0.1", "127.1", "2130706433", "[::1]", "localhost", "10.0.0.1", "169.254.169.254"] {
        for scheme in ["http", "https"] {
          let response = try await server.post("/api/v1/webhooks", "{\"url\":\"\(scheme)://\(host)/hook\"}")
          #expect(response.status == 400, "\(scheme)://\(host)")
        }
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
