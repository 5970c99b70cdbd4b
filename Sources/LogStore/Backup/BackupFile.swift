import Glibc

/// A backup in one file. It is written under another name beside it and gets its own when it is complete. Nothing is lost
/// with either name: what is there is replaced only if the new backup has all of it, or if it is no finished backup.
struct BackupFile {
  let path: String
  let disk: any Disk
  /// Replace a backup even if it is better than the new one.
  let replaces: Bool

  private var aside: String { path + FileName.aside }

  init(_ path: String, disk: any Disk, replaces: Bool) {
    self.path = path
    self.disk = disk
    self.replaces = replaces
  }

  func write(_ image: LogImage, _ progress: Progress?) throws(LogStoreError) -> BackupReport {
    // Renaming would replace the link, and leave the file that it leads to as it was.
    if try disk.isSymbolicLink(path) {
      throw .backupRefused(path: path, reason: "this is a symbolic link; name the file that it leads to")
    }
    try refuseForeignFile(image)
    var lock = try takeAside(image)
    defer { lock.release() }
    // Under the lock, so that no other run replaces it in between.
    if !replaces { _ = try endOffset(ofBackupAt: path, before: image) }
    if try finishKilledRun(image) {
      lock.release()
      lock = try takeAside(image)
    }
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

  // MARK: - The backup that is there

  /// Refuses to replace anything but an empty file or a backup of the same store.
  private func refuseForeignFile(_ image: LogImage) throws(LogStoreError) {
    switch try disk.kind(path) {
    case nil: return
    case .file: break
    case .directory, .other:
      throw .backupRefused(path: path, reason: "this is no ordinary file; give - and redirect standard output to it")
    }
    let head = try disk.open(path, .read).read(count: BackupStreamHeader.byteCount, at: 0)
    if head.isEmpty { return }
    // Whatever is wrong with the header, this is no backup that could be replaced.
    let header = head.withUnsafeBytes { try? BackupStreamHeader($0) }
    guard let header else {
      throw .backupRefused(path: path, reason: "a file that is no backup is there; remove it or name another")
    }
    guard header.store == image.store else {
      throw .backupRefused(path: path, reason: "the backup of another store is there; remove it or name another")
    }
  }

  /// The end offset of a backup; nil if there is none. Refuses one that the log does not continue from. Reads all of it.
  private func endOffset(ofBackupAt path: String, before image: LogImage) throws(LogStoreError) -> UInt64? {
    guard try disk.kind(path) == .file else { return nil }
    let file = try disk.open(path, .read)
    if try file.byteCount() == 0 { return nil }
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
          return manifest.endOffset
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
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 16)
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

  // MARK: - The unfinished one

  /// Locks the unfinished file, and makes it if there is none.
  private func takeAside(_ image: LogImage) throws(LogStoreError) -> any FileLock {
    if let reason = try disk.foreign(aside) {
      throw .backupRefused(
        path: aside,
        reason: "this name is needed for the unfinished backup, but \(reason); remove it, or name another place")
    }
    if let kind = try disk.kind(aside) {
      guard kind == .file else {
        throw .backupRefused(
          path: aside, reason: "this name is needed for the unfinished backup; remove what is there")
      }
      // Before the lock, which changes the file's mode.
      do throws(LogStoreError) {
        guard try LeftBackup(disk.open(aside, .read)).isOwn() else {
          throw refusalOfAside("a file that is no unfinished backup is there")
        }
        _ = try finishedAside(of: image)
      } catch .inputOutput(_, _, ENOENT) {
        // Another run has just given it its name.
      }
    }
    guard let lock = try disk.lock(aside, exclusive: true) else {
      throw .backupRefused(path: path, reason: "another backup to it is running; wait for its end")
    }
    return lock
  }

  /// Gives a backup its name whose run was killed just before it did, if the log continues from it. Refuses any other
  /// finished backup: somebody may have chosen that name. Returns whether the name of the unfinished file is free now.
  private func finishKilledRun(_ image: LogImage) throws(LogStoreError) -> Bool {
    guard let manifest = try finishedAside(of: image) else { return false }
    let present: UInt64?
    do throws(LogStoreError) {
      _ = try endOffset(ofBackupAt: aside, before: image)
      present = try endOffset(ofBackupAt: path, before: image)
    } catch .backupRefused(_, let reason) {
      throw refusalOfAside("a finished backup is there, which may be needed: \(reason)")
    }
    // The backup at the path has all of it.
    if let present, present > manifest.endOffset { return false }
    try disk.rename(aside, to: path)
    try disk.syncDirectory(parent(of: path))
    return true
  }

  /// The manifest of a finished backup with the name of the unfinished one; nil if that is unfinished, as it should be.
  private func finishedAside(of image: LogImage) throws(LogStoreError) -> BackupManifest? {
    do throws(LogStoreError) {
      guard let manifest = try LeftBackup(disk.open(aside, .read)).manifest() else { return nil }
      if manifest.store == image.store { return manifest }
      throw refusalOfAside("a finished backup of another store is there")
    } catch .damaged(let damage) {
      throw refusalOfAside("a finished backup with a damaged end is there (\(damage.reason)), which may be needed")
    }
  }

  private func refusalOfAside(_ reason: String) -> LogStoreError {
    .backupRefused(
      path: aside,
      reason: "this name is needed for the unfinished backup, but \(reason); rename or remove it, or name another place"
    )
  }
}

/// A file with the name of an unfinished backup.
private struct LeftBackup {
  private let file: any File

  init(_ file: any File) {
    self.file = file
  }

  /// Whether a backup may have left it: it begins like one as far as it was written, or is empty or all zeros, as after a
  /// power cut.
  func isOwn() throws(LogStoreError) -> Bool {
    let magic = Array("\(BackupStreamHeader.magic)".utf8)
    let head = try file.read(count: magic.count, at: 0)
    if !head.isEmpty, magic.starts(with: head) { return true }
    guard head.allSatisfy({ $0 == 0 }) else { return false }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 16)
    defer { buffer.deallocate() }
    var position: UInt64 = 0
    while true {
      let count = try file.read(into: buffer, at: position)
      if count == 0 { return true }
      if UnsafeRawBufferPointer(rebasing: buffer[..<count]).firstNonZero != nil { return false }
      position += UInt64(count)
    }
  }

  /// The manifest that the file ends with; nil if the backup is unfinished. Its length depends on the number of parts, so
  /// each possible number is tried.
  ///
  /// - Throws: ``LogStoreError/damaged(_:)`` if the end is there and damaged.
  func manifest() throws(LogStoreError) -> BackupManifest? {
    try refuseNewerFormat()
    let byteCount = try file.byteCount()
    var partCount: UInt64 = 1
    while true {
      let length = UInt64(BackupManifest.headByteCount + 4) + partCount * UInt64(BackupPart.byteCount)
      // Each part has a head and more than a segment's header before the manifest.
      let least =
        UInt64(BackupStreamHeader.byteCount) + partCount * UInt64(BackupPartHeader.byteCount + SegmentHeader.byteCount)
      guard length <= BackupManifest.byteCountMax, least + length <= byteCount else { return nil }
      let head = try file.read(count: 16, at: byteCount - length)
      if head.starts(with: Array("\(BackupManifest.magic)".utf8)),
        head.withUnsafeBytes({ BackupManifest.byteCount(of: $0) }) == Int(length)
      {
        return try decode(
          try file.read(count: Int(length), at: byteCount - length), of: file.path, BackupManifest.init)
      }
      partCount += 1
    }
  }

  private func refuseNewerFormat() throws(LogStoreError) {
    do throws(LogStoreError) {
      _ = try decode(
        try file.read(count: BackupStreamHeader.byteCount, at: 0), of: file.path, BackupStreamHeader.init)
    } catch .damaged {
      // Not finished, or the end tells.
    }
  }
}
