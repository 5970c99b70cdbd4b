import Foundation
import GRDB
import GRDBSQLite

/// The bytes of an SQLite file as of one moment, checked: one file, without a journal. Other programs may use the file meanwhile. They
/// wait while it is read into memory, and for no other disk.
///
/// Needs memory for the file. All calls block for the disk.
struct DatabaseSnapshot: Sendable {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  let bytes: [UInt8]
  /// Whether the table that was asked for has a row.
  let hasRows: Bool

  /// - Parameter table: one whose rows are looked for; a file without the table has none.
  /// - Throws: when the file can't be read, is damaged, or stays locked for 5 seconds.
  init(of path: String, table: String) throws(Failure) {
    do {
      var configuration = Configuration()
      configuration.busyMode = .timeout(5)
      let memory = try DatabaseQueue()
      let source = try DatabaseQueue(path: path, configuration: configuration)
      do {
        try source.backup(to: memory)
      } catch {
        // Nothing was written, so a failed close loses nothing.
        try? source.close()
        throw error
      }
      try source.close()
      (bytes, hasRows) = try memory.writeWithoutTransaction { database in
        let verdict = try String.fetchOne(database, sql: "PRAGMA quick_check(1)")
        guard verdict == "ok" else { throw Failure(description: "it is damaged: \(verdict ?? "no verdict")") }
        let hasRows =
          try database.tableExists(table)
          && Bool.fetchOne(database, sql: "SELECT EXISTS (SELECT 1 FROM \(table.quotedDatabaseIdentifier))") ?? false
        return (try Self.serialized(database), hasRows)
      }
    } catch {
      throw Failure(description: "can't copy \(path): \(error)")
    }
  }

  private static func serialized(_ database: Database) throws -> [UInt8] {
    var size: Int64 = 0
    guard let pointer = sqlite3_serialize(database.sqliteConnection, "main", &size, 0) else {
      throw Failure(description: "SQLite has no memory for its \(size) bytes")
    }
    defer { sqlite3_free(pointer) }
    var bytes = Array(UnsafeBufferPointer(start: pointer, count: Int(size)))
    // The versions for reading and writing in the file's header: 2 for a file with a write-ahead log, which the copy does not have.
    // Source: the file format in SQLite's documentation, section 1.3.3.
    for position in [18, 19] where bytes.count > position && bytes[position] == 2 { bytes[position] = 1 }
    return bytes
  }
}
