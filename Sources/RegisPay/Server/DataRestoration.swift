import Foundation
import LogStore

/// Makes a data directory from a ``DataBackup``. What the directory has is kept: in the old directory, whose log was moved away, keys
/// that were revoked after the backup stay revoked.
///
/// The file ``UnfinishedRestoration`` is there from the first write to the last, and no server starts beside it. So a restoration that
/// was killed is run again, from the same backup, and goes on.
///
/// All calls block for the disk.
public struct DataRestoration: Sendable {
  public struct Report: Sendable {
    /// Nil if an earlier run, which was killed, had restored it.
    public var payments: RestoreReport?
    /// Nil if the backup holds none, or the directory had one.
    public var simulator: RestoreReport?
    /// What was restored beside the logs.
    public var files: [String]
    /// What the directory had.
    public var kept: [String]
    /// Events of the payments log.
    public var events: UInt64
    /// When the backup was made.
    public var time: Date
    /// Why a later backup, which may be the one that was meant, could not be restored: one line for each.
    public var unreadable: [String] = []
  }

  /// What can be restored.
  public struct Choice: Sendable {
    /// When the backup was made.
    public var time: Date
    /// Events of its payments log.
    public var events: UInt64
  }

  let backup: String
  let directory: String
  let latest: Date?

  /// - Parameters:
  ///   - backup: the backup's directory.
  ///   - directory: the data directory; created if it is missing.
  ///   - latest: the backup must not be younger; nil for the last one.
  public init(of backup: String, to directory: String, latest: Date? = nil) {
    self.latest = latest
    self.backup = URL(fileURLWithPath: backup).standardizedFileURL.path
    self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
  }

  private typealias Files = [(file: BackupSet.File, bytes: [UInt8])]

  /// What is restored.
  private struct Chosen: Equatable {
    var set: BackupSet
    /// As ``Report/unreadable``.
    var unreadable: [String] = []
  }

  /// How often a backup that runs meanwhile may replace the set while it is read.
  private static let tries = 5

  public func run() throws(DataBackupError) -> Report {
    let (chosen, files) = try read()
    try translating { try DataDirectory.check(directory, for: .server) }
    guard !RealPath.isInside(directory, backup) else {
      throw DataBackupError("\(directory) is in \(backup), which is a backup: give a directory outside of it")
    }
    var report = try restore(chosen.set, files)
    report.unreadable = chosen.unreadable
    return report
  }

  /// The set and its files, which a backup that runs meanwhile replaces. The logs it only adds to.
  ///
  /// Without a lock, so that the backup may be on a read-only disk.
  private func read() throws(DataBackupError) -> (Chosen, Files) {
    var chosen = try choose()
    for _ in 1..<Self.tries {
      do throws(DataBackupError) {
        return (chosen, try files(of: chosen.set))
      } catch {
        let now = try choose()
        guard now != chosen else { throw error }
        chosen = now
      }
    }
    return (chosen, try files(of: chosen.set))
  }

  private func choose() throws(DataBackupError) -> Chosen {
    guard let latest else { return Chosen(set: try BackupSet(in: backup)) }
    let (sets, faults) = try BackupSet.all(in: backup)
    let shown = latest.formatted(.iso8601)
    guard let index = sets.lastIndex(where: { $0.time <= latest }) else {
      let unreadable = faults.first.map { "; there are some that can't be read: \($0.error)" } ?? ""
      throw DataBackupError(
        "\(backup) has no backup of \(shown) or before; the oldest is of \(sets[0].time.formatted(.iso8601))\(unreadable)"
      )
    }
    // The one after it is younger than what was asked for, so those behind that are, too.
    let end = index + 1 < sets.count ? sets[index + 1].number : nil
    let doubtful = faults.filter { $0.number > sets[index].number && (end == nil || $0.number < end ?? 0) }
    return Chosen(
      set: sets[index],
      unreadable: doubtful.map { "\($0.error). It may be of \(shown) or before: an earlier backup is restored" })
  }

  /// What ``run()`` can restore, from the oldest to the latest, and why others can't be read.
  public static func list(
    _ backup: String
  ) throws(DataBackupError) -> (choices: [Choice], faults: [DataBackupError]) {
    let (sets, faults) = try BackupSet.all(in: URL(fileURLWithPath: backup).standardizedFileURL.path)
    return (sets.map { Choice(time: $0.time, events: $0.events) }, faults.map(\.error))
  }

  private func files(of set: BackupSet) throws(DataBackupError) -> Files {
    var files: Files = []
    for file in set.files { files.append((file, try set.bytes(of: file, in: backup))) }
    return files
  }

  private func restore(_ set: BackupSet, _ files: Files) throws(DataBackupError) -> Report {
    let unfinished = try UnfinishedRestoration(in: directory)
    let this = UnfinishedRestoration(storeID: set.storeID, number: set.number, time: set.time)
    if let unfinished, unfinished != this {
      throw DataBackupError(
        "\(directory) holds an unfinished restoration of the backup of \(unfinished.time.formatted(.iso8601)), and \(backup) is of"
          + " \(set.time.formatted(.iso8601)): restore that one, or remove what is in \(directory) first")
    }
    if unfinished == nil, isThere("payments") {
      throw DataBackupError(
        "\(directory)/payments exists: stop the server and move it away, or give another directory")
    }
    try translating {
      try PrivateFiles.makeDirectory(directory)
      try this.write(in: directory)
      try PrivateFiles.makeDirectory(directory + "/webhooks")
    }
    var report = Report(files: [], kept: [], events: set.events, time: set.time)
    func restore(_ path: String, _ make: () throws -> Void) throws(DataBackupError) {
      if isThere(path) { return report.kept.append(path) }
      try translating(make)
      report.files.append(path)
    }
    // Whatever it says else: it may be older than the backup.
    let old = KnownLog(in: directory)
    var known = old ?? KnownLog(storeID: set.storeID, events: set.events, psp: set.psp)
    known.isRestored = true
    try translating { try known.write(in: directory) }
    if old == nil { report.files.append(KnownLog.fileName) } else { report.kept.append(KnownLog.fileName) }
    for (file, bytes) in files {
      let path = file.name == BackupSet.webhooks ? "webhooks/webhooks.sqlite" : file.name
      try restore(path) { try SmallFile.write(bytes, to: "\(directory)/\(path)", syncs: true) }
    }
    if let end = set.simulatorEvents {
      if isThere("simulator") {
        report.kept.append("simulator")
      } else {
        report.simulator = try log("simulator", set.isOfOldForm ? nil : end)
      }
    }
    if isThere("payments") {
      try checkEarlierRun(set)
    } else {
      let payments = try log("payments", set.isOfOldForm ? nil : set.events)
      report.payments = payments
      report.events = payments.endOffset
    }
    try translating {
      for name in ["/webhooks", ""] { try PrivateFiles.syncDirectory(directory + name) }
      try UnfinishedRestoration.remove(in: directory)
    }
    return report
  }

  /// Whether the payments log that is there is what an earlier run has restored: somebody may have put another one there since.
  private func checkEarlierRun(_ set: BackupSet) throws(DataBackupError) {
    let path = directory + "/payments"
    let (storeID, end) = try translating {
      let reader = try LogReader.open(path)
      defer { reader.close() }
      return (reader.storeID, reader.endOffset)
    }
    guard storeID == set.storeID, set.isOfOldForm ? end >= set.events : end == set.events else {
      throw DataBackupError(
        "\(path) is not what an earlier run has restored: it holds \(end) events of log \(storeID), and the backup \(set.events) of"
          + " log \(set.storeID). Nothing was replaced: move it away, and restore again")
    }
  }

  private func isThere(_ name: String) -> Bool { FileManager.default.fileExists(atPath: "\(directory)/\(name)") }

  private func log(_ name: String, _ end: UInt64?) throws(DataBackupError) -> RestoreReport {
    try translating {
      try LogStore.restore(from: .directory("\(backup)/\(name)"), to: "\(directory)/\(name)", until: end)
    }
  }
}

/// The file that a data directory has while a restoration is made in it: which backup it is made from.
struct UnfinishedRestoration: Sendable, Hashable {
  static let fileName = "restoration"

  var storeID: String
  /// The backup's: several can be made within a second.
  var number: Int
  /// When the backup was made.
  var time: Date

  static func path(in directory: String) -> String { "\(directory)/\(fileName)" }

  init(storeID: String, number: Int, time: Date) {
    self.storeID = storeID
    self.number = number
    self.time = time
  }

  /// Nil if there is none.
  init?(in directory: String) throws(DataBackupError) {
    let path = Self.path(in: directory)
    guard let bytes = try translating({ try SmallFile.read(path) }) else { return nil }
    do {
      let json = try JSONReader.read(bytes)
      storeID = json["storeID"]?.text ?? ""
      number = Int(clamping: json["number"]?.unsigned ?? 0)
      // Its own error says no more.
      guard let time = try? Date(json["time"]?.text ?? "", strategy: .iso8601) else {
        throw DataBackupError("its time is none")
      }
      self.time = time
    } catch {
      throw DataBackupError("\(path) is damaged: \(error); remove what is in \(directory), and restore again")
    }
  }

  func write(in directory: String) throws(SmallFile.Failure) {
    let json: JSONValue = [
      "storeID": .string(storeID), "number": .integer(number), "time": .string(time.formatted(.iso8601)),
    ]
    try SmallFile.write(json.bytes, to: Self.path(in: directory), syncs: true)
  }

  static func remove(in directory: String) throws {
    guard unlink(path(in: directory)) == 0 else {
      throw PrivateFiles.Failure(operation: "can't remove", path: path(in: directory), code: errno)
    }
    try PrivateFiles.syncDirectory(directory)
  }

  /// Also if the run was killed while it wrote the file: there may be nothing else yet.
  static func isThere(in directory: String) -> Bool {
    ["", ".new"].contains { FileManager.default.fileExists(atPath: path(in: directory) + $0) }
  }
}
