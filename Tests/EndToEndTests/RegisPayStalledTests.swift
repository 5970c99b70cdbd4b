import Foundation
import Testing

/// What the server writes to takes nothing, and says nothing.
@Suite("RegisPay, while what it writes to hangs")
struct RegisPayStalledTests {
  @Test(
    "a standard error that nobody reads holds neither requests nor the end, and the lines that are lost are counted")
  func standardError() async throws {
    try await withTemporaryFolder { folder in
      let open = folder + "/open"
      // Reads nothing before the file is there; then everything. Ends with the test, however that ends.
      let wait = "while [ ! -e '\(open)' ]; do [ -d '\(folder)' ] || exit; sleep 0.05; done"
      let reader = "\(wait); exec cat > '\(folder)/errors'"
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--log-level", "trace"],
        under: ["bash", "-c", "exec 2> >(\(reader)); exec \"$@\"", "bash"])
      // The pipe holds 64 KiB and the server 256 KiB more; a payment's line has more than 100 bytes.
      try await load(server, payments: 4_000, folder)
      #expect(try await server.get("/alive").status == 200)
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(10))
      _ = FileManager.default.createFile(atPath: open, contents: nil)
      try await eventually("the lines that are missing", within: .seconds(20)) {
        // It is made when the reader begins.
        (try? String(contentsOfFile: folder + "/errors", encoding: .utf8))?.contains("log lines are missing here")
          == true
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a server whose standard error is never read stops on request")
  func standardErrorNeverRead() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--log-level", "trace"],
        under: ["bash", "-c", "exec 2> >(exec sleep 25 > /dev/null); exec \"$@\"", "bash"])
      try await load(server, payments: 1_000, folder)
      server.process.signal(SIGTERM)
      // What does not read holds the pipe by which Foundation learns of an end.
      try await eventually("the end", within: .seconds(15)) {
        // Without a file it is gone.
        let status = try? String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
        return status?.contains("State:\tZ") != false
      }
    }
  }

  private func load(_ server: RunningServer, payments: Int, _ folder: String) async throws {
    let rate = 400
    let load = try RegisPayProcess(
      ["load", "--url", server.url, "--rate", "\(rate)", "--seconds", "\(payments / rate)"], folder: folder)
    #expect(try await load.waitForExit(within: .seconds(90)).code == 0, "\(load.errorText)")
  }

  @Test("health reports a disk that does not complete a write, until it does")
  func disk() async throws {
    try await withTemporaryFolder { folder in
      let hang = folder + "/hang"
      let server = try await RunningServer.start(
        directory: folder, under: ["env", "LD_PRELOAD=\(try await TestTool.hang.value)", "HANG=\(hang)"])
      let first = try await server.createPayment("1")
      try await server.wait(for: first, status: "Completed", within: .seconds(10))
      _ = FileManager.default.createFile(atPath: hang, contents: nil)
      async let created = server.createPayment("2")
      try await eventually("/health tells of the hanging disk", within: .seconds(20)) {
        let health = try await server.get("/health")
        return health.status == 503
          && String(decoding: health.body, as: UTF8.self).contains("the payments log has waited")
      }
      try FileManager.default.removeItem(atPath: hang)
      try await server.wait(for: try await created, status: "Completed", within: .seconds(10))
      try await eventually("/health is well again", within: .seconds(20)) {
        try await server.get("/health").status == 200
      }
    }
  }
}
