import Foundation
import LogStore

/// Whether the latest backup can be restored, as far as that shows without reading all of it, is young enough, of this directory's log
/// and on another disk, and whether the sets of earlier ones can be read.
struct BackupCheck: Check {
  let name = CheckName.backupAge
  /// Nil if the operator named none.
  let backup: String?
  let directory: String
  let ageLimit: Duration

  /// Clocks of two machines may differ.
  private static let futureTolerance: Int64 = 60

  /// How often a backup that runs meanwhile may replace what is looked at.
  private static let tries = 3
  private static let pauseMicroseconds: UInt32 = 50_000

  func run() -> [Finding] {
    guard let backup else { return [.notChecked(name, "no --backup names the directory of the backups")] }
    let path = DataPlace.absolute(backup)
    var found = look(path)
    for _ in 1..<Self.tries where found.contains(where: { $0.result == .problem }) {
      usleep(Self.pauseMicroseconds)
      let now = look(path)
      if now == found { break }
      found = now
    }
    return found
  }

  private func look(_ path: String) -> [Finding] {
    let latest: BackupSet
    do throws(DataBackupError) {
      latest = try BackupSet(in: path)
    } catch {
      let advice = "Make a backup: regispay backup --dir \(directory) --to \(path)"
      return [.problem(name, "\(error)", advice: advice)]
    }
    let age = age(of: latest, path)
    let unusable = (logFaults(latest, path) + fileFaults(latest, path)).map { fault in
      Finding.problem(
        name, "the latest backup in \(path) can't be restored: \(fault)",
        advice: "Make a new backup in another directory: regispay backup --dir \(directory) --to NEW")
    }
    let wrong = unusable + otherLog(latest, path)
    return wrong + (wrong.isEmpty || age.result != .ok ? [age] : []) + earlier(path) + sameDisk(path)
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

  /// What of the logs is missing or does not belong together, as far as it shows without reading all of it.
  private func logFaults(_ set: BackupSet, _ path: String) -> [String] {
    let logs = [("payments", set.events)] + (set.simulatorEvents.map { [("simulator", $0)] } ?? [])
    return logs.compactMap { log, events in
      do throws(LogStoreError) {
        let look = try BackupInspection.look(at: "\(path)/\(log)")
        if let first = look.damagedFiles.first {
          let more = look.damagedFiles.count == 1 ? "" : ", and \(look.damagedFiles.count - 1) more files"
          return "\(first)\(more)"
        }
        if log == "payments", !set.storeID.hasPrefix(look.storeID) {
          return "\(path)/\(log) is of the log \(look.storeID), and \(BackupSet.fileName) says \(set.storeID)"
        }
        guard look.endOffset < events else { return nil }
        return "\(path)/\(log) ends with offset \(look.endOffset), and \(BackupSet.fileName) says \(events)"
      } catch {
        return "\(log): \(error)"
      }
    }
  }

  private func fileFaults(_ set: BackupSet, _ path: String) -> [String] {
    set.files.compactMap { file in
      do throws(DataBackupError) {
        let bytes = try set.bytes(of: file, in: path)
        do throws(DatabaseImage.Failure) {
          let table = file.name == BackupSet.keys ? "key" : "endpoint"
          guard try DatabaseImage.read(bytes, { try $0.tableExists(table) }) else {
            throw .unusable("it has no table \(table)")
          }
          return nil
        } catch {
          guard case .unusable(let reason) = error else { return nil }
          return "can't use \(path)/\(set.folder)/\(file.name): \(reason)"
        }
      } catch {
        return "\(error)"
      }
    }
  }

  private func otherLog(_ set: BackupSet, _ path: String) -> [Finding] {
    let place = DataPlace(directory)
    // A log that can't be read is a finding of another check; then the file beside it may tell.
    let id = (try? LogInspection.look(at: place.path + "/payments"))?.storeID ?? KnownLog(in: place.path)?.storeID ?? ""
    // An earlier version wrote more digits.
    guard !id.isEmpty, !set.storeID.hasPrefix(id), !id.hasPrefix(set.storeID) else { return [] }
    return [
      .problem(
        name,
        "the backup in \(path) is of another log, with the id \(set.storeID), and the one in \(place.path) has \(id)",
        advice:
          "Name the directory of this log's backups with --backup, or make one: regispay backup --dir \(directory) --to NEW"
      )
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
