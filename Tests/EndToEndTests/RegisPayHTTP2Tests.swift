import Foundation
import Testing

/// The clients are httpx, nghttp2's h2load, and one of our own that breaks RFC 9113.
@Suite("RegisPay over HTTP/2")
struct RegisPayHTTP2Tests {
  private func start(_ folder: String, _ arguments: String...) async throws -> (
    process: RegisPayProcess, port: Substring
  ) {
    try await SelfSigned.make("server", in: folder)
    let process = try RegisPayProcess(
      [
        "serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576", "--log-format", "text",
        "--tls-certificate", folder + "/server.crt", "--tls-key", folder + "/server.key",
      ] + arguments, folder: folder)
    let line = try #require(try await process.nextLine(), "\(process.errorText)")
    return (process, try #require(line.split(separator: ":").last))
  }

  private func lines(of process: RegisPayProcess, within time: Duration) async throws -> [String] {
    var lines: [String] = []
    while let line = try await process.nextLine(within: time) { lines.append(line) }
    return lines
  }

  @Test("payments at once and an event stream on one connection; a stop leaves no request without its response")
  func clients() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "httpx[http2]")
      let (process, port) = try await start(folder)
      let load = try RegisPayProcess(
        program: "h2load", ["-n", "5000", "-c", "10", "-m", "50", "https://localhost:\(port)/alive"], folder: folder)
      let report = try await lines(of: load, within: .seconds(60))
      #expect(report.contains { $0.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout") }, "\(report)")
      let clients = try RegisPayProcess(
        program: python.programs + "/python3",
        [
          "-B", StoreUnderTest.support + "/http2_clients.py", "https://localhost:\(port)", folder + "/server.crt",
          "\(process.pid)",
        ], folder: folder)
      let said = try await lines(of: clients, within: .seconds(120))
      #expect(said == ["all well"], "\(said) \(clients.errorText)")
      #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
    }
  }

  @Test("kills with requests in the air lose no answered payment, and repeats with their keys make no second one")
  func kills() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "httpx[http2]")
      try await SelfSigned.make("server", in: folder)
      let clients = try RegisPayProcess(
        program: python.programs + "/python3",
        [
          "-B", StoreUnderTest.support + "/http2_kills.py",
          RegisPayProcess.buildFolder.appendingPathComponent("regispay").path, folder + "/data",
          folder + "/server.crt", folder + "/server.key", "5",
        ], folder: folder)
      let said = try await lines(of: clients, within: .seconds(300))
      #expect(said.last?.hasPrefix("all well") == true, "\(said) \(clients.errorText)")
    }
  }

  @Test(
    "a client that breaks the protocol, floods, does not read or does not finish ends its own request or connection only"
  )
  func breaking() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "hpack")
      let (process, port) = try await start(
        folder, "--head-timeout", "3", "--body-timeout", "3", "--write-timeout", "3")
      let peer = try RegisPayProcess(
        program: python.programs + "/python3",
        ["-B", StoreUnderTest.support + "/http2_peer.py", "localhost", String(port), folder + "/server.crt", "3"],
        folder: folder)
      let found = try await lines(of: peer, within: .seconds(300))
      #expect(try await peer.waitForExit() == .init(code: 0, isSignal: false), "\(found) \(peer.errorText)")
      #expect(!process.errorText.contains("request part out of order"))
      process.signal(SIGTERM)
      #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
    }
  }
}
