import Foundation
import Testing

/// The server sees a root certificate and a host name of the test's own, in a mount namespace of its own.
@Suite("RegisPay's webhooks over TLS")
struct RegisPayWebhookTLSTests {
  @Test("a PSP whose certificate is not trusted has not been reached: nothing can have happened")
  func psp() async throws {
    try await withTemporaryFolder { folder in
      _ = try await TestCertificates.make(["hooks.example.test"], in: folder)
      let receiver = try await receiver("root", in: folder)
      let port = try #require(URL(string: receiver.url)?.port)
      let url = "https://localhost:\(port)"
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--psp-url", url, "--notifications-url", url, "--breaker-seconds", "0.2"])
      let id = try await server.createPayment("1.00")
      let reason = "the PSP can't be reached: the certificate of localhost isn't trusted: self-signed certificate"
      try await eventually("the reason of the wait is shown", within: .seconds(20)) {
        let waiting = try await server.get("/api/v1/payments/\(id)").object()["waiting"] as? [String: Any]
        return waiting?["reason"] as? String == reason
      }
      _ = try await server.post("/api/v1/payments/\(id)/cancel", "")
      try await server.wait(for: id, status: "Cancelled", within: .seconds(20))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// - Parameter version: the latest version of TLS that it speaks; nil for any.
  private func receiver(
    _ name: String, in folder: String, _ version: String? = nil
  ) async throws -> (process: RegisPayProcess, url: String) {
    let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("Support/receive_tls.py")
    let process = try RegisPayProcess(
      program: "python3",
      [script.path, folder + "/\(name).crt", folder + "/\(name).key"] + (version.map { [$0] } ?? []),
      folder: folder)
    guard let port = try await process.nextLine() else {
      throw RegisPayProcess.Failure(description: "no port; on stderr: \(process.errorText)")
    }
    return (process, "https://hooks.example.test:\(port)/hook")
  }

  /// What came of a test message to this URL.
  private func send(_ url: String, by server: RunningServer) async throws -> [String: Any] {
    let id = try await server.post("/api/v1/webhooks", "{\"url\":\"\(url)\"}").object()["id"] as? String
    return try await server.post("/api/v1/webhooks/\(try #require(id))/test", "").object()
  }

  @Test("the address that was checked is asked for its name, and only a certificate for that name is accepted")
  func names() async throws {
    try await withTemporaryFolder { folder in
      let wrapper = try await TestCertificates.make(
        ["hooks.example.test", "other.example.test", "127.0.0.1"], in: folder)
      let right = try await receiver("hooks.example.test", in: folder)
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--allow-private-webhooks"],
        under: wrapper)
      #expect(try await send(right.url, by: server)["status"] as? Int == 204)
      let port = try #require(URL(string: right.url)?.port)
      #expect(try await right.process.nextLine() == "hooks.example.test hooks.example.test:\(port)")
      // A certificate for the address that the name leads to is not one for the name.
      for name in ["other.example.test", "127.0.0.1"] {
        let wrong = try await receiver(name, in: folder)
        let refused = try await send(wrong.url, by: server)
        #expect(refused["outcome"] as? String == "failed")
        #expect(
          refused["error"] as? String
            == "it can't be reached: the certificate of hooks.example.test is not for this name")
        wrong.process.signal(SIGKILL)
        while let line = try await wrong.process.nextLine() { Issue.record("a request arrived: \(line)") }
      }
      let old = try await receiver("hooks.example.test", in: folder, "TLSv1.1")
      let refused = try await send(old.url, by: server)
      #expect(refused["outcome"] as? String == "failed")
      #expect(
        (refused["error"] as? String)?.hasPrefix("it can't be reached: TLS with hooks.example.test failed") == true)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a certificate that no known root vouches for is not accepted")
  func unknownRoot() async throws {
    try await withTemporaryFolder { folder in
      _ = try await TestCertificates.make(["hooks.example.test"], in: folder)
      let receiver = try await receiver("hooks.example.test", in: folder)
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--allow-private-webhooks"],
        under: ["unshare", "-m", "sh", "-c", #"mount --bind \#(folder)/hosts /etc/hosts && exec "$@""#, "sh"])
      let refused = try await send(receiver.url, by: server)
      #expect(refused["outcome"] as? String == "failed")
      let reason = "no certificate authority that this machine knows signed it"
      #expect(
        refused["error"] as? String
          == "it can't be reached: the certificate of hooks.example.test isn't trusted: \(reason)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}

/// A root certificate and certificates of it, for servers of tests.
enum TestCertificates {
  private static func run(_ arguments: [String], _ folder: String) async throws {
    let process = try RegisPayProcess(program: arguments[0], Array(arguments.dropFirst()), folder: folder)
    let exit = try await process.waitForExit(within: .seconds(60))
    guard exit.code == 0 else { throw RegisPayProcess.Failure(description: "\(arguments): \(process.errorText)") }
  }

  /// Makes a root, and certificates of it for these names or IPv4 addresses: `NAME.crt` and `NAME.key`.
  ///
  /// - Returns: what runs a program that trusts the root and finds hooks.example.test on this machine.
  static func make(_ names: [String], in folder: String) async throws -> [String] {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    try await run(
      [
        "openssl", "req", "-x509", "-subj", "/CN=test root", "-keyout", folder + "/root.key", "-out",
        folder + "/root.crt",
      ]
        + key, folder)
    for name in names {
      try await run(
        [
          "openssl", "req", "-x509", "-subj", "/CN=\(name)", "-addext",
          "subjectAltName=\(name.contains { $0.isLetter } ? "DNS" : "IP"):\(name)", "-CA",
          folder + "/root.crt", "-CAkey", folder + "/root.key", "-addext", "basicConstraints=critical,CA:FALSE",
          "-keyout", folder + "/\(name).key", "-out", folder + "/\(name).crt",
        ] + key, folder)
    }
    try "127.0.0.1 localhost hooks.example.test\n".write(toFile: folder + "/hosts", atomically: true, encoding: .utf8)
    let mounts = [
      "mount --bind \(folder)/hosts /etc/hosts", "mount --bind \(folder)/root.crt /etc/ssl/certs/ca-certificates.crt",
    ]
    return ["unshare", "-m", "sh", "-c", mounts.joined(separator: " && ") + #" && exec "$@""#, "sh"]
  }
}
