import Foundation
import Testing

@testable import RegisPay

@Suite("A webhooks file whose name goes away while the server runs")
struct DatabaseNamesTests {
  private static let changes: [(String, @Sendable (_ path: String) throws -> Void)] = [
    ("removed", { try FileManager.default.removeItem(atPath: $0) }),
    ("the write-ahead log removed", { try FileManager.default.removeItem(atPath: $0 + "-wal") }),
    (
      "replaced",
      { path in
        try FileManager.default.copyItem(atPath: path, toPath: path + ".copy")
        #expect(rename(path + ".copy", path) == 0)
      }
    ),
    (
      "moved with its directory",
      { path in
        let directory = (path as NSString).deletingLastPathComponent
        try FileManager.default.moveItem(atPath: directory, toPath: directory + ".away")
      }
    ),
  ]

  @Test("takes no change, and health says so until the server is restarted", arguments: changes.indices)
  func gone(_ index: Int) async throws {
    let (name, change) = Self.changes[index]
    let folder = FileManager.default.temporaryDirectory.path + "/names-\(UUID().uuidString)"
    defer {
      try? FileManager.default.removeItem(atPath: folder)
      try? FileManager.default.removeItem(atPath: folder + ".away")
    }
    let health = Health(stores: [])
    let journal = try WebhookJournal.open(folder, health: health)
    try await journal.write([])
    #expect(health.problems.isEmpty)
    try change(folder + "/webhooks.sqlite")
    await #expect(throws: WebhookStoreError.self, "\(name)") { try await journal.write([]) }
    #expect(!health.problems.isEmpty, "\(name)")
    _ = await journal.close()
  }

  @Test("is noticed while there is nothing to write, and is well again when it is put back")
  func noticed() async throws {
    try await WebhookBench.run { bench in
      let health = Health(stores: [])
      let webhooks = try Webhooks.open(
        bench.directory, log: bench.log, options: bench.options, health: health, logger: silent)
      let run = Task { try await webhooks.run() }
      let path = bench.directory + "/webhooks.sqlite"
      #expect(rename(path, path + ".away") == 0)
      try await eventually("health reports it") { !health.problems.isEmpty }
      #expect(rename(path + ".away", path) == 0)
      try await eventually("it is well again") { health.problems.isEmpty }
      run.cancel()
      _ = await run.result
      await webhooks.close()
    }
  }
}
