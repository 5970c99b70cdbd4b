import Foundation
import LogStore

/// Makes a data directory from a ``DataBackup``. What the directory has is kept: in the old directory, whose log was moved away, keys
/// that were revoked after the backup stay revoked.
///
/// The payments log comes last. Before, no server starts there: `payments.known` tells that there were events. So a restoration that
/// was killed is run again, and goes on.
///
/// All calls block for the disk.
public struct DataRestoration: Sendable {
  public struct Report: Sendable {
    public var payments: RestoreReport
    /// Nil if the backup holds none, or the directory had one.
    public var simulator: RestoreReport?
    /// What was restored beside the logs.
    public var files: [String]
    /// What the directory had.
    public var kept: [String]
    /// When the backup was made.
    public var time: Date
  }

  let backup: String
  let directory: String

  /// - Parameters:
  ///   - backup: the backup's directory.
  ///   - directory: the data directory; created if it is missing.
  public init(of backup: String, to directory: String) {
    self.backup = URL(fileURLWithPath: backup).standardizedFileURL.path
    self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
  }

  public func run() throws(DataBackupError) -> Report {
    // Without a lock, so that the backup may be on a read-only disk. A backup that runs meanwhile replaces each part as a whole,
    // and the payments log, which is read last, is not older than what was read before.
    let set = try BackupSet(in: backup)
    try translating { try DataDirectory.check(directory) }
    if isThere("payments") {
      throw DataBackupError(
        "\(directory)/payments exists: stop the server and move it away, or give another directory")
    }
    try translating { try PrivateFiles.makeDirectory(directory + "/webhooks") }
    var files: [String] = []
    var kept: [String] = []
    func restore(_ path: String, _ make: () throws -> Void) throws(DataBackupError) {
      if isThere(path) { return kept.append(path) }
      try translating(make)
      files.append(path)
    }
    try restore(KnownLog.fileName) {
      try KnownLog(storeID: set.storeID, events: set.events, psp: set.psp).write(in: directory)
    }
    for (name, path) in [(BackupSet.keys, "keys.sqlite"), (BackupSet.webhooks, "webhooks/webhooks.sqlite")]
    where set.files.contains(name) {
      try restore(path) { try DatabaseCopy(of: "\(backup)/\(name)", to: "\(directory)/\(path)").commit() }
    }
    var simulator: RestoreReport?
    if set.hasSimulator {
      if isThere("simulator") { kept.append("simulator") } else { simulator = try log("simulator") }
    }
    let payments = try log("payments")
    return Report(payments: payments, simulator: simulator, files: files, kept: kept, time: set.time)
  }

  private func isThere(_ name: String) -> Bool { FileManager.default.fileExists(atPath: "\(directory)/\(name)") }

  private func log(_ name: String) throws(DataBackupError) -> RestoreReport {
    try translating {
      try LogStore.restore(from: .directory("\(backup)/\(name)"), to: "\(directory)/\(name)")
    }
  }
}
