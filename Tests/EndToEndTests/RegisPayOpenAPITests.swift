import Foundation
import Testing

extension RegisPayServeTests {
  /// Requests that schemathesis makes up for each operation, beside those that it always makes. `TEST_REGISPAY_API_EXAMPLES`
  /// asks for more, and then for others each time.
  private static let examples = ProcessInfo.processInfo.environment["TEST_REGISPAY_API_EXAMPLES"]

  /// See `schemathesis.toml` for what is left out, and why.
  @Test("schemathesis finds nothing that the server does otherwise than its OpenAPI document says")
  func schemathesis() async throws {
    try await withTemporaryFolder { folder in
      let python = try await PythonEnvironment.make(in: folder, installing: "schemathesis")
      let server = try await RunningServer.start(directory: folder)
      // Some there are before, so that not all that is asked for is unknown.
      for amount in 1...3 { _ = try await server.createPayment("\(amount).00") }
      let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
      let run = try RegisPayProcess(
        program: python.programs + "/st", under: ["-C", folder],
        [
          "--config-file", root.appendingPathComponent("schemathesis.toml").path, "run", server.url + "/openapi.json",
          "--no-color", "--max-examples", Self.examples ?? "15",
        ] + (Self.examples == nil ? ["--generation-deterministic"] : []), folder: folder)
      var lines: [String] = []
      while let line = try await run.nextLine(within: .seconds(600)) { lines.append(line) }
      let output = lines.joined(separator: "\n")
      #expect(try await run.waitForExit().code == 0, "\(output)")
      // That it ran, and did more than load the document.
      let summary = try #require(lines.first { $0.contains(" generated, ") }, "\(output)")
      let generated = try #require(summary.split(separator: " ").first.flatMap { Int($0) }, "\(summary)")
      #expect(generated > 300, "\(summary)")
      let paths = try #require(try await server.get("/openapi.json").object()["paths"] as? [String: [String: Any]])
      let operations = paths.values.flatMap(\.keys).filter { $0 != "parameters" }
      // All but the streams, and the document, which it passes over by itself.
      #expect(lines.contains { $0.contains("Tested: \(operations.count - 3)") }, "\(output)")
      #expect(try await server.get("/health").status == 200)
      #expect(!server.process.errorText.contains("request failed"), "\(server.process.errorText)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
