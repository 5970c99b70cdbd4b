import Foundation
import GRDB

/// A copy of an SQLite file, as private as the file: other programs may use the file meanwhile. It is made beside its place, checked,
/// and put there as a whole by ``commit()``.
///
/// All calls block for the disk.
struct DatabaseCopy {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Where the copy will be.
  let target: String
  private var temporary: String { target + ".new" }

  /// Copies what is committed. The copy is one file, without a write-ahead log.
  ///
  /// - Throws: when the file can't be read, is damaged, or stays locked for 5 seconds.
  init(of path: String, to target: String) throws(Failure) {
    self.target = target
    discard()
    do {
      try PrivateFiles.makeFile(temporary, tightens: true)
    } catch {
      throw Failure(description: "\(error)")
    }
    do {
      try Self.copy(path, to: temporary)
      try Self.sync(temporary)
    } catch {
      discard()
      throw Failure(description: "can't copy \(path): \(error)")
    }
  }

  private static func copy(_ path: String, to temporary: String) throws {
    var configuration = Configuration()
    configuration.busyMode = .timeout(5)
    let source = try DatabaseQueue(path: path, configuration: configuration)
    // Nothing was written, so a failed close loses nothing.
    defer { try? source.close() }
    let copy = try DatabaseQueue(path: temporary)
    try source.backup(to: copy)
    try copy.writeWithoutTransaction { database in
      try database.execute(sql: "PRAGMA journal_mode = DELETE")
      let verdict = try String.fetchOne(database, sql: "PRAGMA quick_check(1)")
      guard verdict == "ok" else { throw Failure(description: "it is damaged: \(verdict ?? "no verdict")") }
    }
    try copy.close()
  }

  private static func sync(_ path: String) throws {
    let descriptor = open(path, O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else { throw PrivateFiles.Failure(operation: "can't open", path: path, code: errno) }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw PrivateFiles.Failure(operation: "can't sync", path: path, code: errno) }
  }

  /// Replaces what is at ``target``, and returns when that is on disk.
  func commit() throws(Failure) {
    guard rename(temporary, target) == 0 else {
      throw Failure(description: "can't write \(target): \(String(cString: strerror(errno)))")
    }
    do {
      try PrivateFiles.syncDirectory((target as NSString).deletingLastPathComponent)
    } catch {
      throw Failure(description: "\(error)")
    }
  }

  /// Removes what an interrupted copy left, or this one.
  func discard() { for suffix in ["", "-journal", "-wal", "-shm"] { unlink(temporary + suffix) } }
}
