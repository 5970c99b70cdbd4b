import Crypto
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

/// What one run has backed up: the logs up to these offsets, whatever a later run has added to them, and the files of one folder, which
/// holds the set itself, too.
///
/// The file `backup.json` is a copy of the latest set. It is written when all else is in place, and makes the set of a run count as a
/// whole.
struct BackupSet: Sendable, Hashable {
  /// An SQLite file.
  struct File: Sendable, Hashable {
    var name: String
    /// SHA-256, in hexadecimal digits; nil in the form before this one, which has none.
    var digest: String?

    init(_ name: String, _ bytes: [UInt8]) {
      self.name = name
      digest = hexadecimal(SHA256.hash(data: bytes))
    }

    fileprivate init?(_ json: JSONValue) {
      if let name = json.text, BackupSet.fileNames.contains(name) {
        self.name = name
        return
      }
      guard let name = json["name"]?.text, BackupSet.fileNames.contains(name), let digest = json["sha256"]?.text else {
        return nil
      }
      self.name = name
      self.digest = digest
    }
  }

  /// Why a set can't be read.
  struct Fault {
    /// The number of its folder; the greatest one for the latest set, whose file is not in a folder.
    var number: Int
    var error: DataBackupError
  }

  static let fileName = "backup.json"
  /// In its folder.
  private static let folderFileName = "set.json"
  static let keys = "keys.sqlite"
  static let webhooks = "webhooks.sqlite"
  fileprivate static let fileNames = [keys, webhooks]
  private static let folderPrefix = "files-"
  /// What follows a log's name while a copy of its backup is made, and that copy's store.
  static let rewound = ".rewound"
  static let rewoundStore = ".rewound-store"
  private static let version = 2
  /// The form before has its SQLite files beside `backup.json`, and goes as far as its logs.
  private static let oldVersion: UInt64 = 1

  var storeID: String
  /// The end of the payments log; of the form before, at least.
  var events: UInt64
  /// The end of the simulator's log; nil if there is none.
  var simulatorEvents: UInt64?
  /// Its logs are restored up to their ends.
  var isOfOldForm = false
  var psp: String?
  var files: [File]
  /// The number of the folder with the files.
  var number: Int
  var time: Date
  /// How long its run kept earlier sets; nil if it did not say.
  var keepSeconds: UInt64?

  var folder: String { isOfOldForm ? "." : Self.folder(number) }
  static func folder(_ number: Int) -> String { folderPrefix + String(number) }

  init(
    storeID: String, events: UInt64, simulatorEvents: UInt64?, psp: String?, files: [File], number: Int, time: Date
  ) {
    self.storeID = storeID
    self.events = events
    self.simulatorEvents = simulatorEvents
    self.psp = psp
    self.files = files
    self.number = number
    self.time = time
  }

  /// Reads the file. Blocks for a read of at most ``SmallFile/byteLimit`` bytes.
  init(in directory: String) throws(DataBackupError) {
    guard let set = try Self.read(in: directory) else { throw Self.incomplete(directory) }
    self = set
  }

  /// The sets that can be restored, from the oldest to the latest one, and why others can't be read. Blocks for as many reads.
  ///
  /// - Throws: if none can be read.
  static func all(in directory: String) throws(DataBackupError) -> (sets: [BackupSet], faults: [Fault]) {
    var (sets, faults): ([BackupSet], [Fault]) = ([], [])
    var latest: BackupSet?
    let noLatest: DataBackupError?
    do throws(DataBackupError) {
      latest = try BackupSet(in: directory)
      noLatest = nil
    } catch {
      noLatest = error
      faults.append(Fault(number: .max, error: error))
    }
    var missing: [Int] = []
    for number in try folders(in: directory) where number != latest?.number || latest?.isOfOldForm == true {
      do throws(DataBackupError) {
        if let set = try kept(number, in: directory) { sets.append(set) } else { missing.append(number) }
      } catch {
        faults.append(Fault(number: number, error: error))
      }
    }
    // A run that was killed has left its folder, whose number the next run uses again.
    if let latest { sets = sets.filter { $0.number < latest.number } + [latest] }
    guard let last = sets.last else { throw noLatest ?? incomplete(directory) }
    for number in missing where number < last.number {
      let name = folder(number)
      // A backup that runs meanwhile removes what is too old.
      guard FileManager.default.fileExists(atPath: "\(directory)/\(name)") else { continue }
      faults.append(
        Fault(
          number: number,
          error: DataBackupError("\(directory)/\(name)/\(folderFileName) is missing; \(keptAdvice(name))")))
    }
    return (sets, faults.sorted { $0.number < $1.number })
  }

  /// The numbers of the folders with files, in order.
  private static func folders(in directory: String) throws(DataBackupError) -> [Int] {
    try translating { try FileManager.default.contentsOfDirectory(atPath: directory) }.compactMap(number(ofFolder:))
      .sorted()
  }

  /// The set of a folder; nil if it has none.
  private static func kept(_ number: Int, in directory: String) throws(DataBackupError) -> BackupSet? {
    let name = folder(number)
    let path = "\(directory)/\(name)/\(folderFileName)"
    guard let set = try read(path, advice: keptAdvice(name)) else { return nil }
    guard set.folder == name else {
      throw damaged(path, "it names the folder \(set.folder)", advice: keptAdvice(name))
    }
    return set
  }

  private static func keptAdvice(_ folder: String) -> String {
    "this backup can't be restored any more: use another copy of it, or remove \(folder)"
  }

  private static func incomplete(_ directory: String) -> DataBackupError {
    DataBackupError("\(directory) is no complete backup of a server: it holds no \(fileName)")
  }

  /// Reads the latest set; nil if there is none.
  static func read(in directory: String) throws(DataBackupError) -> BackupSet? {
    try read(
      "\(directory)/\(fileName)",
      advice:
        "use another copy of it, or make a new backup in another directory; regispay restore --list shows the backups"
        + " here that --at can restore")
  }

  private static func read(_ path: String, advice: String) throws(DataBackupError) -> BackupSet? {
    let found: [UInt8]?
    do throws(SmallFile.Failure) {
      found = try SmallFile.read(path)
    } catch {
      throw DataBackupError("\(error); \(advice)")
    }
    guard let bytes = found else { return nil }
    let json: JSONValue
    do {
      json = try JSONReader.read(bytes)
    } catch {
      throw damaged(path, "\(error)", advice: advice)
    }
    guard let version = json["version"]?.unsigned, version == Self.version || version == Self.oldVersion else {
      throw DataBackupError(
        "\(path) has another version than this program, which reads \(Self.oldVersion) and \(Self.version): use a newer program"
      )
    }
    let isOld = version == Self.oldVersion
    guard let storeID = json["storeID"]?.text, let events = json["events"]?.unsigned,
      case .array(let entries)? = json["files"], let folder = isOld ? 0 : json["folder"]?.unsigned,
      let text = json["time"]?.text
    else { throw damaged(path, "it lacks a member, or one has another type", advice: advice) }
    let files = entries.compactMap(File.init)
    guard files.count == entries.count, folder <= Int.max / 2 else {
      throw damaged(path, "it names an impossible file", advice: advice)
    }
    // Its own error says no more.
    guard let time = try? Date(text, strategy: .iso8601) else {
      throw damaged(path, "its time is none", advice: advice)
    }
    let simulatorEvents = isOld ? (json["simulator"] == .bool(true) ? 0 : nil) : json["simulatorEvents"]?.unsigned
    var set = BackupSet(
      storeID: storeID, events: events, simulatorEvents: simulatorEvents, psp: json["psp"]?.text, files: files,
      number: Int(folder), time: time)
    set.isOfOldForm = isOld
    set.keepSeconds = json["keepSeconds"]?.unsigned
    return set
  }

  private static func damaged(_ path: String, _ reason: String, advice: String) -> DataBackupError {
    DataBackupError("\(path) is damaged: \(reason); \(advice)")
  }

  /// Writes the set into its folder, and then makes it the latest one. Returns when that is on disk.
  func write(in directory: String) throws(DataBackupError) {
    var members: [JSONValue.Member] = [
      .init("version", .integer(Self.version)), .init("time", .string(time.formatted(.iso8601))),
      .init("storeID", .string(storeID)), .init("events", .integer(events)), .init("folder", .integer(number)),
      .init("files", .array(files.map { ["name": .string($0.name), "sha256": .string($0.digest ?? "")] })),
    ]
    if let simulatorEvents { members.append(.init("simulatorEvents", .integer(simulatorEvents))) }
    if let psp { members.append(.init("psp", .string(psp))) }
    if let keepSeconds { members.append(.init("keepSeconds", .integer(keepSeconds))) }
    let bytes = JSONValue.object(members).bytes
    try translating {
      try SmallFile.write(bytes, to: "\(directory)/\(folder)/\(Self.folderFileName)", syncs: true)
      try PrivateFiles.syncDirectory("\(directory)/\(folder)")
      try SmallFile.write(bytes, to: "\(directory)/\(Self.fileName)", syncs: true)
      try PrivateFiles.syncDirectory(directory)
    }
  }

  /// The bytes of one of the files.
  ///
  /// - Throws: if it is missing or not what was written.
  func bytes(of file: File, in directory: String) throws(DataBackupError) -> [UInt8] {
    let path = "\(directory)/\(folder)/\(file.name)"
    let bytes = try translating { try FileBytes.read(path) }
    guard file.digest == nil || File(file.name, bytes) == file else {
      throw DataBackupError("\(path) is damaged: its checksum differs; use another copy of the backup")
    }
    return bytes
  }

  /// Whether a backup or the file system gives this name.
  static func isOwn(_ name: String) -> Bool {
    ["payments", "simulator", "lock", "lost+found", fileName, fileName + ".new"].contains(name)
      || ["payments", "simulator"].contains { log in [rewound, rewoundStore].contains { name == log + $0 } }
      || name.hasPrefix(".nfs") || isFolder(name) || isOfOldForm(name)
  }

  /// Whether a backup of the form before has a file of this name.
  static func isOfOldForm(_ name: String) -> Bool {
    fileNames.contains { file in ["", ".new", ".new-journal", ".new-wal", ".new-shm"].contains { name == file + $0 } }
  }

  static func isFolder(_ name: String) -> Bool { number(ofFolder: name) != nil }

  private static func number(ofFolder name: String) -> Int? {
    guard name.hasPrefix(folderPrefix), let number = Int(name.dropFirst(folderPrefix.count)), folder(number) == name
    else {
      return nil
    }
    return number
  }
}
