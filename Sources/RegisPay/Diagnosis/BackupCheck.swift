import Foundation

/// Whether the backup is complete, young enough and on another disk.
struct BackupCheck: Check {
  let name = CheckName.backupAge
  /// Nil if the operator named none.
  let backup: String?
  let directory: String
  let ageLimit: Duration

  /// Clocks of two machines may differ.
  private static let futureTolerance: Int64 = 60

  func run() -> [Finding] {
    guard let backup else { return [.notChecked(name, "no --backup names the directory of the backups")] }
    let path = DataPlace.absolute(backup)
    let set: BackupSet
    do throws(DataBackupError) {
      set = try BackupSet(in: path)
    } catch {
      return [.problem(name, "\(error)", advice: "Make a backup: regispay backup --dir \(directory) --to \(path)")]
    }
    return [age(of: set, path)] + missing(set, path) + earlier(path) + sameDisk(path)
  }

  private func age(of set: BackupSet, _ path: String) -> Finding {
    let seconds = Int64(Date().timeIntervalSince1970 - set.time.timeIntervalSince1970)
    let time = set.time.formatted(.iso8601)
    guard seconds >= -Self.futureTolerance else {
      return .warning(
        name, "the latest backup in \(path) is of \(time), which is later than now", advice: "Set this machine's clock."
      )
    }
    let shown =
      "the latest backup in \(path), with \(set.events) events, is of \(time), \(Shown.age(max(0, seconds))) ago"
    guard seconds <= ageLimit.components.seconds else {
      return .problem(
        name, "\(shown), and --backup-max-age is \(Shown.age(ageLimit.components.seconds))",
        advice: "Look whether regispay backup --every still runs, and what it says on standard error.")
    }
    return .ok(name, shown)
  }

  private func missing(_ set: BackupSet, _ path: String) -> [Finding] {
    let names =
      ["payments"] + (set.simulatorEvents == nil ? [] : ["simulator"]) + set.files.map { "\(set.folder)/\($0.name)" }
    let gone = names.filter { !FileManager.default.fileExists(atPath: "\(path)/\($0)") }
    guard !gone.isEmpty else { return [] }
    return [
      .problem(
        name, "the backup in \(path) lacks \(gone.joined(separator: ", "))",
        advice: "Make a new backup in another directory: regispay backup. regispay restore can't use this one.")
    ]
  }

  /// Sets of earlier backups that can't be read.
  private func earlier(_ path: String) -> [Finding] {
    do throws(DataBackupError) {
      return try BackupSet.all(in: path).faults.map {
        .problem(
          name, "an earlier backup can't be restored: \($0.error)",
          advice: "regispay restore --from \(path) --list shows the others.")
      }
    } catch {
      return [.problem(name, "\(error)", advice: "Look at \(path).")]
    }
  }

  private func sameDisk(_ path: String) -> [Finding] {
    var (own, other) = (stat(), stat())
    guard stat(DataPlace(directory).existing, &own) == 0, stat(path, &other) == 0, own.st_dev == other.st_dev else {
      return []
    }
    return [
      .warning(
        name, "the backup in \(path) is on the same file system as the data: both are lost with one disk",
        advice: "Put it on another disk, or copy it to another machine.")
    ]
  }
}
