import Foundation
import Testing

extension RegisPayServeTests {
  @Test("damage in an old segment is found while the server serves, and told in the log and by /health")
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
      var told = try await health()
      let deadline = ContinuousClock.now + .seconds(30)
      while !told.contains("warning: the payments log: damaged "), ContinuousClock.now < deadline {
        // The server is asked again; there is nothing else outside of it to wait for.
        try await Task.sleep(for: .milliseconds(10))
        told = try await health()
      }
      #expect(told.contains("data/payments/\(name) @"), "\(told)")
      #expect(server.process.errorText.contains("damage found"))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
