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
      return try writeFile(path, image)
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

  private func writeFile(_ path: String, _ image: LogImage) throws(LogStoreError) -> BackupReport {
    // Renaming would replace the link, and leave the file that it leads to as it was.
    if try disk.isSymbolicLink(path) {
      throw .backupRefused(path: path, reason: "this is a symbolic link; name the file that it leads to")
    }
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
    // Under the lock, so that no other run replaces it in between.
    if !replaces { try refuseBetterFile(path, image) }
    do throws(LogStoreError) {
      let file = try disk.open(aside, .rewrite)
      let report = try BackupStreamWriter(FileStream(file)).write(image, madeAt: disk.now(), progress)
      try file.sync()
      try disk.rename(aside, to: path)
      try disk.syncDirectory(parent(of: path))
      return report
    } catch {
      // Free the space; the first error is the one to throw.
      try? disk.remove(aside)
      throw error
    }
  }

  /// Refuses to replace a backup that the log does not continue from. Reads all of it.
  private func refuseBetterFile(_ path: String, _ image: LogImage) throws(LogStoreError) {
    guard try disk.kind(path) == .file else { return }
    let file = try disk.open(path, .read)
    if try file.byteCount() == 0 { return }
    let continuation = BackupContinuation(
      image: image, path: path, advice: "name another file, or replace it with --replace")
    do throws(LogStoreError) {
      var reader = try BackupStreamReader(FileStream(file))
      var sums: [UInt32] = []
      while true {
        switch try reader.next() {
        case .part(let part): sums.append(try Self.checksum(of: part, &reader))
        case .end(let manifest):
          for (part, sum) in zip(manifest.parts, sums) where part.checksum != sum {
            throw .backupDamaged(
              Damage(
                file: path, position: 0, reason: "the segment of offset \(part.baseOffset) does not match its checksum")
            )
          }
          try continuation.check(manifest)
          if let last = manifest.parts.last { try continuation.checkOpen(last) }
          return
        }
      }
    } catch .backupDamaged(let damage) {
      throw .backupRefused(
        path: path,
        reason: "the backup that is there is damaged at byte \(damage.position) (\(damage.reason)), and may hold"
          + " events all the same; name another file, or replace it with --replace")
    }
  }

  private static func checksum(
    of part: BackupPart, _ reader: inout BackupStreamReader
  ) throws(LogStoreError) -> UInt32 {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: pieceByteCount, alignment: 16)
    defer { buffer.deallocate() }
    var sum = RunningChecksum()
    var left = part.contentByteCount
    while left > 0 {
      let piece = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(left, UInt64(buffer.count)))])
      try reader.read(into: piece)
      sum.add(UnsafeRawBufferPointer(piece))
      left -= UInt64(piece.count)
    }
    return sum.value
  }

  /// Refuses to replace anything but an empty file or a backup of the same store.
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
