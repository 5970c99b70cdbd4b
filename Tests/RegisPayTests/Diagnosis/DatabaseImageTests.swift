import Foundation
import GRDB
import Testing

@testable import RegisPay

@Suite("Diagnosis: SQLite files without a lock")
struct DatabaseImageTests {
  private func sum(_ path: String) throws(DatabaseImage.Failure) -> Int? {
    try DatabaseImage.read(path, byteLimit: 1 << 20) { try Int.fetchOne($0, sql: "SELECT sum(n) FROM t") ?? 0 }
  }

  @Test("what is only in the write-ahead log counts, and what of it is torn or of an earlier use does not")
  func writeAheadLog() async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/a.sqlite"
      let pool = try DatabasePool(path: path)
      try pool.write { try $0.execute(sql: "CREATE TABLE t (n INTEGER, x BLOB)") }
      for _ in 1...20 {
        try pool.write { try $0.execute(sql: "INSERT INTO t VALUES (1, randomblob(3000))") }
      }
      #expect(try sum(path) == 20, "beside its writer")
      // As after kill -9: copies of the open files.
      let crashed = folder + "/crashed.sqlite"
      for suffix in ["", "-wal"] { try FileManager.default.copyItem(atPath: path + suffix, toPath: crashed + suffix) }
      #expect(try sum(crashed) == 20)
      let log = try Data(contentsOf: URL(fileURLWithPath: crashed + "-wal"))
      let expected = try (0..<24).map { part -> Int? in
        let cut = log.prefix(log.count * part / 24)
        try cut.write(to: URL(fileURLWithPath: folder + "/b.sqlite-wal"))
        try? FileManager.default.removeItem(atPath: folder + "/b.sqlite")
        try FileManager.default.copyItem(atPath: crashed, toPath: folder + "/b.sqlite")
        let found = try? sum(folder + "/b.sqlite")
        // SQLite itself.
        let queue = try DatabaseQueue(path: folder + "/b.sqlite")
        let right = try? queue.read { try Int.fetchOne($0, sql: "SELECT sum(n) FROM t") ?? 0 }
        try queue.close()
        #expect(found == right, "part \(part)")
        return right
      }
      #expect(Set(expected).count > 10)
      try pool.close()
    }
  }

  @Test("no file and an empty one hold nothing; a pipe, garbage and a damaged page are told from each other")
  func others() async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/a.sqlite"
      #expect(try sum(path) == nil)
      try Data().write(to: URL(fileURLWithPath: path))
      #expect(try sum(path) == nil)
      try Data(repeating: 1, count: 5_000).write(to: URL(fileURLWithPath: path))
      #expect(throws: DatabaseImage.Failure.self) { try sum(path) }
      try Data(repeating: 1, count: 2 << 20).write(to: URL(fileURLWithPath: path))
      #expect(throws: DatabaseImage.Failure.tooLarge(bytes: 2 << 20, limit: 1 << 20)) { try sum(path) }
      try FileManager.default.removeItem(atPath: path)
      #expect(mkfifo(path, 0o600) == 0)
      #expect(throws: DatabaseImage.Failure.unusable("it is no file")) { try sum(path) }
    }
  }
}
