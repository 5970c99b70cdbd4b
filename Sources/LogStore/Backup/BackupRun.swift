/// One run of a backup: from a store's directory to a directory, a file or a stream.
struct BackupRun {
  /// Bytes that are copied or checked in one call.
  static let pieceByteCount = 1 << 20

  let directory: String
  let disk: any Disk
  /// Replace a backup in a file even if it is better than the new one.
  var replaces = false
  let progress: Progress?

  func run(to location: BackupLocation) throws(LogStoreError) -> BackupReport {
    // Before anything is made at the destination.
    let image = try LogImage.open(directory, disk: disk)
    switch location {
    case .directory(let path):
      try refuseTargetInStore(path)
      return try BackupDirectory(path, disk: disk).write(image, progress)
    case .file(let path):
      try refuseTargetInStore(path)
      return try BackupFile(path, disk: disk, replaces: replaces).write(image, progress)
    case .descriptor(let number, let name):
      return try BackupStreamWriter(DescriptorStream(number, name: name)).write(image, madeAt: disk.now(), progress)
    }
  }

  /// Such a backup would be lost together with the store, and its files are not the store's.
  private func refuseTargetInStore(_ path: String) throws(LogStoreError) {
    let store = try disk.canonicalPath(directory)
    let target = try disk.resolved(path)
    if target == store || target.hasPrefix(store == "/" ? store : store + "/") {
      throw .backupRefused(path: path, reason: "this is inside the store that is to be backed up; name a place outside")
    }
  }
}
