import CLMDB
import LogStore

/// LMDB: one database by offset, and one by stream and version that leads to the offset.
///
/// Sendable though it holds pointers: `nextOffset` and `keys` are touched only within a write transaction, of which LMDB
/// lets one thread have one; the reading transaction and its cursor only by the one thread that reads (see ``Peer``).
final class LMDBPeer: Peer, @unchecked Sendable {
  static let settings = """
    default flags with MDB_NOTLS, so each commit is synced (buffered appends: MDB_NOSYNC, then mdb_env_sync), no \
    MDB_WRITEMAP, 64 GiB map, MDB_INTEGERKEY and MDB_APPEND by offset, the reading transaction renewed for each load
    """
  static var version: String {
    var (major, minor, patch): (Int32, Int32, Int32) = (0, 0, 0)
    mdb_version(&major, &minor, &patch)
    return "LMDB \(major).\(minor).\(patch)"
  }

  private let environment: OpaquePointer
  private let events: MDB_dbi
  private let index: MDB_dbi
  private let isSynced: Bool
  private var nextOffset = 0
  private var key: [UInt8] = []
  private var value: [UInt8] = []
  private var reading: OpaquePointer?
  private var readingCursor: OpaquePointer?
  private var isOpen = true

  init(_ directory: String, isSynced: Bool) throws {
    self.isSynced = isSynced
    var made: OpaquePointer?
    try check(mdb_env_create(&made), "mdb_env_create")
    guard let made else { throw BenchError("LMDB made no environment") }
    environment = made
    try check(mdb_env_set_mapsize(made, 64 << 30), "mdb_env_set_mapsize")
    try check(mdb_env_set_maxdbs(made, 2), "mdb_env_set_maxdbs")
    try check(mdb_env_open(made, directory, UInt32(MDB_NOTLS | (isSynced ? 0 : MDB_NOSYNC)), 0o644), "mdb_env_open")
    var transaction: OpaquePointer?
    try check(mdb_txn_begin(made, nil, 0, &transaction), "mdb_txn_begin")
    var (events, index): (MDB_dbi, MDB_dbi) = (0, 0)
    try check(mdb_dbi_open(transaction, "events", UInt32(MDB_CREATE | MDB_INTEGERKEY), &events), "mdb_dbi_open")
    try check(mdb_dbi_open(transaction, "index", UInt32(MDB_CREATE), &index), "mdb_dbi_open")
    try check(mdb_txn_commit(transaction), "mdb_txn_commit")
    self.events = events
    self.index = index
  }

  deinit { close() }

  func append(_ events: [NewEvent]) throws {
    var transaction: OpaquePointer?
    // Waits for the transaction of any other thread.
    try check(mdb_txn_begin(environment, nil, 0, &transaction), "mdb_txn_begin")
    let first = nextOffset
    do {
      var cursor: OpaquePointer?
      try check(mdb_cursor_open(transaction, index, &cursor), "mdb_cursor_open")
      defer { mdb_cursor_close(cursor) }
      var versions = AppendVersions()
      for event in events {
        let version = try versions.next(event.stream) { try lastVersion($0, cursor) }
        try add(event, version: version, transaction, cursor)
      }
    } catch {
      nextOffset = first
      mdb_txn_abort(transaction)
      throw error
    }
    try check(mdb_txn_commit(transaction), "mdb_txn_commit")
  }

  private func add(_ event: NewEvent, version: UInt64, _ transaction: OpaquePointer?, _ cursor: OpaquePointer?) throws {
    StoredEvent.encode(event, version: version, into: &value)
    StreamKeyBytes.put(event.stream, version: version, into: &key)
    try withUnsafeMutableBytes(of: &nextOffset) { offset in
      var offsetValue = MDB_val(mv_size: offset.count, mv_data: offset.baseAddress)
      try value.withUnsafeMutableBytes { bytes in
        var data = MDB_val(mv_size: bytes.count, mv_data: bytes.baseAddress)
        try check(mdb_put(transaction, self.events, &offsetValue, &data, UInt32(MDB_APPEND)), "mdb_put")
      }
      try key.withUnsafeMutableBytes { bytes in
        var keyValue = MDB_val(mv_size: bytes.count, mv_data: bytes.baseAddress)
        // Refuses a second event at the same version.
        try check(mdb_cursor_put(cursor, &keyValue, &offsetValue, UInt32(MDB_NOOVERWRITE)), "mdb_cursor_put")
      }
    }
    nextOffset += 1
  }

  /// A stream's last version; 0 if there is none. It is the entry before the position of the greatest version.
  private func lastVersion(_ stream: String, _ cursor: OpaquePointer?) throws -> UInt64 {
    StreamKeyBytes.put(stream, version: .max, into: &key)
    var found = MDB_val()
    var data = MDB_val()
    var code = key.withUnsafeMutableBytes { bytes in
      found = MDB_val(mv_size: bytes.count, mv_data: bytes.baseAddress)
      return mdb_cursor_get(cursor, &found, &data, MDB_SET_RANGE)
    }
    code = mdb_cursor_get(cursor, &found, &data, code == MDB_NOTFOUND ? MDB_LAST : MDB_PREV)
    if code == MDB_NOTFOUND { return 0 }
    try check(code, "mdb_cursor_get")
    let entry = UnsafeRawBufferPointer(start: found.mv_data, count: found.mv_size)
    guard key.withUnsafeBytes({ StreamKeyBytes.isSameStream(entry, $0) }) else { return 0 }
    return UInt64(bigEndian: entry.loadUnaligned(fromByteOffset: entry.count - 8, as: UInt64.self))
  }

  func flush() throws {
    if !isSynced { try check(mdb_env_sync(environment, 1), "mdb_env_sync") }
  }

  func rest() throws {}

  func settle() throws {}

  func scan() throws -> Payloads {
    try read { transaction in
      var cursor: OpaquePointer?
      try check(mdb_cursor_open(transaction, events, &cursor), "mdb_cursor_open")
      defer { mdb_cursor_close(cursor) }
      var payloads = Payloads()
      var offset = MDB_val()
      var data = MDB_val()
      while true {
        let code = mdb_cursor_get(cursor, &offset, &data, MDB_NEXT)
        if code == MDB_NOTFOUND { return payloads }
        try check(code, "mdb_cursor_get")
        try payloads.add(Self.payload(data))
      }
    }
  }

  func load(_ stream: String) throws -> Payloads {
    try read { transaction in
      if readingCursor == nil {
        try check(mdb_cursor_open(transaction, index, &readingCursor), "mdb_cursor_open")
      } else {
        try check(mdb_cursor_renew(transaction, readingCursor), "mdb_cursor_renew")
      }
      StreamKeyBytes.put(stream, version: 1, into: &key)
      return try key.withUnsafeMutableBytes { wanted in
        var payloads = Payloads()
        var found = MDB_val(mv_size: wanted.count, mv_data: wanted.baseAddress)
        var offset = MDB_val()
        var data = MDB_val()
        var code = mdb_cursor_get(readingCursor, &found, &offset, MDB_SET_RANGE)
        while code != MDB_NOTFOUND {
          try check(code, "mdb_cursor_get")
          let entry = UnsafeRawBufferPointer(start: found.mv_data, count: found.mv_size)
          guard StreamKeyBytes.isSameStream(entry, UnsafeRawBufferPointer(wanted)) else { break }
          try check(mdb_get(transaction, events, &offset, &data), "mdb_get")
          try payloads.add(Self.payload(data))
          code = mdb_cursor_get(readingCursor, &found, &offset, MDB_NEXT)
        }
        return payloads
      }
    }
  }

  private func read<Value>(_ body: (OpaquePointer?) throws -> Value) throws -> Value {
    if reading == nil {
      try check(mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &reading), "mdb_txn_begin")
    } else {
      try check(mdb_txn_renew(reading), "mdb_txn_renew")
    }
    defer { mdb_txn_reset(reading) }
    return try body(reading)
  }

  @inline(__always)
  private static func payload(_ data: MDB_val) throws -> UnsafeRawBufferPointer {
    guard let payload = StoredEvent.payload(UnsafeRawBufferPointer(start: data.mv_data, count: data.mv_size)) else {
      throw BenchError("LMDB gave back what was not written")
    }
    return payload
  }

  func close() {
    guard isOpen else { return }
    isOpen = false
    if let readingCursor { mdb_cursor_close(readingCursor) }
    if let reading { mdb_txn_abort(reading) }
    mdb_env_close(environment)
  }
}

private func check(_ code: Int32, _ call: String) throws {
  if code != 0 { throw BenchError("LMDB: \(call) failed: \(String(cString: mdb_strerror(code)))") }
}
