import Foundation
import Testing

extension RegisPayServeTests {
  private func port(of server: RunningServer) throws -> Int {
    try #require(server.url.split(separator: ":").last.flatMap { Int($0) })
  }

  private func expectServing(_ server: RunningServer) async throws {
    #expect(try await server.get("/health").status == 200)
    let id = try await server.createPayment("1.00")
    try await server.wait(for: id, status: "Completed", within: .seconds(30))
    #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
  }

  @Test(
    "after a signal of a crash the process ends, and a start at once waits for that and is ready on the same port",
    arguments: [SIGSEGV, SIGABRT])
  func crashRestart(_ signal: Int32) async throws {
    try await withTemporaryFolder { folder in
      let first = try await RunningServer.start(directory: folder)
      first.process.signal(signal)
      // Not before: the start must find a process that has crashed, and not one that lives.
      try await eventually("the crash is noted", within: .seconds(20)) {
        try Data(contentsOf: URL(fileURLWithPath: folder + "/data/crashed")).first == UInt8(ascii: "!")
      }
      let second = try await RunningServer.start(directory: folder, port: try port(of: first))
      #expect(try await first.process.waitForExit() == .init(code: signal, isSignal: true))
      try await expectServing(second)
    }
  }

  @Test("a process that is killed while its crash is reported leaves its port to the next start")
  func killedInReport() async throws {
    try await withTemporaryFolder { folder in
      let first = try await RunningServer.start(directory: folder)
      first.process.signal(SIGSEGV)
      try await eventually("the crash is being reported", within: .seconds(20)) {
        first.process.errorText.contains("Backtracing from") || kill(first.process.pid, 0) != 0
      }
      try await first.killHard()
      try await expectServing(try await RunningServer.start(directory: folder, port: try port(of: first)))
    }
  }

  @Test("a stop before the server is ready ends it at once, as one afterwards", arguments: [SIGTERM, SIGINT])
  func stoppedInStart(_ signal: Int32) async throws {
    try await withTemporaryFolder { folder in
      let first = try await RunningServer.start(directory: folder)
      // The next start takes the first server for one that has crashed, and waits for its lock.
      try Data("!".utf8).write(to: URL(fileURLWithPath: folder + "/data/crashed"))
      let second = try RegisPayProcess(["serve", "--dir", folder + "/data", "--port", "0"], folder: folder)
      try await eventually("it waits", within: .seconds(20)) {
        second.errorText.contains("waiting for a crashed process")
      }
      second.signal(signal)
      #expect(try await second.waitForExit(within: .seconds(10)) == .init(code: 0, isSignal: false))
      #expect(try await first.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
