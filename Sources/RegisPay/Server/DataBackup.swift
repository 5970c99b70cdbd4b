import Foundation
import LogStore

/// Why a backup of a data directory, or its restoration, was not made. `description` is one line and says what to do.
public struct DataBackupError: Error, Sendable, CustomStringConvertible {
  public let description: String

  init(_ description: String) { self.description = description }
}

/// A backup of all that a data directory needs, in a directory of its own: the logs, incrementally, the API keys and the webhooks with
/// their secrets. The server may run meanwhile.
///
/// A restored set has to fit together: a webhook's checkpoint must not lie past the end of the payments log. So the webhooks are copied
/// first and put into place only when the log's backup is complete; a run that fails or is killed leaves webhooks that are older than
/// the log.
///
/// All calls block for the disk.
public struct DataBackup: Sendable {
  public struct Report: Sendable {
    public var payments: BackupReport
    /// Nil if the directory holds no simulator's log.
    public var simulator: BackupReport?
    /// Names of the SQLite files that were copied.
    public var files: [String]
  }

  let directory: String
  let target: String

  /// - Parameters:
  ///   - directory: the data directory.
  ///   - target: the backup's directory; created if it is missing.
  public init(of directory: String, to target: String) {
    self.directory = URL(fileURLWithPath: directory).standardizedFileURL.path
    self.target = URL(fileURLWithPath: target).standardizedFileURL.path
  }

  /// Makes the backup, or brings it up to date. After an error each part of it is what it was or complete.
  public func run() throws(DataBackupError) -> Report {
    try check()
    let lock = try BackupLock(target)
    defer { lock.release() }
    let webhooks = try copy(WebhookJournal.path(in: directory + "/webhooks"), as: BackupSet.webhooks)
    var isDone = false
    defer { if !isDone { webhooks?.discard() } }
    let payments = try back(up: "payments")
    let hasSimulator = FileManager.default.fileExists(atPath: directory + "/simulator/store")
    let simulator = hasSimulator ? try back(up: "simulator") : nil
    // Last, because it says who may use the server: a key that was revoked during the backup is revoked in it.
    let keys = try copy(KeyStore.path(in: directory), as: BackupSet.keys)
    let copies = [webhooks, keys].compactMap { $0 }
    for copy in copies { try translating { try copy.commit() } }
    isDone = true
    let known = KnownLog(in: directory)
    let set = BackupSet(
      storeID: try storeID(), events: payments.endOffset, psp: known?.psp, files: copies.map(\.name),
      hasSimulator: hasSimulator, time: Date())
    try translating { try set.write(in: target) }
    return Report(payments: payments, simulator: simulator, files: set.files)
  }

  private func check() throws(DataBackupError) {
    guard access(directory + "/payments/store", F_OK) == 0 else {
      let code = errno
      let reason = code == ENOENT ? "it holds no payments log" : String(cString: strerror(code))
      throw DataBackupError("\(directory) can't be used as data directory: \(reason)")
    }
    try checkIsOutside()
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

  private func checkIsOutside() throws(DataBackupError) {
    let (inner, outer) = (Self.resolved(target), Self.resolved(directory))
    guard inner != outer, !inner.hasPrefix(outer + "/") else {
      throw DataBackupError("\(target) is in \(directory): a backup there is lost together with the data")
    }
  }

  /// The path without symbolic links, as far as it exists.
  private static func resolved(_ path: String) -> String {
    guard let real = realpath(path, nil) else {
      let name = (path as NSString).lastPathComponent
      let parent = (path as NSString).deletingLastPathComponent
      return parent == path || parent.isEmpty ? path : resolved(parent) + "/" + name
    }
    defer { free(real) }
    return String(cString: real)
  }

  /// - Returns: nil if there is no such file and there has been none.
  private func copy(_ path: String, as name: String) throws(DataBackupError) -> DatabaseCopy? {
    guard FileManager.default.fileExists(atPath: path) else {
      guard !FileManager.default.fileExists(atPath: "\(target)/\(name)") else {
        throw DataBackupError(
          "\(path) is missing, and \(target) has a copy of it: put that back, or make the backup in an empty directory")
      }
      return nil
    }
    return try translating { try DatabaseCopy(of: path, to: "\(target)/\(name)") }
  }

  private func back(up name: String) throws(DataBackupError) -> BackupReport {
    try translating {
      try PrivateFiles.makeDirectory("\(target)/\(name)")
      return try LogStore.backup("\(directory)/\(name)", to: .directory("\(target)/\(name)"))
    }
  }

  private func storeID() throws(DataBackupError) -> String {
    try translating {
      let reader = try LogReader.open(directory + "/payments")
      defer { reader.close() }
      return reader.storeID
    }
  }
}

extension DatabaseCopy {
  fileprivate var name: String { (target as NSString).lastPathComponent }
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
