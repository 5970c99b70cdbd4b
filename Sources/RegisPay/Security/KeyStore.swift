import Foundation
import GRDB

/// A key as stored on disk.
public struct StoredKey: Sendable, Hashable {
  public var id: String
  public var name: String
  var holder: KeyHolder { KeyHolder(keyID: id, name: name) }
  /// The owner, by default the key's name. Keys of one owner share idempotency keys.
  public var owner: String
  /// When the key got its owner. Later than its creation for a key of an earlier version.
  var ownerSinceSeconds: Int64
  public var scopes: Set<KeyScope>
  var hash: [UInt8]
  /// All times are seconds since 1970-01-01 UTC.
  public var createdSeconds: Int64
  public var expirySeconds: Int64?
  public var revokedSeconds: Int64?
  /// Within a minute or so.
  public var lastUsedSeconds: Int64?

  public func isValid(atSeconds now: Int64) -> Bool {
    revokedSeconds == nil && (expirySeconds.map { now < $0 } ?? true)
  }
}

/// The keys in `keys.sqlite` of a data directory: only hashes, readable by the process's user only. Several processes may use the
/// file at once: the server reads while a command writes. Keys are never removed, only revoked, so that a server that requires keys
/// never opens again on its own.
///
/// Safe to use from any task; its calls block for a read or a write of the disk.
public final class KeyStore: Sendable {
  static let version = 1

  let path: String
  private let queue: DatabaseQueue

  static func path(in directory: String) -> String { directory + "/keys.sqlite" }

  /// Opens the file, and creates it and the directory if they are missing.
  ///
  /// - Parameter patience: how long a call blocks its thread while another program has the file locked.
  public static func open(_ directory: String, patience: Duration = .seconds(5)) throws(KeyStoreError) -> KeyStore {
    let path = path(in: directory)
    try checkDirectory(directory)
    do {
      try PrivateFiles.makeDirectory(directory)
      return try KeyStore(path, patience)
    } catch {
      throw KeyStoreError(path: path, error)
    }
  }

  private static func checkDirectory(_ directory: String) throws(KeyStoreError) {
    do throws(DataDirectory.Refusal) {
      try DataDirectory.check(directory)
    } catch {
      throw KeyStoreError(path: directory, reason: "\(error)", kind: .wrongDirectory)
    }
  }

  /// Whether a directory has a key that is valid now. Creates nothing.
  static func hasValidKey(_ directory: String) throws(KeyStoreError) -> Bool {
    let now = Int64(Date().timeIntervalSince1970)
    return try keys(in: directory).contains { $0.isValid(atSeconds: now) }
  }

  /// The keys of a directory. Creates nothing.
  public static func keys(in directory: String) throws(KeyStoreError) -> [StoredKey] {
    try checkDirectory(directory)
    guard FileManager.default.fileExists(atPath: path(in: directory)) else { return [] }
    return try open(directory).all()
  }

  private init(_ path: String, _ patience: Duration) throws {
    self.path = path
    try PrivateDatabase.makeShared(path)
    var configuration = Configuration()
    configuration.busyMode = .timeout(patience / .seconds(1))
    configuration.prepareDatabase { database in
      // A change is on disk when a call returns: a revoked key must not become valid again after a power cut. EXTRA, because with
      // FULL the removal of the journal is not synced, and a journal that reappears undoes the change. Not WAL: after somebody
      // restores a copy of this file, SQLite would take leftover WAL files for a part of it.
      try database.execute(sql: "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA")
    }
    queue = try DatabaseQueue(path: path, configuration: configuration)
    try queue.write(Self.prepare)
  }

  private static func prepare(_ database: Database) throws {
    let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
    guard version == 0 || version == Self.version else {
      throw DatabaseError(message: "it has version \(version), and this program supports \(Self.version)")
    }
    if version == 0 {
      try database.execute(
        sql: """
          CREATE TABLE key (
            id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, scopes TEXT NOT NULL, hash BLOB NOT NULL,
            created INTEGER NOT NULL, expiry INTEGER, revoked INTEGER, lastUsed INTEGER, owner TEXT, ownerSince INTEGER
          ) STRICT;
          PRAGMA user_version = \(Self.version)
          """)
    } else if try !database.columns(in: "key").contains(where: { $0.name == "owner" }) {
      // Earlier programs can still use the table with these columns, because their statements name the columns.
      try database.execute(
        sql: "ALTER TABLE key ADD COLUMN owner TEXT; ALTER TABLE key ADD COLUMN ownerSince INTEGER")
    }
    // Keys of an earlier program, which stored idempotency records under a key's id.
    if try Bool.fetchOne(database, sql: "SELECT EXISTS (SELECT 1 FROM key WHERE owner IS NULL)") ?? false {
      try database.execute(
        sql: "UPDATE key SET owner = name, ownerSince = ? WHERE owner IS NULL",
        arguments: [Int64(Date().timeIntervalSince1970)])
    }
  }

  /// Creates a key. Only the result holds its text.
  ///
  /// - Parameters:
  ///   - owner: nil for the key's name.
  ///   - lifetimeSeconds: nil for a key that does not expire.
  public func create(
    name: String, owner: String? = nil, scopes: Set<KeyScope>, lifetimeSeconds: Int64?
  ) throws(KeyStoreError) -> APIKey {
    let key = APIKey()
    let now = Int64(Date().timeIntervalSince1970)
    try run { database in
      try database.execute(
        sql: """
          INSERT INTO key (id, name, owner, ownerSince, scopes, hash, created, expiry) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
          """,
        arguments: [
          key.id, name, owner ?? name, now,
          KeyScope.allCases.filter(scopes.contains).map(\.rawValue).joined(separator: " "), Data(key.hash), now,
          lifetimeSeconds.map { now + $0 },
        ])
    }
    return key
  }

  /// - Returns: whether the key exists. A key that was revoked before keeps its time of revocation.
  public func revoke(_ id: String) throws(KeyStoreError) -> Bool {
    let now = Int64(Date().timeIntervalSince1970)
    return try run { database in
      try database.execute(
        sql: "UPDATE key SET revoked = coalesce(revoked, ?) WHERE id = ?", arguments: [now, id])
      return database.changesCount == 1
    }
  }

  /// All keys ever created, oldest first.
  public func all() throws(KeyStoreError) -> [StoredKey] {
    try run { database in
      try Row.fetchAll(database, sql: "SELECT * FROM key ORDER BY created, id").map { row in
        let scopes: String = row["scopes"]
        let hash: Data = row["hash"]
        return StoredKey(
          id: row["id"], name: row["name"],
          // An earlier program created the key after this one opened the file. It gets an owner like the others.
          owner: row["owner"] ?? row["name"], ownerSinceSeconds: row["ownerSince"] ?? Int64.max / 2,
          // An unknown scope allows nothing.
          scopes: Set(scopes.split(separator: " ").compactMap { KeyScope(rawValue: String($0)) }), hash: Array(hash),
          createdSeconds: row["created"], expirySeconds: row["expiry"], revokedSeconds: row["revoked"],
          lastUsedSeconds: row["lastUsed"])
      }
    }
  }

  func recordUse(_ uses: [(id: String, seconds: Int64)]) throws(KeyStoreError) {
    try run { database in
      for use in uses {
        try database.execute(sql: "UPDATE key SET lastUsed = ? WHERE id = ?", arguments: [use.seconds, use.id])
      }
    }
  }

  /// A number that changes when another process, or another instance, has changed a key.
  func changeCount() throws(KeyStoreError) -> Int {
    do {
      return try queue.writeWithoutTransaction { try Int.fetchOne($0, sql: "PRAGMA data_version") ?? 0 }
    } catch {
      throw KeyStoreError(path: path, error)
    }
  }

  private func run<Value>(_ work: (Database) throws -> Value) throws(KeyStoreError) -> Value {
    do {
      return try queue.write(work)
    } catch {
      throw KeyStoreError(path: path, error)
    }
  }
}

/// Why the keys can't be used.
public struct KeyStoreError: Error, Sendable, CustomStringConvertible {
  /// The kind of failure, which decides the advice.
  enum Kind: Sendable {
    /// The file is missing.
    case gone
    /// The directory is not a server's, and ``path`` is the directory.
    case wrongDirectory
    /// Another program has the file locked; the file is sound.
    case locked
    /// The file's content is not readable as keys.
    case damaged
    /// The disk, its free space, or permissions of the file or directory.
    case inaccessible
  }

  public var path: String
  public var reason: String
  var kind: Kind

  init(path: String, reason: String, kind: Kind) {
    self.path = path
    self.reason = reason
    self.kind = kind
  }

  init(path: String, _ error: any Error) {
    let kind = Self.kind(of: error)
    self.init(path: path, reason: kind == .locked ? LockedDatabase.reason : "\(error)", kind: kind)
  }

  private static func kind(of error: any Error) -> Kind {
    if LockedDatabase.isCause(of: error) { return .locked }
    guard let error = error as? DatabaseError else { return .inaccessible }
    return switch error.resultCode {
    case .SQLITE_IOERR, .SQLITE_FULL, .SQLITE_PERM, .SQLITE_READONLY, .SQLITE_CANTOPEN, .SQLITE_NOMEM, .SQLITE_AUTH:
      .inaccessible
    default: .damaged
    }
  }

  public var description: String {
    switch kind {
    case .wrongDirectory: "can't use \(path) as data directory: \(reason)"
    case .gone, .locked, .damaged, .inaccessible: "can't use \(path): \(reason); \(advice)"
    }
  }

  private var advice: String {
    switch kind {
    case .wrongDirectory: "give the data directory"
    case .gone:
      "restore it from a backup, or create new keys with regispay keys create: once keys were created, no server starts"
        + " without one"
    case .locked: LockedDatabase.advice
    case .damaged:
      "no server starts with it: restore it from a backup, or move it away and create new keys with regispay keys create"
    case .inaccessible: "check its disk, its permissions and those of its directory; the file itself may be sound"
    }
  }
}
