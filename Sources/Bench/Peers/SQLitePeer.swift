import CSQLite
import Glibc
import LogStore

/// SQLite in WAL mode: the table by offset, and a unique index by stream and version.
///
/// Sendable though it holds pointers: the connection and its statements are used only under `lock`. One connection for
/// all writers, since SQLite lets only one write at a time, and waiting for a lock of ours costs less than its own
/// retries.
final class SQLitePeer: Peer, @unchecked Sendable {
  static let settings = """
    journal_mode=WAL, synchronous=FULL (buffered appends: OFF, then a checkpoint and fdatasync), \
    locking_mode=EXCLUSIVE, wal_autocheckpoint=10000 pages, 256 MiB cache, mmap_size=16 GiB, prepared statements, one \
    connection behind a lock
    """
  static var version: String { "SQLite \(String(cString: sqlite3_libversion()))" }

  private let lock = Lock()
  private let connection: OpaquePointer
  private let path: String
  private let isSynced: Bool
  private let begin: OpaquePointer
  private let commit: OpaquePointer
  private let rollback: OpaquePointer
  private let last: OpaquePointer
  private let insert: OpaquePointer
  private let loading: OpaquePointer
  private let scanning: OpaquePointer
  private var isOpen = true

  init(_ directory: String, isSynced: Bool) throws {
    path = "\(directory)/events.sqlite"
    self.isSynced = isSynced
    var opened: OpaquePointer?
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
    guard sqlite3_open_v2(path, &opened, flags, nil) == SQLITE_OK, let opened else {
      throw BenchError("SQLite could not open \(path)")
    }
    connection = opened
    try Self.run(
      opened,
      """
      PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=\(isSynced ? "FULL" : "OFF");
      PRAGMA wal_autocheckpoint=10000; PRAGMA cache_size=-262144; PRAGMA mmap_size=17179869184;
      PRAGMA temp_store=MEMORY;
      CREATE TABLE events (
        offset INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
        payload BLOB NOT NULL, UNIQUE (stream, version));
      """)
    begin = try Self.prepare(opened, "BEGIN IMMEDIATE")
    commit = try Self.prepare(opened, "COMMIT")
    rollback = try Self.prepare(opened, "ROLLBACK")
    last = try Self.prepare(opened, "SELECT max(version) FROM events WHERE stream = ?")
    insert = try Self.prepare(opened, "INSERT INTO events (stream, version, type, payload) VALUES (?, ?, ?, ?)")
    loading = try Self.prepare(opened, "SELECT payload FROM events WHERE stream = ? ORDER BY version")
    scanning = try Self.prepare(opened, "SELECT payload FROM events ORDER BY offset")
  }

  deinit { close() }

  func append(_ events: [NewEvent]) throws {
    try lock.withLock {
      try step(begin)
      do {
        for event in events { try add(event) }
        try step(commit)
      } catch {
        try? step(rollback)
        throw error
      }
    }
  }

  private func add(_ event: NewEvent) throws {
    var event = event
    let version = try event.stream.withUTF8 { name -> Int64 in
      try bind(last, text: name, at: 1)
      defer { sqlite3_reset(last) }
      guard sqlite3_step(last) == SQLITE_ROW else { throw failure("reading a version") }
      // NULL, for a stream without events, reads as 0.
      return sqlite3_column_int64(last, 0) + 1
    }
    // Bound without a copy: both strings and the payload outlive the step.
    try event.stream.withUTF8 { name in
      try event.type.withUTF8 { type in
        try event.payload.withUnsafeBytes { payload in
          try bind(insert, text: name, at: 1)
          sqlite3_bind_int64(insert, 2, version)
          try bind(insert, text: type, at: 3)
          guard sqlite3_bind_blob(insert, 4, payload.baseAddress, Int32(payload.count), nil) == SQLITE_OK else {
            throw failure("binding a payload")
          }
          try step(insert)
        }
      }
    }
  }

  func flush() throws {
    if isSynced { return }
    try checkpoint()
    let descriptor = Glibc.open(path, O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else { throw BenchError("open \(path) failed: \(errno)") }
    defer { Glibc.close(descriptor) }
    guard fdatasync(descriptor) == 0 else { throw BenchError("fdatasync \(path) failed: \(errno)") }
  }

  func rest() throws {}

  func settle() throws { try checkpoint() }

  private func checkpoint() throws {
    try lock.withLock {
      guard sqlite3_wal_checkpoint_v2(connection, nil, SQLITE_CHECKPOINT_TRUNCATE, nil, nil) == SQLITE_OK else {
        throw failure("a checkpoint")
      }
    }
  }

  func scan() throws -> Payloads {
    try lock.withLock { try rows(scanning) }
  }

  func load(_ stream: String) throws -> Payloads {
    var stream = stream
    return try lock.withLock {
      try stream.withUTF8 { name in
        try bind(loading, text: name, at: 1)
        return try rows(loading)
      }
    }
  }

  private func rows(_ statement: OpaquePointer) throws -> Payloads {
    var payloads = Payloads()
    defer { sqlite3_reset(statement) }
    while true {
      switch sqlite3_step(statement) {
      case SQLITE_ROW:
        payloads.add(
          UnsafeRawBufferPointer(
            start: sqlite3_column_blob(statement, 0), count: Int(sqlite3_column_bytes(statement, 0))))
      case SQLITE_DONE: return payloads
      default: throw failure("reading")
      }
    }
  }

  func close() {
    lock.withLock {
      guard isOpen else { return }
      isOpen = false
      for statement in [begin, commit, rollback, last, insert, loading, scanning] { sqlite3_finalize(statement) }
      sqlite3_close(connection)
    }
  }

  private func step(_ statement: OpaquePointer) throws {
    let code = sqlite3_step(statement)
    sqlite3_reset(statement)
    guard code == SQLITE_DONE else { throw failure("a statement") }
  }

  private func bind(_ statement: OpaquePointer, text: UnsafeBufferPointer<UInt8>, at index: Int32) throws {
    let code = text.withMemoryRebound(to: CChar.self) {
      sqlite3_bind_text(statement, index, $0.baseAddress, Int32($0.count), nil)
    }
    guard code == SQLITE_OK else { throw failure("binding a text") }
  }

  private func failure(_ what: String) -> BenchError {
    BenchError("SQLite: \(what) failed: \(String(cString: sqlite3_errmsg(connection)))")
  }

  private static func prepare(_ connection: OpaquePointer, _ sql: String) throws -> OpaquePointer {
    var statement: OpaquePointer?
    guard sqlite3_prepare_v3(connection, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &statement, nil) == SQLITE_OK,
      let statement
    else { throw BenchError("SQLite: \(sql): \(String(cString: sqlite3_errmsg(connection)))") }
    return statement
  }

  private static func run(_ connection: OpaquePointer, _ sql: String) throws {
    guard sqlite3_exec(connection, sql, nil, nil, nil) == SQLITE_OK else {
      throw BenchError("SQLite: \(sql): \(String(cString: sqlite3_errmsg(connection)))")
    }
  }
}
