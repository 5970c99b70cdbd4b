import Foundation

/// Keeps two runs from writing one backup at the same time. Only the process holds it: it ends with it.
struct BackupLock {
  private static let fileName = "lock"
  private let descriptor: Int32

  init(_ target: String) throws(DataBackupError) {
    let path = "\(target)/\(Self.fileName)"
    descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { throw DataBackupError("can't open \(path): \(String(cString: strerror(errno)))") }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let code = errno
      close(descriptor)
      throw DataBackupError(
        code == EWOULDBLOCK
          ? "another backup to \(target) is running" : "can't lock \(path): \(String(cString: strerror(code)))")
    }
  }

  func release() { close(descriptor) }
}

/// What a backup's directory holds, as its file `backup.json` says. The file is written when all else is in place.
struct BackupSet {
  static let fileName = "backup.json"
  static let keys = "keys.sqlite"
  static let webhooks = "webhooks.sqlite"
  private static let version = 1

  var storeID: String
  /// The end of the payments log in the backup, at least.
  var events: UInt64
  var psp: String?
  /// SQLite files.
  var files: [String]
  var hasSimulator: Bool
  var time: Date

  init(storeID: String, events: UInt64, psp: String?, files: [String], hasSimulator: Bool, time: Date) {
    self.storeID = storeID
    self.events = events
    self.psp = psp
    self.files = files
    self.hasSimulator = hasSimulator
    self.time = time
  }

  /// Reads the file. Blocks for a read of at most ``SmallFile/byteLimit`` bytes.
  init(in directory: String) throws(DataBackupError) {
    let path = "\(directory)/\(Self.fileName)"
    guard let bytes = try translating({ try SmallFile.read(path) }) else {
      throw DataBackupError("\(directory) is no complete backup of a server: it holds no \(Self.fileName)")
    }
    let json: JSONValue
    do {
      json = try JSONReader.read(bytes)
    } catch {
      throw Self.damaged(path, "\(error)")
    }
    guard case .number(let version)? = json["version"], version == "\(Self.version)" else {
      throw DataBackupError("\(path) has another version than this program, which reads \(Self.version)")
    }
    guard let storeID = json["storeID"]?.text, case .number(let digits)? = json["events"], let events = UInt64(digits),
      case .array(let files)? = json["files"], let text = json["time"]?.text
    else { throw Self.damaged(path, "it lacks a member, or one has another type") }
    let time: Date
    do {
      time = try Date(text, strategy: .iso8601)
    } catch {
      throw Self.damaged(path, "\(error)")
    }
    self.init(
      storeID: storeID, events: events, psp: json["psp"]?.text, files: files.compactMap(\.text),
      hasSimulator: json["simulator"] == .bool(true), time: time)
  }

  private static func damaged(_ path: String, _ reason: String) -> DataBackupError {
    DataBackupError("\(path) is damaged: \(reason); make the backup again, or use another copy of it")
  }

  func write(in directory: String) throws(SmallFile.Failure) {
    var members: [JSONValue.Member] = [
      .init("version", .integer(Self.version)), .init("time", .string(time.formatted(.iso8601))),
      .init("storeID", .string(storeID)), .init("events", .integer(events)),
      .init("simulator", .bool(hasSimulator)), .init("files", .array(files.map(JSONValue.string))),
    ]
    if let psp { members.append(.init("psp", .string(psp))) }
    try SmallFile.write(JSONValue.object(members).bytes, to: "\(directory)/\(Self.fileName)", syncs: true)
  }

  /// Whether a backup, SQLite or the file system gives this name.
  static func isOwn(_ name: String) -> Bool {
    if ["payments", "simulator", "lock", "lost+found"].contains(name) || name.hasPrefix(".nfs") { return true }
    return [fileName, keys, webhooks].contains { file in
      ["", ".new", ".new-journal", ".new-wal", ".new-shm"].contains { name == file + $0 }
    }
  }
}
