import Foundation
import Testing

extension RegisPayServeTests {
  @Test("damage in an old segment is found while the server serves, and reported in the log and by /health")
  func scrub() async throws {
    try await withTemporaryFolder { folder in
      let store = try StoreUnderTest()
      try await store.fill(900)
      let name = try store.segments()[0]
      try store.change(name) { $0[30_000] ^= 4 }
      try FileManager.default.createDirectory(atPath: folder + "/data", withIntermediateDirectories: true)
      try FileManager.default.moveItem(atPath: store.path, toPath: folder + "/data/payments")
      let server = try await RunningServer.start(directory: folder)
      func health() async throws -> String { String(decoding: try await server.get("/health").body, as: UTF8.self) }
      var warnings = try await health()
      let deadline = ContinuousClock.now + .seconds(30)
      while !warnings.contains("warning: the payments log: damaged "), ContinuousClock.now < deadline {
        // Polls the server: outside of it there is no event to wait for.
        try await Task.sleep(for: .milliseconds(10))
        warnings = try await health()
      }
      #expect(warnings.contains("data/payments/\(name) @"), "\(warnings)")
      #expect(server.process.errorText.contains("damage found"))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
