import Foundation
import GRDB
import GRDBSQLite
import LogStore

/// Whether the API keys can be read, and whether one protects an address that other machines can reach.
struct KeysCheck: Check {
  let name = CheckName.keys
  let directory: String
  let isLoopback: Bool
  let isInsecure: Bool
  let host: String

  func run() -> [Finding] {
    let place = DataPlace(directory)
    let path = KeyStore.path(in: place.path)
    let count: KeyFile.Count
    do throws(KeyFile.Failure) {
      count = try KeyFile.count(path)
    } catch {
      guard case .unusable(let reason) = error else { return [.notChecked(name, "\(path) is being written")] }
      return [
        .problem(
          name, "can't use \(path): \(reason)",
          advice:
            "Check its disk and permissions, restore it from a backup, or move it away and create new keys with regispay"
            + " keys create: no server starts with it.")
      ]
    }
    let shown = count.all == 0 ? "there is no API key" : "\(count.valid) of \(count.all) API keys are valid"
    guard count.valid == 0, !isLoopback else { return [.ok(name, shown)] }
    let create = "Create one: regispay keys create --dir \(place.path)"
    if isInsecure {
      return [
        .warning(
          name, "\(shown), other machines can reach \(host), and --insecure lets everybody in",
          advice: create + ", and leave out --insecure.")
      ]
    }
    return [
      .problem(
        name, "\(shown), and other machines can reach \(host): the server does not start", advice: create + ".")
    ]
  }
}

/// Reads a file of keys without a lock, and so without keeping a server or a command waiting: its bytes, twice if it changes
/// meanwhile, into a database in memory.
enum KeyFile {
  struct Count: Sendable, Hashable {
    var all = 0
    var valid = 0
  }

  enum Failure: Error, Sendable, Hashable {
    /// A change to it is not complete, or it changed each time.
    case changing
    case unusable(String)
  }

  /// Some 100,000 keys.
  private static let byteLimit = 32 << 20

  /// - Returns: zeros if there is no file.
  static func count(_ path: String) throws(Failure) -> Count {
    for attempt in 0..<5 {
      if attempt > 0 { usleep(20_000) }
      guard let before = try state(path) else { return Count() }
      let bytes = try read(path)
      // A journal that is not empty belongs to a change that is not complete, or that a crash has interrupted.
      guard try state(path) == before, fileStatus(at: path + "-journal").map({ $0.st_size == 0 }) ?? true else {
        continue
      }
      // A file that was just made.
      if bytes.isEmpty { return Count() }
      return try count(bytes)
    }
    throw .changing
  }

  private struct State: Hashable {
    var inode: ino_t
    var size: off_t
    var seconds: time_t
    var nanoseconds: Int
  }

  private static func state(_ path: String) throws(Failure) -> State? {
    guard let status = fileStatus(at: path) else {
      let code = errno
      guard code == ENOENT else { throw .unusable(Shown.error(code)) }
      return nil
    }
    return State(
      inode: status.st_ino, size: status.st_size, seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec)
  }

  private static func read(_ path: String) throws(Failure) -> [UInt8] {
    // A pipe without a writer would keep the thread.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .unusable(Shown.error(errno)) }
    defer { close(descriptor) }
    guard let status = fileStatus(descriptor), status.st_mode & S_IFMT == S_IFREG else {
      throw .unusable("it is no file")
    }
    guard status.st_size <= byteLimit else {
      throw .unusable("it has \(status.st_size) bytes, and at most \(byteLimit) are read")
    }
    do throws(FileBytes.Failure) {
      return try FileBytes.read(descriptor, path, limit: byteLimit)
    } catch {
      throw .unusable("\(error)")
    }
  }

  private static func count(_ bytes: [UInt8]) throws(Failure) -> Count {
    let now = Int64(Date().timeIntervalSince1970)
    do {
      let memory = try DatabaseQueue()
      try memory.inDatabase { try load(bytes, into: $0) }
      return try memory.inDatabase { database in
        let verdict = try String.fetchOne(database, sql: "PRAGMA quick_check(1)")
        guard verdict == "ok" else { throw Failure.unusable("it is damaged: \(verdict ?? "no verdict")") }
        let row = try Row.fetchOne(
          database,
          sql: "SELECT count(*), count(*) FILTER (WHERE revoked IS NULL AND (expiry IS NULL OR ? < expiry)) FROM key",
          arguments: [now])
        return Count(all: row?[0] ?? 0, valid: row?[1] ?? 0)
      }
    } catch let failure as Failure {
      throw failure
    } catch {
      throw .unusable("\(error)")
    }
  }

  /// Makes the bytes the content of a database in memory.
  private static func load(_ bytes: [UInt8], into database: Database) throws {
    let count = bytes.count
    guard let copy = sqlite3_malloc64(UInt64(count)) else { throw Failure.unusable("SQLite has no memory for it") }
    copy.copyMemory(from: bytes, byteCount: count)
    let memory = copy.assumingMemoryBound(to: UInt8.self)
    // The versions for reading and writing in the file's header: 2 for a file with a write-ahead log, which can't be read in memory.
    // Source: the file format in SQLite's documentation, section 1.3.3.
    for position in [18, 19] where count > position && memory[position] == 2 { memory[position] = 1 }
    // SQLite frees the memory, also when it fails.
    let code = sqlite3_deserialize(
      database.sqliteConnection, "main", memory, Int64(count), Int64(count),
      UInt32(SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_READONLY))
    guard code == SQLITE_OK else { throw Failure.unusable("SQLite error \(code)") }
    database.clearSchemaCache()
  }
}
