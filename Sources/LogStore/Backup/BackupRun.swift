/// One run of a backup: from a store's directory to a directory, a file or a stream.
struct BackupRun {
  /// Bytes that are copied or looked at in one call.
  static let pieceByteCount = 1 << 20

  let directory: String
  let disk: any Disk
  let progress: Progress?

  func run(to location: BackupLocation) throws(LogStoreError) -> BackupReport {
    // Before anything is made at the target.
    let image = try LogImage.open(directory, disk: disk)
    switch location {
    case .directory(let path):
      try refuseInsideStore(path)
      return try BackupDirectory(path, disk: disk).write(image, progress)
    case .file(let path):
      try refuseInsideStore(path)
      return try writeFile(path, image)
    case .descriptor(let number, let name):
      return try BackupStreamWriter(DescriptorStream(number, name: name)).write(image, madeAt: disk.now(), progress)
    }
  }

  /// Such a backup would be lost together with the store, and its files are not the store's.
  private func refuseInsideStore(_ path: String) throws(LogStoreError) {
    let store = try disk.canonicalPath(directory)
    let target = try disk.resolved(path)
    if target == store || target.hasPrefix(store == "/" ? store : store + "/") {
      throw .backupRefused(path: path, reason: "this is inside the store that is to be backed up; name a place outside")
    }
  }

  private func writeFile(_ path: String, _ image: LogImage) throws(LogStoreError) -> BackupReport {
    try refuseForeignFile(path, image)
    let aside = path + FileName.aside
    if let reason = try disk.foreign(aside) {
      throw .backupRefused(
        path: aside,
        reason: "this name is needed for the unfinished backup, but \(reason); remove it, or name another place")
    }
    if let kind = try disk.kind(aside), kind != .file {
      throw .backupRefused(path: aside, reason: "this name is needed for the unfinished backup; remove what is there")
    }
    guard let lock = try disk.lock(aside, exclusive: true) else {
      throw .backupRefused(path: path, reason: "another backup to it is running; wait for its end")
    }
    defer { lock.release() }
    do throws(LogStoreError) {
      let file = try disk.open(aside, .rewrite)
      let report = try BackupStreamWriter(FileStream(file)).write(image, madeAt: disk.now(), progress)
      try file.sync()
      try disk.rename(aside, to: path)
      try disk.syncDirectory(parent(of: path))
      return report
    } catch {
      // The space is wanted back; the first error is the one to tell.
      try? disk.remove(aside)
      throw error
    }
  }

  /// Only nothing, an empty file, or a backup of the same store is replaced.
  private func refuseForeignFile(_ path: String, _ image: LogImage) throws(LogStoreError) {
    switch try disk.kind(path) {
    case nil: return
    case .file: break
    case .directory, .other:
      throw .backupRefused(path: path, reason: "this is no ordinary file; give - and redirect standard output to it")
    }
    let head = try disk.open(path, .read).read(count: BackupStreamHeader.byteCount, at: 0)
    if head.isEmpty { return }
    let header = head.withUnsafeBytes { try? BackupStreamHeader($0) }
    guard let header else {
      throw .backupRefused(path: path, reason: "a file that is no backup is there; remove it or name another")
    }
    guard header.store == image.store else {
      throw .backupRefused(path: path, reason: "the backup of another store is there; remove it or name another")
    }
  }
}
