import CLinux
import Foundation
import LogStore

/// Why a backup of a data directory, or its restoration, was not made. `description` is one line and says what to do.
public struct DataBackupError: Error, Sendable, CustomStringConvertible {
  public let description: String
  /// The data lacks what the log says it has. It may just be changing.
  let isLoss: Bool

  init(_ description: String, isLoss: Bool = false) {
    self.description = description
    self.isLoss = isLoss
  }
}

/// A backup of all that a data directory needs, in a directory of its own: the logs, incrementally, the API keys and the webhooks with
/// their secrets. The server may run meanwhile.
///
/// What belongs together is replaced together, by the last write of a run (``BackupSet``). A run that fails or is killed leaves the set
/// of the run before: it may have added to the logs, and a restoration takes them up to the set's own ends.
///
/// A webhook's checkpoint must not lie past the end of the payments log, so the webhooks are copied before it. The log says whether
/// keys and webhook endpoints were made for it (``LogMark``). A copy that has none of them then, because the first was made or the
/// last removed meanwhile, is made again; if it still has none, they were lost, and the run is refused.
///
/// All calls block for the disk.
public struct DataBackup: Sendable {
  public struct Report: Sendable {
    public var payments: BackupReport
    /// Nil if the directory holds no simulator's log.
    public var simulator: BackupReport?
    /// Names of the SQLite files that were copied.
    public var files: [String]
    /// What does not concern this backup: earlier ones that can't be read or removed.
    public var warnings: [String]
  }

  /// An SQLite file of a data directory.
  private struct Source {
    var path: String
    var name: String
    var table: String
    var mark: String
    var noun: String
  }

  /// Copies after which one that lacks what the log says is taken for a loss.
  private static let tries = 5
  /// Microseconds between two of them.
  private static let pause: UInt32 = 200_000
  /// Earlier sets that a run removes because they are too old, at most: a clock that jumps must not take all of them at once.
  private static let removedAtOnce = 2
  /// Earlier sets whose files a run reads to find damage, about.
  private static let readAtOnce = 16

  let directory: String
  let target: String
  let keep: Duration?

  /// - Parameters:
  ///   - directory: the data directory.
  ///   - target: the backup's directory; created if it is missing.
  ///   - keep: how long sets of earlier runs are kept; nil for as long as the last run that said so has kept them, and without any not
  ///     at all. Each costs the size of the SQLite files; the logs are there once.
  public init(of directory: String, to target: String, keep: Duration? = nil) {
    self.keep = keep
    self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
    self.target = URL(fileURLWithPath: target).standardizedFileURL.path
  }

  /// Makes the backup, or brings it up to date. After an error the set is what it was.
  public func run() throws(DataBackupError) -> Report {
    try check()
    let lock = try BackupLock(target)
    defer { lock.release() }
    let previous = try BackupSet.read(in: target)
    try checkSimulator(previous)
    // A loss is found before the logs are read, which may take long.
    try retrying { () throws(DataBackupError) in
      try checkRows(zip(sources, [try copy(sources[0], previous), try copy(sources[1], previous)]), try marks())
    }
    return try retrying { () throws(DataBackupError) in try attempt(previous) }
  }

  private var sources: [Source] {
    [
      Source(
        path: WebhookJournal.path(in: directory + "/webhooks"), name: BackupSet.webhooks, table: "endpoint",
        mark: Webhooks.checkpointName, noun: "webhook endpoint"),
      Source(
        path: KeyStore.path(in: directory), name: BackupSet.keys, table: "key", mark: KeyWatch.checkpointName,
        noun: "key"),
    ]
  }

  /// Tries again what finds a loss: a server that is just making its first endpoint ends that meanwhile.
  private func retrying<Value>(_ work: () throws(DataBackupError) -> Value) throws(DataBackupError) -> Value {
    for _ in 1..<Self.tries {
      do throws(DataBackupError) {
        return try work()
      } catch {
        guard error.isLoss else { throw error }
        usleep(Self.pause)
      }
    }
    return try work()
  }

  private func checkRows(
    _ copies: Zip2Sequence<[Source], [DatabaseSnapshot?]>, _ marks: Set<String>
  ) throws(DataBackupError) {
    for (source, snapshot) in copies where marks.contains(source.mark) && snapshot?.hasRows != true {
      throw DataBackupError(
        "\(source.path) holds no \(source.noun), and \(source.noun)s were made for this log: put the file back as it was. The backup"
          + " has not changed", isLoss: true)
    }
  }

  private func attempt(_ previous: BackupSet?) throws(DataBackupError) -> Report {
    let sources = sources
    let before = try marks()
    let webhooks = try copy(sources[0], previous)
    // Sets of the old form go as far as their logs, so a killed run can't have added to them.
    let latest = previous.flatMap { $0.isOfOldForm ? nil : $0 }
    let payments = try back(up: "payments", latest?.events)
    let simulator = try hasSimulator ? back(up: "simulator", latest?.simulatorEvents) : nil
    // Last, because it says who may use the server: a key that was revoked during the backup is revoked in it.
    let keys = try copy(sources[1], previous)
    try checkRows(zip(sources, [webhooks, keys]), before.union(try marks()))
    let copies = zip(sources, [webhooks, keys]).compactMap { source, snapshot in
      snapshot.map { (source.name, $0.bytes) }
    }
    let number = try commit(copies, payments, simulator, previous)
    return Report(
      payments: payments, simulator: simulator, files: copies.map(\.0),
      warnings: removeOld(but: number, keeping: .seconds(keepSeconds(previous) ?? 0)))
  }

  private func keepSeconds(_ previous: BackupSet?) -> UInt64? {
    keep.map { UInt64(clamping: $0.components.seconds) } ?? previous?.keepSeconds
  }

  /// Puts the set into place.
  ///
  /// - Returns: its number.
  private func commit(
    _ copies: [(name: String, bytes: [UInt8])], _ payments: BackupReport, _ simulator: BackupReport?,
    _ previous: BackupSet?
  ) throws(DataBackupError) -> Int {
    let number = (previous?.number ?? 0) + 1
    let folder = "\(target)/\(BackupSet.folder(number))"
    try remove(BackupSet.folder(number))
    try translating {
      try PrivateFiles.makeDirectory(folder)
      for (name, bytes) in copies { try FileBytes.create("\(folder)/\(name)", bytes) }
      try PrivateFiles.syncDirectory(folder)
    }
    var set = BackupSet(
      storeID: try storeID(), events: payments.endOffset, simulatorEvents: simulator?.endOffset,
      psp: KnownLog(in: directory)?.psp, files: copies.map { BackupSet.File($0.name, $0.bytes) }, number: number,
      time: Date())
    set.keepSeconds = keepSeconds(previous)
    try set.write(in: target)
    return number
  }

  /// Removes what earlier runs have left and is not to be kept. The new set counts already, whatever fails here.
  ///
  /// - Returns: what failed.
  private func removeOld(but number: Int, keeping keep: Duration) -> [String] {
    var warnings: [String] = []
    do throws(DataBackupError) {
      var kept: Set = [BackupSet.folder(number)]
      if keep > .zero {
        let (sets, faults) = try BackupSet.all(in: target)
        warnings = faults.map(\.error.description)
        let oldest = Date() - keep / .seconds(1)
        let expired = sets.filter { $0.number != number && $0.time < oldest }.prefix(Self.removedAtOnce)
        kept.formUnion(Set(sets.map(\.folder)).subtracting(expired.map(\.folder)))
        warnings += damage(of: sets.filter { kept.contains($0.folder) }, number)
        // What can't be read stays for a person to look at.
        kept.formUnion(faults.map { BackupSet.folder($0.number) })
      }
      let names = try translating { try FileManager.default.contentsOfDirectory(atPath: target) }
      for name in names where BackupSet.isOfOldForm(name) || (BackupSet.isFolder(name) && !kept.contains(name)) {
        try remove(name)
      }
    } catch {
      warnings.append("\(error)")
    }
    return warnings
  }

  /// Damage of the files of sets that are kept. Each set is read in one of several runs, so that a run's time does not grow with them.
  private func damage(of sets: [BackupSet], _ number: Int) -> [String] {
    let share = max(1, sets.count / Self.readAtOnce)
    return sets.filter { $0.number % share == number % share }.flatMap { set in
      set.files.compactMap { file in
        do throws(DataBackupError) {
          _ = try set.bytes(of: file, in: target)
          return nil
        } catch {
          return error.description
        }
      }
    }
  }

  /// Removes a folder or file of this backup, if it is there.
  private func remove(_ name: String) throws(DataBackupError) {
    let path = "\(target)/\(name)"
    guard FileManager.default.fileExists(atPath: path) else { return }
    try translating { try FileManager.default.removeItem(atPath: path) }
  }

  // MARK: - Checks

  private func check() throws(DataBackupError) {
    guard access(directory + "/payments/store", F_OK) == 0 else {
      let code = errno
      let reason = code == ENOENT ? "it holds no payments log" : String(cString: strerror(code))
      throw DataBackupError("\(directory) can't be used as data directory: \(reason)")
    }
    guard !RealPath.isInside(target, directory) else {
      throw DataBackupError("\(target) is in \(directory): a backup there is lost together with the data")
    }
    try translating { try PrivateFiles.makeDirectory(target) }
    let names = try translating { try FileManager.default.contentsOfDirectory(atPath: target) }
    if let foreign = names.sorted().first(where: { !BackupSet.isOwn($0) }) {
      throw DataBackupError(
        "\(target) holds \(foreign), which is no part of a backup: give an empty or a new directory")
    }
    for name in ["payments", "simulator"]
    where FileManager.default.fileExists(atPath: "\(target)/\(name)/store") {
      throw DataBackupError("\(target)/\(name) is a log and no backup of one: give an empty or a new directory")
    }
  }

  private var hasSimulator: Bool { FileManager.default.fileExists(atPath: directory + "/simulator/store") }

  private func checkSimulator(_ previous: BackupSet?) throws(DataBackupError) {
    guard !hasSimulator else { return }
    guard !FileManager.default.fileExists(atPath: directory + "/simulator") else {
      throw DataBackupError(
        "\(directory)/simulator holds no log: the file store is missing. Restore it (logstore restore), or move it away"
      )
    }
    guard previous?.simulatorEvents == nil else {
      throw DataBackupError(
        "\(directory)/simulator is missing, and \(target) has a backup of it: restore it (logstore restore), or make the backup in"
          + " an empty directory")
    }
  }

  /// The marks that are set.
  private func marks() throws(DataBackupError) -> Set<String> {
    try translating {
      let reader = try LogReader.open(directory + "/payments")
      defer { reader.close() }
      return Set(try sources.map(\.mark).filter { try reader.cursor($0) != nil })
    }
  }

  /// - Returns: nil if there is no such file and there has been none.
  private func copy(_ source: Source, _ previous: BackupSet?) throws(DataBackupError) -> DatabaseSnapshot? {
    guard FileManager.default.fileExists(atPath: source.path) else {
      guard previous?.files.contains(where: { $0.name == source.name }) != true else {
        throw DataBackupError(
          "\(source.path) is missing, and \(target) has a copy of it: put that back, or make the backup in an empty directory"
        )
      }
      return nil
    }
    return try translating { try DatabaseSnapshot(of: source.path, table: source.table) }
  }

  /// - Parameter end: of the log in the latest set; nil if there is none that says.
  private func back(up name: String, _ end: UInt64?) throws(DataBackupError) -> BackupReport {
    try translating {
      try PrivateFiles.makeDirectory("\(target)/\(name)")
      do {
        return try LogStore.backup("\(directory)/\(name)", to: .directory("\(target)/\(name)"))
      } catch let refusal as LogStoreError {
        // Another error would say less than the refusal, which then holds.
        guard case .backupRefused = refusal, let end, let report = try? rewound(name, to: end) else {
          throw refusal
        }
        return report
      }
    }
  }

  /// Backs up a log that was restored from the latest set. A killed run may have added more to the backup than belongs to that set, and
  /// the restored log has other events there: a copy of the backup that ends with the set takes its place.
  ///
  /// - Throws: if the log does not go on from the set either. Then the backup is as it was.
  private func rewound(_ name: String, to end: UInt64) throws -> BackupReport {
    let (store, copy) = (name + BackupSet.rewoundStore, name + BackupSet.rewound)
    for name in [store, copy] { try remove(name) }
    defer {
      // What is left is removed by the next run that needs the place.
      for name in [store, copy] { try? remove(name) }
    }
    _ = try LogStore.restore(from: .directory("\(target)/\(name)"), to: "\(target)/\(store)", until: end)
    try PrivateFiles.makeDirectory("\(target)/\(copy)")
    _ = try LogStore.backup("\(target)/\(store)", to: .directory("\(target)/\(copy)"))
    let report = try LogStore.backup("\(directory)/\(name)", to: .directory("\(target)/\(copy)"))
    guard clinux_exchange("\(target)/\(copy)", "\(target)/\(name)") == 0 else {
      throw PrivateFiles.Failure(operation: "can't exchange", path: "\(target)/\(copy)", code: errno)
    }
    try PrivateFiles.syncDirectory(target)
    return report
  }

  private func storeID() throws(DataBackupError) -> String {
    try translating {
      let reader = try LogReader.open(directory + "/payments")
      defer { reader.close() }
      return reader.storeID
    }
  }
}

/// Paths without symbolic links.
enum RealPath {
  /// Whether a path, which need not exist, is a directory or lies in it.
  static func isInside(_ path: String, _ directory: String) -> Bool {
    let (inner, outer) = (resolved(path), resolved(directory))
    return inner == outer || inner.hasPrefix(outer == "/" ? outer : outer + "/")
  }

  /// Resolved as far as it exists.
  private static func resolved(_ path: String) -> String {
    guard let real = realpath(path, nil) else {
      let name = (path as NSString).lastPathComponent
      let parent = (path as NSString).deletingLastPathComponent
      return parent == path || parent.isEmpty ? path : resolved(parent) + "/" + name
    }
    defer { free(real) }
    return String(cString: real)
  }
}

/// Makes one kind of error of all that can fail in a backup.
func translating<Value>(_ work: () throws -> Value) throws(DataBackupError) -> Value {
  do {
    return try work()
  } catch let error as DataBackupError {
    throw error
  } catch {
    throw DataBackupError("\(error)")
  }
}
