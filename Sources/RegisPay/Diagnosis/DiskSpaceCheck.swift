import Glibc

/// Whether the disk has room for the logs' next segments.
struct DiskSpaceCheck: Check {
  let name = CheckName.diskSpace
  let directory: String
  /// The size of one new segment of each log.
  let segmentBytes: Int

  /// For index files, the list of payments and webhooks.
  private static let reserve: UInt64 = 64 << 20
  /// As the alert RegisPayDiskNearlyFull: docs/observability/alerts.yml.
  private static let plenty: UInt64 = 10_000_000_000
  /// A twentieth of the disk.
  private static let share: UInt64 = 20
  /// A server makes a file now and then; other programs on the disk may make many.
  private static let fewFiles: UInt64 = 1_000

  struct Room: Sendable {
    var freeBytes: UInt64
    var totalBytes: UInt64
    var freeFiles: UInt64
    /// 0 for a file system that makes room for files as they come.
    var totalFiles: UInt64
  }

  func run() -> [Finding] {
    let place = DataPlace(directory)
    var status = statvfs()
    guard statvfs(place.existing, &status) == 0 else {
      return [.notChecked(name, "can't ask for the room in \(place.existing): \(Shown.error(errno))")]
    }
    let unit = UInt64(status.f_frsize)
    let room = Room(
      freeBytes: UInt64(status.f_bavail) * unit, totalBytes: UInt64(status.f_blocks) * unit,
      freeFiles: UInt64(status.f_favail), totalFiles: UInt64(status.f_files))
    return [Self.judge(room, segmentBytes: UInt64(max(0, segmentBytes)))]
  }

  /// - Parameter segmentBytes: as ``DiskSpaceCheck/segmentBytes``.
  static func judge(_ room: Room, segmentBytes: UInt64) -> Finding {
    let shown = "\(Shown.bytes(room.freeBytes)) of \(Shown.bytes(room.totalBytes)) are free for this user"
    let advice = "Free space or make the file system larger: on a full disk no payment is accepted."
    guard room.freeBytes >= segmentBytes + reserve else {
      return .problem(
        .diskSpace,
        "\(shown), less than the next segment of each log (\(Shown.bytes(segmentBytes))) and"
          + " \(Shown.bytes(reserve)) for other files", advice: advice)
    }
    guard room.totalFiles == 0 || room.freeFiles > 0 else {
      return .problem(
        .diskSpace, "\(shown), but no file can be made: all \(room.totalFiles) inodes are used",
        advice: "Remove files of other programs from this file system (df -i).")
    }
    if room.freeBytes < plenty, room.freeBytes < room.totalBytes / share {
      return .warning(.diskSpace, "\(shown), less than a twentieth", advice: advice)
    }
    if room.totalFiles > 0, room.freeFiles < fewFiles {
      return .warning(
        .diskSpace, "\(shown), but only \(room.freeFiles) more files can be made",
        advice: "Remove files of other programs from this file system (df -i).")
    }
    return .ok(.diskSpace, shown)
  }
}
