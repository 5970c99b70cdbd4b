import Foundation
import Testing

@Suite("RegisPay, started with another PSP than before")
struct RegisPayNewPSPTests {
  @Test("does not start, changes nothing and calls nobody, until --new-psp is given once")
  func otherPSP() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(atPath: folder + "/busy", withIntermediateDirectories: true)
      // Nobody listens there.
      let url = "http://127.0.0.1:9/psp"
      let other = ["--psp-url", url, "--log-level", "error"]
      let first = try await RunningServer.start(directory: folder)
      let id = try await first.createPayment("1")
      try await first.wait(for: id, status: "Completed", within: .seconds(10))
      // Not cleanly: what it knows must not depend on that.
      try await first.killHard()
      for _ in 1...2 {
        let line = try await refusal(folder, other)
        #expect(line.contains("were made with the simulator, and the PSP would now be \(url): "), "\(line)")
        #expect(line.contains("--new-psp"), "\(line)")
      }
      let same = try await RunningServer.start(directory: folder)
      #expect(try await same.stopGracefully() == .init(code: 0, isSignal: false))
      // A start that fails has called nobody.
      let busy = try await RunningServer.start(directory: folder + "/busy")
      let port = try #require(busy.url.split(separator: ":").last)
      #expect(try await refusal(folder, other + ["--new-psp", "--port", String(port)]).contains("is in use"))
      let still = try await RunningServer.start(directory: folder)
      #expect(try await still.stopGracefully() == .init(code: 0, isSignal: false))
      for arguments in [["--new-psp"], []] {
        let server = try await RunningServer.start(directory: folder, arguments: other + arguments)
        _ = try await server.createPayment("1")
        try await server.killHard()
      }
      let line = try await refusal(folder, [])
      #expect(line.contains("were made with \(url), and the PSP would now be the simulator: "), "\(line)")
      #expect(line.contains("Start with --psp-url \(url);"), "\(line)")
    }
  }

  /// A start that is refused.
  ///
  /// - Returns: the line that says why.
  private func refusal(_ folder: String, _ arguments: [String]) async throws -> String {
    let process = try RegisPayProcess(
      ["serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576"] + arguments, folder: folder)
    #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    return process.errorText.split(separator: "\n").last.map(String.init) ?? ""
  }
}
