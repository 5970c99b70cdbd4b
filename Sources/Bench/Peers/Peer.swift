import ArgumentParser
import Glibc
import LogStore

/// Another engine that a user could choose, set up to do LogStore's work: it keeps the log by offset, and a unique (stream,
/// version) → event. An append looks up its streams' last versions and gives its events the next ones.
///
/// Appends may come from any number of threads at once; reads from one thread at a time, while nothing is appended.
protocol Peer: AnyObject, Sendable {
  /// Makes one atomic append of events of any streams. Durable when it returns, unless opened for buffered appends.
  func append(_ events: [NewEvent]) throws
  /// Returns once everything before it is durable.
  func flush() throws
  /// Returns when no background work is left.
  func rest() throws
  /// Brings the files into the state in which reading is fastest.
  func settle() throws
  /// Visits every event in order of offset, each payload as borrowed bytes.
  func scan() throws -> Payloads
  /// A stream's events in order of version.
  func load(_ stream: String) throws -> Payloads
  func close()
}

/// The number of payloads that were read, and their bytes.
struct Payloads: Equatable, Sendable {
  var count = 0
  var byteCount = 0

  @inline(__always)
  mutating func add(_ payload: UnsafeRawBufferPointer) {
    count += 1
    byteCount += payload.count
  }
}

enum PeerKind: String, CaseIterable, Sendable {
  case sqlite, lmdb, rocksdb

  /// - Parameter path: a directory that doesn't exist yet.
  func open(_ path: String, isSynced: Bool) throws -> any Peer {
    guard mkdir(path, 0o755) == 0 else { throw BenchError("mkdir \(path) failed: \(String(cString: strerror(errno)))") }
    switch self {
    case .sqlite: return try SQLitePeer(path, isSynced: isSynced)
    case .lmdb: return try LMDBPeer(path, isSynced: isSynced)
    case .rocksdb: return try RocksDBPeer(path, isSynced: isSynced)
    }
  }

  /// The engine's own name and version.
  var version: String {
    switch self {
    case .sqlite: SQLitePeer.version
    case .lmdb: LMDBPeer.version
    case .rocksdb: RocksDBPeer.version
    }
  }

  /// Its settings, in words: the fastest that keep the same promise.
  var settings: String {
    switch self {
    case .sqlite: SQLitePeer.settings
    case .lmdb: LMDBPeer.settings
    case .rocksdb: RocksDBPeer.settings
    }
  }

  /// Whether appends that wait at the same time share one sync. Without that, more writers only wait more, and a turn of
  /// the same number of events would take many times longer than the others'.
  var sharesSyncs: Bool { self == .rocksdb }
}

/// The peers named by `--peers sqlite,lmdb,rocksdb`.
struct PeerList: ExpressibleByArgument, Sendable {
  var kinds: [PeerKind] = []

  init() {}

  init?(argument: String) {
    for name in argument.split(separator: ",") {
      guard let kind = PeerKind(rawValue: String(name)) else { return nil }
      if !kinds.contains(kind) { kinds.append(kind) }
    }
  }

  var defaultValueDescription: String { "none" }
  static var allValueStrings: [String] { PeerKind.allCases.map(\.rawValue) }
}

/// An event as a value in key-value engines: version, lengths, stream, type, payload.
enum StoredEvent {
  private static let headerBytes = 10

  static func encode(_ event: NewEvent, version: UInt64, into bytes: inout [UInt8]) {
    bytes.removeAll(keepingCapacity: true)
    withUnsafeBytes(of: version.littleEndian) { bytes.append(contentsOf: $0) }
    bytes.append(UInt8(truncatingIfNeeded: event.stream.utf8.count))
    bytes.append(UInt8(truncatingIfNeeded: event.type.utf8.count))
    bytes.append(contentsOf: event.stream.utf8)
    bytes.append(contentsOf: event.type.utf8)
    bytes.append(contentsOf: event.payload)
  }

  /// nil if it isn't one.
  @inline(__always)
  static func payload(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
    guard bytes.count >= headerBytes else { return nil }
    let start = headerBytes + Int(bytes[8]) + Int(bytes[9])
    guard start <= bytes.count else { return nil }
    return UnsafeRawBufferPointer(rebasing: bytes[start...])
  }
}

/// Keys of the index: the stream with its length before it, so that no stream's keys lie between another's, then the
/// version with the most significant byte first, so that keys are in order.
enum StreamKeyBytes {
  static func put(_ stream: String, version: UInt64, prefix: UInt8? = nil, into bytes: inout [UInt8]) {
    put(stream, prefix: prefix, into: &bytes)
    withUnsafeBytes(of: version.bigEndian) { bytes.append(contentsOf: $0) }
  }

  /// Whether two keys differ in nothing but the version.
  @inline(__always)
  static func isSameStream(_ key: UnsafeRawBufferPointer, _ other: UnsafeRawBufferPointer) -> Bool {
    guard key.count == other.count, key.count > 8, let start = key.baseAddress, let otherStart = other.baseAddress
    else {
      return false
    }
    return memcmp(start, otherStart, key.count - 8) == 0
  }

  static func put(_ stream: String, prefix: UInt8? = nil, into bytes: inout [UInt8]) {
    bytes.removeAll(keepingCapacity: true)
    if let prefix { bytes.append(prefix) }
    bytes.append(UInt8(truncatingIfNeeded: stream.utf8.count))
    bytes.append(contentsOf: stream.utf8)
  }
}

/// The last versions of the streams of one append, as they grow with its events.
struct AppendVersions {
  private var known: [String: UInt64] = [:]

  /// The version that this event of the stream gets.
  mutating func next(_ stream: String, last: (String) throws -> UInt64) rethrows -> UInt64 {
    let version = try known[stream] ?? last(stream)
    known[stream] = version + 1
    return version + 1
  }

  var all: [String: UInt64] { known }
}
