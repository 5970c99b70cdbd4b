import Foundation
import GRDB
import GRDBSQLite
import LogStore

/// Reads an SQLite file without a lock, and so without keeping a server or a command waiting: its bytes, with what its write-ahead log
/// holds, again if they change meanwhile, into a database in memory.
enum DatabaseImage {
  enum Failure: Error, Sendable, Hashable {
    /// A change to it is not complete, or it changed each time.
    case changing
    case tooLarge(bytes: Int64, limit: Int)
    case unusable(String)

    /// - Parameter advice: for a file that can't be used.
    func finding(_ name: CheckName, _ path: String, advice: String) -> Finding {
      switch self {
      case .changing: .notChecked(name, "\(path) is being written")
      case .tooLarge(let bytes, let limit):
        .notChecked(name, "\(path) has \(bytes) bytes, and at most \(limit) are read")
      case .unusable(let reason): .problem(name, "can't use \(path): \(reason)", advice: advice)
      }
    }
  }

  private static let tries = 5
  private static let pauseMicroseconds: UInt32 = 20_000

  /// Checks the database, and reads from it.
  ///
  /// - Parameter byteLimit: of the file, and of its write-ahead log. Needs memory for four times as much.
  /// - Returns: nil if there is no file, or an empty one, in which SQLite finds no table.
  static func read<Value>(
    _ path: String, byteLimit: Int, _ work: (Database) throws -> Value
  ) throws(Failure) -> Value? {
    for attempt in 0..<tries {
      if attempt > 0 { usleep(pauseMicroseconds) }
      let log = path + "-wal"
      let before = (try state(path), try state(log))
      var bytes = before.0 == nil ? [] : try read(path, byteLimit)
      let changes = before.1 == nil ? [] : try read(log, byteLimit)
      // A journal that is not empty belongs to a change that is not complete, or that a crash has interrupted.
      guard (try state(path), try state(log)) == before,
        fileStatus(at: path + "-journal").map({ $0.st_size == 0 }) ?? true
      else { continue }
      // Without the file, SQLite removes what was left beside it.
      guard before.0 != nil else { return nil }
      WriteAheadLog.apply(changes, to: &bytes, byteLimit: byteLimit)
      // A file that was just made.
      return bytes.isEmpty ? nil : try read(bytes, work)
    }
    throw .changing
  }

  /// Checks the bytes of a database, and reads from it.
  static func read<Value>(_ bytes: [UInt8], _ work: (Database) throws -> Value) throws(Failure) -> Value {
    do {
      let memory = try DatabaseQueue()
      return try memory.inDatabase { database in
        try load(bytes, into: database)
        let verdict = try String.fetchOne(database, sql: "PRAGMA quick_check(1)")
        guard verdict == "ok" else { throw Failure.unusable("it is damaged: \(verdict ?? "no verdict")") }
        return try work(database)
      }
    } catch let failure as Failure {
      throw failure
    } catch {
      throw .unusable("\(error)")
    }
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

  private static func read(_ path: String, _ byteLimit: Int) throws(Failure) -> [UInt8] {
    // A pipe without a writer would keep the thread.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .unusable(Shown.error(errno)) }
    defer { close(descriptor) }
    guard let status = fileStatus(descriptor), status.st_mode & S_IFMT == S_IFREG else {
      throw .unusable("it is no file")
    }
    guard status.st_size <= byteLimit else { throw .tooLarge(bytes: Int64(status.st_size), limit: byteLimit) }
    do throws(FileBytes.Failure) {
      return try FileBytes.read(descriptor, path, limit: byteLimit)
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

/// What the write-ahead log of an SQLite file holds. Source: the file format in SQLite's documentation, section 4.
enum WriteAheadLog {
  private static let headerByteCount = 32
  private static let frameHeaderByteCount = 24
  /// The last bit says in which order the bytes of the checksum's words stand: 0 for the least significant one first.
  private static let magic: UInt32 = 0x377F_0682

  /// Puts the pages of all complete changes into a database. What follows the first frame that does not fit, such as what an earlier
  /// use of the log has left, does not count.
  static func apply(_ log: [UInt8], to database: inout [UInt8], byteLimit: Int) {
    guard log.count >= headerByteCount, word(log, 0) & ~1 == magic else { return }
    let pageByteCount = Int(word(log, 8))
    guard (512...65_536).contains(pageByteCount), pageByteCount & (pageByteCount - 1) == 0 else { return }
    var sum = Checksum(isBigEndian: word(log, 0) & 1 == 1)
    sum.add(log[0..<24])
    guard sum.first == word(log, 24), sum.second == word(log, 28) else { return }
    var (pages, pending): ([UInt32: Int], [UInt32: Int]) = ([:], [:])
    var pageCount = 0
    var position = headerByteCount
    while position + frameHeaderByteCount + pageByteCount <= log.count {
      let page = position + frameHeaderByteCount
      sum.add(log[position..<position + 8])
      sum.add(log[page..<page + pageByteCount])
      guard word(log, position + 8) == word(log, 16), word(log, position + 12) == word(log, 20),
        word(log, position + 16) == sum.first, word(log, position + 20) == sum.second
      else { break }
      pending[word(log, position)] = page
      let committed = word(log, position + 4)
      if committed > 0 {
        pages.merge(pending) { $1 }
        pending = [:]
        pageCount = Int(committed)
      }
      position = page + pageByteCount
    }
    guard pageCount > 0, pageCount <= byteLimit / pageByteCount else { return }
    let byteCount = pageCount * pageByteCount
    database = Array(database.prefix(byteCount)) + Array(repeating: 0, count: max(0, byteCount - database.count))
    for (number, source) in pages where number > 0 && Int(number) <= pageCount {
      let start = (Int(number) - 1) * pageByteCount
      database.replaceSubrange(start..<start + pageByteCount, with: log[source..<source + pageByteCount])
    }
  }

  private static func word(_ bytes: [UInt8], _ position: Int) -> UInt32 {
    bytes[position..<position + 4].reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// Section 4.2.
  private struct Checksum {
    let isBigEndian: Bool
    private(set) var first: UInt32 = 0
    private(set) var second: UInt32 = 0

    init(isBigEndian: Bool) { self.isBigEndian = isBigEndian }

    /// - Parameter bytes: a multiple of eight.
    mutating func add(_ bytes: ArraySlice<UInt8>) {
      bytes.withUnsafeBytes { bytes in
        for position in stride(from: 0, to: bytes.count - 7, by: 8) {
          first &+= word(bytes, position) &+ second
          second &+= word(bytes, position + 4) &+ first
        }
      }
    }

    private func word(_ bytes: UnsafeRawBufferPointer, _ position: Int) -> UInt32 {
      let word = bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self)
      return isBigEndian ? UInt32(bigEndian: word) : UInt32(littleEndian: word)
    }
  }
}
