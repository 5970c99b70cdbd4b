import Foundation
import Testing

extension LogStoreCommandTests {
  /// Stores and backups that an older `logstore` made (OlderStores/make): whatever is checked more strictly since, they are
  /// read, appended to, verified, backed up, restored and repaired.
  @Suite struct OlderStores {
    let scratch: TemporaryDirectory

    init() async throws {
      scratch = try TemporaryDirectory(isInMemory: false)
      let archive = (StoreUnderTest.support as NSString).deletingLastPathComponent + "/OlderStores/version-1.tar.gz"
      let result = try await LogStoreProcess("tar", ["-xzf", archive, "-C", scratch.path], scratch: scratch).end()
      try #require(result.exitCode == 0, "\(result.errors)")
    }

    private func store(_ name: String) -> StoreUnderTest { StoreUnderTest("\(scratch.path)/\(name)", in: scratch) }

    /// What the older program printed of a store.
    private func dump(_ name: String) throws -> [UInt8] {
      try Array(Data(contentsOf: URL(fileURLWithPath: "\(scratch.path)/\(name).dump")))
    }

    @Test(
      "a store of the version before is read, verified, backed up, restored, repaired and appended to",
      arguments: ["closed", "killed", "gap", "alike"])
    func goesOn(name: String) async throws {
      let (store, before) = (store(name), try dump(name))
      #expect(try await store.run("dump").output == before)
      try await store.expectSound()
      for stream in ["s1", "A", "with id"] {
        let all = before.split(separator: 10).filter {
          $0.split(separator: 9).dropFirst().first == ArraySlice(stream.utf8)
        }
        let dumped = try await store.run("dump", "--stream", stream, "--skip-missing")
        #expect(dumped.outputLines.count == all.count, "\(stream): \(dumped.errors)")
      }
      let (backup, restored, repaired) = (scratch.newPath("b"), self.store("restored"), self.store("repaired"))
      try FileManager.default.createDirectory(atPath: backup, withIntermediateDirectories: false)
      let saved = try await store.run("backup", "--to", backup)
      #expect(saved.exitCode == 0, "\(saved.errors)")
      let made = try await restored.run("restore", "--from", backup)
      #expect(made.exitCode == 0, "\(made.errors)")
      #expect(try await restored.run("dump").output == before)
      let mended = try await store.run("repair", "--to", repaired.path)
      #expect(mended.exitCode == 0, "\(mended.errors)")
      #expect(try await repaired.run("dump").output == before)
      for store in [store, restored, repaired] {
        // Enough for a new segment, which follows on from an old one.
        try await store.fill(150, payloadBytes: 600, from: 5000)
        try await store.expectSound()
        let after = try await store.run("dump").output
        #expect(after.starts(with: before) && after.count > before.count)
        let read = try await Format.read(store)
        #expect(read.exitCode == 0 && read.output == after, "\(read.errors)")
      }
    }

    @Test(
      "a backup of the version before is restored, and goes on with what is new",
      arguments: ["backup", "stream.backup"])
    func backup(name: String) async throws {
      let (restored, before) = (store("restored"), try dump("closed"))
      let made = try await restored.run("restore", "--from", "\(scratch.path)/\(name)")
      #expect(made.exitCode == 0, "\(made.errors)")
      #expect(try await restored.run("dump").output == before)
      try await restored.fill(150, payloadBytes: 600, from: 5000)
      let saved = try await restored.run("backup", "--to", "\(scratch.path)/\(name)")
      #expect(saved.exitCode == 0, "\(saved.errors)")
      let again = store("again")
      #expect(try await again.run("restore", "--from", "\(scratch.path)/\(name)").exitCode == 0)
      #expect(try await again.run("dump").output == restored.run("dump").output)
    }

    @Test("a damaged store of the version before is repaired")
    func damaged() async throws {
      let (store, repaired) = (store("closed"), store("repaired"))
      try store.flip("00000000000000000000.log", at: 9000)
      #expect(try await store.run("verify").exitCode == 1)
      let mended = try await store.run("repair", "--to", repaired.path)
      #expect(mended.exitCode == 0 && mended.text.contains("missing 7..7: damaged"), "\(mended.text) \(mended.errors)")
      try await repaired.expectSound()
      #expect(try await repaired.run("dump").outputLines.count == dump("closed").split(separator: 10).count - 1)
    }
  }
}
