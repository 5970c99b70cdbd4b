import Foundation
import Testing

/// A stop of a server that the system gives nothing any more.
@Suite("RegisPay, stopped without threads and memory", .serialized)
struct RegisPayStopTests {
  /// Root has no limit of threads.
  private static let nobody = ["setpriv", "--reuid=\(user)", "--regid=\(user)", "--clear-groups"]
  /// Nobody else's, since the limit counts all processes of a user.
  private static let user = UInt32.random(in: 100_000_000...2_000_000_000)
  private static let canBeNobody = geteuid() == 0 && FileManager.default.fileExists(atPath: "/usr/bin/setpriv")

  /// A limit of the running process, for prlimit.
  private func limit(_ server: RunningServer, _ limit: String, under wrapper: [String], _ folder: String) async throws {
    let change = try RegisPayProcess(
      program: "prlimit", under: wrapper, ["--pid", "\(server.process.pid)", limit], folder: folder)
    #expect(try await change.waitForExit().code == 0, "\(change.errorText)")
  }

  private func number(_ field: String, of server: RunningServer) throws -> Int {
    let status = try String(contentsOfFile: "/proc/\(server.process.pid)/status", encoding: .utf8)
    let line = try #require(status.split(separator: "\n").first { $0.hasPrefix(field + ":") })
    return try #require(Int(line.split(whereSeparator: { $0 == ":" || $0.isWhitespace })[1]))
  }

  /// Without its own threads for it, the server goes on for ever.
  private func expectStop(_ server: RunningServer, _ signal: Int32) async throws {
    server.process.signal(signal)
    let exit = try await server.process.waitForExit(within: .seconds(60))
    #expect(!exit.isSignal && exit.code <= 1, "\(exit) \(server.process.errorText)")
    guard exit.code == 1 else { return }
    #expect(
      server.process.errorText.hasSuffix(
        "regispay: the stop took longer than the 3 seconds of --stop-timeout; the next start finishes the rest\n"),
      "\(server.process.errorText)")
  }

  @Test(
    "a server that gets no further thread ends within --stop-timeout",
    .enabled(if: canBeNobody, "needs root and setpriv"),
    arguments: [SIGTERM, SIGINT, SIGHUP])
  func noThreads(signal: Int32) async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(atPath: folder + "/data", withIntermediateDirectories: false)
      for path in [folder, folder + "/data"] { #expect(chown(path, Self.user, Self.user) == 0) }
      // As from a shell, also where the tests themselves run under nohup.
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--stop-timeout", "3"], under: ["env", "--default-signal=HUP"] + Self.nobody)
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      try await limit(server, "--nproc=1:", under: Self.nobody, folder)
      // Threads that have nothing to do end, and are missed at the stop.
      var count = try number("Threads", of: server)
      for _ in 0..<20 {
        try await Task.sleep(for: .milliseconds(500))
        count = min(count, try number("Threads", of: server))
      }
      try await expectStop(server, signal)
    }
  }

  @Test("a server without address space ends within --stop-timeout", arguments: [0, 1 << 20, 4 << 20])
  func noAddressSpace(left: Int) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--stop-timeout", "3"])
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      let used = try number("VmSize", of: server) * 1024
      try await limit(server, "--as=\(used + left):", under: [], folder)
      try await Task.sleep(for: .seconds(8))
      try await expectStop(server, SIGTERM)
    }
  }

  @Test("a server that gets no further memory responds, says so, and stops in order")
  func noMemoryUnderLoad() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder, arguments: ["--stop-timeout", "3"])
      let id = try await server.createPayment("1")
      try await server.wait(for: id, status: "Completed", within: .seconds(30))
      try await limit(server, "--as=\(number("VmSize", of: server) * 1024):", under: [], folder)
      try await withThrowingTaskGroup(of: Void.self) { clients in
        for _ in 0..<16 {
          clients.addTask {
            for path in Array(repeating: Self.paths, count: 4).joined() {
              let status = try await server.get(path).status
              // A server that is busy may say so.
              #expect([200, 503].contains(status), "\(path)")
            }
          }
        }
        try await clients.waitForAll()
      }
      let health = try await server.get("/health")
      #expect(String(decoding: health.body, as: UTF8.self).contains("the system gives the server no more memory"))
      // With room again, nothing is said any more.
      try await limit(server, "--as=unlimited:", under: [], folder)
      try await eventually("the reserve is kept again", within: .seconds(10)) {
        !String(decoding: try await server.get("/health").body, as: UTF8.self).contains("no more memory")
      }
      try await limit(server, "--as=\(number("VmSize", of: server) * 1024):", under: [], folder)
      try await expectStop(server, SIGTERM)
    }
  }

  /// Each makes the server do something else.
  private static let paths = [
    "/health", "/metrics", "/api/v1/consumers", "/api/v1/payments", "/api/v1/payments/count",
    "/api/v1/payments/troubles", "/api/v1/log",
    "/api/v1/webhooks", "/",
  ]
}
