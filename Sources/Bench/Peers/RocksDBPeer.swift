import CRocksDB
import Glibc
import LogStore
import Synchronization

/// RocksDB: `e` + offset → event, `s` + stream + version → offset, `h` + stream → last version.
///
/// Sendable though it holds pointers: RocksDB's own calls may come from any thread, and nothing else changes after
/// `init` but atomics, and `isOpen`, which only the last user touches.
final class RocksDBPeer: Peer, @unchecked Sendable {
  static let settings = """
    write-ahead log with sync=true (buffered appends: sync=false, then FlushWAL with a sync), group commit among \
    threads, recycled log files as after some time of use, no compression, 1 GiB block cache, Bloom filters of 10 bits a \
    key, compacted before reading; an append locks its streams, so that a version is given once
    """
  /// By the name of the library that was loaded: the C interface doesn't tell.
  static var version: String {
    for line in (contents("/proc/self/maps") ?? "").split(separator: "\n") {
      if let name = line.split(separator: "/").last, name.hasPrefix("librocksdb.so.") {
        return "RocksDB \(name.dropFirst("librocksdb.so.".count))"
      }
    }
    return "RocksDB"
  }

  private enum Prefix {
    static let event = UInt8(ascii: "e")
    static let stream = UInt8(ascii: "s")
    static let head = UInt8(ascii: "h")
    static let filler = UInt8(ascii: "z")
  }

  private static let writeBufferBytes = 64 << 20
  private static let restNanoseconds: UInt64 = 120_000_000_000

  private let database: OpaquePointer
  private let options: OpaquePointer
  private let writing: OpaquePointer
  private let reading: OpaquePointer
  private let isSynced: Bool
  private let nextOffset = Atomic<UInt64>(0)
  /// A stream's lock is chosen by its hash. A shared lock only makes two streams wait for each other.
  private let streamLocks = (0..<4096).map { _ in Lock() }
  private var isOpen = true

  init(_ directory: String, isSynced: Bool) throws {
    self.isSynced = isSynced
    options = rocksdb_options_create()
    rocksdb_options_set_create_if_missing(options, 1)
    rocksdb_options_increase_parallelism(options, 2)
    rocksdb_options_set_write_buffer_size(options, Self.writeBufferBytes)
    rocksdb_options_set_compression(options, Int32(rocksdb_no_compression))
    // A log file that is written over needs no new size at each sync.
    rocksdb_options_set_recycle_log_file_num(options, 4)
    let table = rocksdb_block_based_options_create()
    let cache = rocksdb_cache_create_lru(1 << 30)
    rocksdb_block_based_options_set_block_cache(table, cache)
    rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10))
    rocksdb_options_set_block_based_table_factory(options, table)
    rocksdb_block_based_options_destroy(table)
    rocksdb_cache_destroy(cache)
    writing = rocksdb_writeoptions_create()
    rocksdb_writeoptions_set_sync(writing, isSynced ? 1 : 0)
    reading = rocksdb_readoptions_create()
    let options = options
    let opened = try calling("open") { rocksdb_open(options, directory, &$0) }
    guard let opened else { throw BenchError("RocksDB did not open") }
    database = opened
    if isSynced { try fillLogs() }
  }

  deinit { close() }

  /// Fills as many log files as are kept, so that appends overwrite old ones from the start, as they do after some time of
  /// use.
  private func fillLogs() throws {
    let quick = rocksdb_writeoptions_create()
    defer { rocksdb_writeoptions_destroy(quick) }
    let value = [CChar](repeating: 1, count: 1 << 20)
    var key = CChar(bitPattern: Prefix.filler)
    for _ in 0..<2 {
      for _ in 0..<Self.writeBufferBytes >> 20 {
        try calling("put") { rocksdb_put(database, quick, &key, 1, value, value.count, &$0) }
      }
      try flushMemory()
    }
    try calling("delete") { rocksdb_delete(database, quick, &key, 1, &$0) }
    try flushMemory()
    rocksdb_compact_range(database, nil, 0, nil, 0)
  }

  func append(_ events: [NewEvent]) throws {
    let locks = lockNumbers(events)
    for number in locks { streamLocks[number].lock() }
    defer { for number in locks { streamLocks[number].unlock() } }
    let batch = rocksdb_writebatch_create()
    defer { rocksdb_writebatch_destroy(batch) }
    var versions = AppendVersions()
    var offset = nextOffset.add(UInt64(events.count), ordering: .relaxed).oldValue
    var key: [UInt8] = []
    var value: [UInt8] = []
    for event in events {
      let version = try versions.next(event.stream) { stream in
        StreamKeyBytes.put(stream, prefix: Prefix.head, into: &key)
        return try number(key) ?? 0
      }
      StoredEvent.encode(event, version: version, into: &value)
      put(batch, Self.offsetKey(offset), value)
      StreamKeyBytes.put(event.stream, version: version, prefix: Prefix.stream, into: &key)
      withUnsafeBytes(of: offset.bigEndian) { put(batch, key, $0) }
      offset += 1
    }
    for (stream, version) in versions.all {
      StreamKeyBytes.put(stream, prefix: Prefix.head, into: &key)
      withUnsafeBytes(of: version.bigEndian) { put(batch, key, $0) }
    }
    try calling("write") { rocksdb_write(database, writing, batch, &$0) }
  }

  /// In order, each once, so that two appends never wait for each other.
  private func lockNumbers(_ events: [NewEvent]) -> [Int] {
    var numbers = events.map { Int(UInt(bitPattern: $0.stream.hashValue) % UInt(streamLocks.count)) }
    if numbers.count == 1 { return numbers }
    numbers.sort()
    var unique: [Int] = []
    for number in numbers where unique.last != number { unique.append(number) }
    return unique
  }

  private static func offsetKey(_ offset: UInt64) -> [UInt8] {
    var key: [UInt8] = []
    key.reserveCapacity(9)
    key.append(Prefix.event)
    withUnsafeBytes(of: offset.bigEndian) { key.append(contentsOf: $0) }
    return key
  }

  private func put(_ batch: OpaquePointer?, _ key: [UInt8], _ value: [UInt8]) {
    value.withUnsafeBytes { put(batch, key, $0) }
  }

  private func put(_ batch: OpaquePointer?, _ key: [UInt8], _ value: UnsafeRawBufferPointer) {
    key.withUnsafeBytes { key in
      let (keyBytes, valueBytes) = (key.assumingMemoryBound(to: CChar.self), value.assumingMemoryBound(to: CChar.self))
      rocksdb_writebatch_put(batch, keyBytes.baseAddress, keyBytes.count, valueBytes.baseAddress, valueBytes.count)
    }
  }

  /// The number under a key; nil if there is none.
  private func number(_ key: [UInt8]) throws -> UInt64? {
    try withValue(key) { value in
      guard value.count == 8 else { throw BenchError("RocksDB gave back what was not written") }
      return UInt64(bigEndian: value.loadUnaligned(as: UInt64.self))
    }
  }

  private func withValue<Value>(_ key: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> Value) throws -> Value? {
    let slice = try calling("get") { failure in
      key.withUnsafeBytes {
        rocksdb_get_pinned(
          database, reading, $0.assumingMemoryBound(to: CChar.self).baseAddress, $0.count, &failure)
      }
    }
    guard let slice else { return nil }
    defer { rocksdb_pinnableslice_destroy(slice) }
    var byteCount = 0
    let start = rocksdb_pinnableslice_value(slice, &byteCount)
    return try body(UnsafeRawBufferPointer(start: start, count: byteCount))
  }

  func flush() throws {
    if !isSynced { try calling("flush_wal") { rocksdb_flush_wal(database, 1, &$0) } }
  }

  /// Without this, the next contender's turn runs beside two busy threads of RocksDB.
  func rest() throws {
    let deadline = nowNanoseconds() + Self.restNanoseconds
    // All at once: finished work may have left something to start.
    while try Self.background.contains(where: { try number(of: $0) != 0 }) {
      guard nowNanoseconds() < deadline else { throw BenchError("RocksDB does not come to rest") }
      usleep(1000)
    }
  }

  private static let background = [
    "rocksdb.mem-table-flush-pending", "rocksdb.num-running-flushes", "rocksdb.compaction-pending",
    "rocksdb.num-running-compactions",
  ]

  private func number(of property: String) throws -> UInt64 {
    var value: UInt64 = 0
    guard rocksdb_property_int(database, property, &value) == 0 else {
      throw BenchError("RocksDB does not know \(property)")
    }
    return value
  }

  func settle() throws {
    try flushMemory()
    rocksdb_compact_range(database, nil, 0, nil, 0)
  }

  private func flushMemory() throws {
    let options = rocksdb_flushoptions_create()
    defer { rocksdb_flushoptions_destroy(options) }
    try calling("flush") { rocksdb_flush(database, options, &$0) }
  }

  func scan() throws -> Payloads {
    try iterate(from: [Prefix.event]) { key, value, payloads in
      guard key[0] == Prefix.event else { return false }
      try payloads.add(Self.payload(value))
      return true
    }
  }

  func load(_ stream: String) throws -> Payloads {
    var first: [UInt8] = []
    StreamKeyBytes.put(stream, version: 1, prefix: Prefix.stream, into: &first)
    return try iterate(from: first) { key, value, payloads in
      guard first.withUnsafeBytes({ StreamKeyBytes.isSameStream(key, $0) }), value.count == 8 else { return false }
      let offset = UInt64(bigEndian: value.loadUnaligned(as: UInt64.self))
      let payload = try withValue(Self.offsetKey(offset)) { try Self.payload($0).count }
      guard let payload else { throw BenchError("RocksDB has no event at offset \(offset)") }
      payloads.count += 1
      payloads.byteCount += payload
      return true
    }
  }

  /// Visits entries in order of key until `visit` returns false.
  private func iterate(
    from start: [UInt8], _ visit: (UnsafeRawBufferPointer, UnsafeRawBufferPointer, inout Payloads) throws -> Bool
  ) throws -> Payloads {
    let iterator = rocksdb_create_iterator(database, reading)
    defer { rocksdb_iter_destroy(iterator) }
    start.withUnsafeBytes {
      rocksdb_iter_seek(iterator, $0.assumingMemoryBound(to: CChar.self).baseAddress, $0.count)
    }
    var payloads = Payloads()
    while rocksdb_iter_valid(iterator) != 0 {
      var (keyCount, valueCount) = (0, 0)
      let key = rocksdb_iter_key(iterator, &keyCount)
      let value = rocksdb_iter_value(iterator, &valueCount)
      let goesOn = try visit(
        UnsafeRawBufferPointer(start: key, count: keyCount), UnsafeRawBufferPointer(start: value, count: valueCount),
        &payloads)
      guard goesOn else { return payloads }
      rocksdb_iter_next(iterator)
    }
    try calling("iterate") { rocksdb_iter_get_error(iterator, &$0) }
    return payloads
  }

  @inline(__always)
  private static func payload(_ value: UnsafeRawBufferPointer) throws -> UnsafeRawBufferPointer {
    guard let payload = StoredEvent.payload(value) else {
      throw BenchError("RocksDB gave back what was not written")
    }
    return payload
  }

  func close() {
    guard isOpen else { return }
    isOpen = false
    rocksdb_close(database)
    rocksdb_options_destroy(options)
    rocksdb_writeoptions_destroy(writing)
    rocksdb_readoptions_destroy(reading)
  }
}

/// Calls a function that reports its failure as a text of its own.
@discardableResult
private func calling<Value>(_ call: String, _ body: (inout UnsafeMutablePointer<CChar>?) -> Value) throws -> Value {
  var failure: UnsafeMutablePointer<CChar>?
  let value = body(&failure)
  guard let failure else { return value }
  defer { rocksdb_free(failure) }
  throw BenchError("RocksDB: \(call) failed: \(String(cString: failure))")
}
