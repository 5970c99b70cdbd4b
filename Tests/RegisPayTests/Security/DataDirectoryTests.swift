import Foundation
import Testing

@testable import RegisPay

@Suite("The data directory")
struct DataDirectoryTests {
  @Test("every name that a server leaves in its directory is known as its own")
  func names() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      _ = try KeyStore.open(data)
      try await TestServer.run({ $0.directory = data }) { server in _ = try await server.get("/alive") }
      let names = try FileManager.default.contentsOfDirectory(atPath: data)
      #expect(names.contains("payments"))
      for name in names { #expect(DataDirectory.isOwn(name), "\(name)") }
    }
  }

  @Test(
    "a directory is taken for the server's",
    arguments: [
      (["keys.sqlite"], true), (["keys.sqlite", "notes"], true), (["payments.known", "notes"], true),
      (["time", "starts.new", "crashed", ".nfs0001"], true), (["time", "notes"], false), (["keys.sqlite.copy"], false),
      (["store"], false), (["store", "keys.sqlite"], false), ([], true),
    ])
  func taken(_ names: [String], _ isTaken: Bool) async throws {
    try await withTemporaryFolder { folder in
      for name in names { try Data().write(to: URL(fileURLWithPath: "\(folder)/\(name)")) }
      if isTaken {
        try DataDirectory.check(folder)
      } else {
        #expect(throws: DataDirectory.Refusal.self) { try DataDirectory.check(folder) }
      }
    }
  }

  @Test("what is no directory is refused with the reason")
  func file() async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/file"
      try DataDirectory.check(path)
      try Data().write(to: URL(fileURLWithPath: path))
      let refusal = #expect(throws: DataDirectory.Refusal.self) { try DataDirectory.check(path) }
      #expect(refusal?.description.contains("Not a directory") == true)
    }
  }
}
