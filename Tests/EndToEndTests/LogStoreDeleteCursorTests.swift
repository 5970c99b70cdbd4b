import Foundation
import Testing

extension LogStoreCommandTests {
  /// `delete-cursor` as a process.
  @Suite struct DeletingCursors {
    /// Commits a cursor behind all events of a store.
    private func commit(_ name: String, _ store: StoreUnderTest, _ count: Int) async throws {
      let tail = try store.start("tail", "--cursor", name)
      for offset in 0..<count { #expect(try await tail.line()?.hasPrefix("\(offset)\t") == true) }
      // Seen by another process once it is durable.
      try await eventually("the cursor is committed", within: .seconds(20)) {
        try await store.run("stat").text.contains("cursor \(name): at \(count), 0 behind\n")
      }
      tail.signal(SIGTERM)
      _ = try await tail.end()
    }

    @Test("a deleted cursor is gone, the others and all events stay, and its name begins as a new one")
    func deletes() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      try await commit("a", store, 10)
      try await commit("b", store, 10)
      let before = try await store.dump()
      let result = try await store.run("delete-cursor", "--cursor", "a")
      #expect(result.exitCode == 0 && result.text == "deleted cursor a, which was at 10\n", "\(result.errors)")
      let stat = try await store.run("stat").text
      #expect(!stat.contains("cursor a:") && stat.contains("cursor b: at 10, 0 behind"), "\(stat)")
      try await store.expectSound()
      #expect(try await store.dump() == before)
      try await commit("a", store, 10)
    }

    @Test("a name that no cursor has, wrong usage, a store that is none and one that is written to are refused")
    func refuses() async throws {
      let store = try StoreUnderTest()
      let none = try await store.run("delete-cursor", "--cursor", "a")
      #expect(none.exitCode == 1 && !FileManager.default.fileExists(atPath: store.path), "\(none.errors)")
      try await store.fill(3)
      let before = try store.content()
      let unknown = try await store.run("delete-cursor", "--cursor", "a")
      #expect(unknown.exitCode == 1 && unknown.text.isEmpty)
      #expect(unknown.errors.contains("has no cursor a; logstore stat lists"), "\(unknown.errors)")
      #expect(try await store.run("delete-cursor").exitCode == 64)
      #expect(try await store.run("delete-cursor", "--cursor", "").exitCode == 64)
      #expect(try store.content() == before)
      let writer = try store.start("append")
      try await writer.send("s\tT\t1\n")
      _ = try await writer.line()
      let locked = try await store.run("delete-cursor", "--cursor", "a")
      #expect(locked.exitCode == 1 && locked.errors.contains("is locked by process"), "\(locked.errors)")
      _ = try await writer.end()
    }
  }
}
