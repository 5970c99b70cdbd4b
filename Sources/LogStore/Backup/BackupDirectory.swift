import Glibc

/// A backup in a directory: a file for each segment, and a manifest that says which of them count (docs/FORMAT.md,
/// *Backups*). At every moment the manifest lists only complete files that exist.
struct BackupDirectory {
  let path: String
  let disk: any Disk

  init(_ path: String, disk: any Disk) {
    self.path = path
    self.disk = disk
  }

  private var manifestPath: String { join(path, BackupFileName.manifest) }
  func path(of part: BackupPart) -> String { join(path, BackupFileName.part(part)) }

  /// The backup's manifest; nil if no backup was ever finished.
  func manifest() throws(LogStoreError) -> BackupManifest? {
    guard let bytes = try disk.contents(manifestPath, limit: BackupManifest.byteCountMax) else { return nil }
    do throws(LogStoreError) {
      return try decode(bytes, of: manifestPath, BackupManifest.init)
    } catch .damaged(let damage) {
      throw .backupDamaged(damage)
    }
  }

  // MARK: - Writing

  func write(_ image: LogImage, _ progress: Progress?) throws(LogStoreError) -> BackupReport {
    let lock = try take()
    defer { lock.release() }
    let previous = try manifest()
    let continuation = BackupContinuation(image: image, path: path, advice: "name another directory for this one")
    if let previous { try continuation.check(previous) }
    var report = BackupReport(image)
    var parts: [BackupPart] = []
    let total = try image.fileByteCount()
    var done: UInt64 = 0
    for (number, base) in image.bases.enumerated() {
      let old = previous.flatMap { number < $0.parts.count ? $0.parts[number] : nil }
      // A finished segment never changes: if the copy is still sound, the original need not be read again.
      if let old, let previous, number + 1 < previous.parts.count, try holds(old) {
        parts.append(old)
        report.segmentsKept += 1
      } else {
        let (segment, part) = try image.read(base)
        if let old { try continuation.check(segment, part, continues: old) }
        if try holds(part) {
          report.segmentsKept += 1
        } else {
          try copy(segment, part)
          report.bytesCopied += part.contentByteCount
        }
        parts.append(part)
      }
      done += try image.fileByteCount(base)
      progress?(done, total)
    }
    let manifest = BackupManifest(
      store: image.store, endOffset: image.end.offset, createdMicroseconds: disk.now(), parts: parts)
    let bytes = try manifest.checkedBytes(for: path)
    // The names of all segments become durable before the manifest that lists them.
    try disk.syncDirectory(path)
    try disk.replace(manifestPath, with: bytes)
    try removeAllBut(parts)
    return report
  }

  /// Makes the directory if necessary, and locks it. Refuses a directory that holds something else.
  private func take() throws(LogStoreError) -> any FileLock {
    switch try disk.kind(path) {
    case .directory: break
    case nil: try disk.makeDirectories(path)
    case .file, .other: throw .backupRefused(path: path, reason: "this is no directory; name another place")
    }
    let names = try disk.list(path)
    if !names.contains(BackupFileName.manifest), let foreign = names.first(where: { !BackupFileName.isKnown($0) }) {
      throw .backupRefused(
        path: path, reason: "the directory holds \(foreign) and no backup; name a new or an empty directory")
    }
    // Before the lock, which makes a file: a file of this name may be anything.
    _ = try manifest()
    let lockPath = join(path, BackupFileName.lock)
    var lock = try disk.lock(lockPath, exclusive: true)
    if lock == nil { lock = try disk.lockFromStrangers(lockPath) }
    guard let lock else {
      throw .backupRefused(path: path, reason: "another backup to it is running; wait for its end")
    }
    return lock
  }

  /// Whether a segment's file is there with the right content. Reads all of it: a copy that has gone bad is found while the
  /// original still exists, and is copied again.
  private func holds(_ part: BackupPart) throws(LogStoreError) -> Bool {
    let file: any File
    do throws(LogStoreError) {
      file = try disk.open(path(of: part), .read)
    } catch .inputOutput(_, _, ENOENT) {
      return false
    }
    guard try file.byteCount() == part.contentByteCount else { return false }
    var sum = RunningChecksum()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 16)
    defer { buffer.deallocate() }
    var position: UInt64 = 0
    while true {
      let count = try file.read(into: buffer, at: position)
      if count == 0 { break }
      sum.add(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      position += UInt64(count)
    }
    return position == part.contentByteCount && sum.value == part.checksum
  }

  private func copy(_ segment: Segment, _ part: BackupPart) throws(LogStoreError) {
    let name = path(of: part)
    let aside = name + FileName.aside
    do throws(LogStoreError) {
      let file = try disk.open(aside, .create)
      try segment.forEachPiece(of: 0..<Int(part.contentByteCount)) { (piece, position) throws(LogStoreError) in
        try file.write(piece, at: UInt64(position))
      }
      try file.sync()
      try disk.rename(aside, to: name)
    } catch {
      // Free the space; the first error is the one to throw.
      try? disk.remove(aside)
      throw error
    }
  }

  /// Removes files that no manifest lists any more: the part of the segment that was open the last time, and leftovers of
  /// killed runs.
  private func removeAllBut(_ parts: [BackupPart]) throws(LogStoreError) {
    let listed = Set(parts.map(BackupFileName.part))
    for name in try disk.list(path) where BackupFileName.isRemovable(name) && !listed.contains(name) {
      try disk.remove(join(path, name))
    }
    try disk.syncDirectory(path)
  }
}
