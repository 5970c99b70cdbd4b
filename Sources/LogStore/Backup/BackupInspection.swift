import Glibc

/// What a look at a backup in a directory tells that takes no lock, writes nothing, and reads only the manifest and the header of each
/// segment: for a diagnosis, also while a backup to the directory runs.
///
/// Bytes that changed inside a segment are not found: the next backup and a restoration read everything.
package struct BackupInspection: Sendable {
  /// As ``LogReader/storeID``.
  package var storeID: String
  /// The offset after the last event.
  package var endOffset: UInt64
  /// Segments that are missing, of another length than the manifest says, or without a sound header.
  package var damagedFiles: [Damage] = []

  /// Looks at a backup. Blocks for the disk: one `open` and one page for each segment.
  ///
  /// - Throws: if the manifest is missing, damaged or can't be read, or a segment can't be read.
  package static func look(at directory: String) throws(LogStoreError) -> BackupInspection {
    let disk = RealDisk()
    return try look(at: try disk.absolutePath(directory), disk: disk)
  }

  static func look(at directory: String, disk: any Disk) throws(LogStoreError) -> BackupInspection {
    let backup = BackupDirectory(directory, disk: disk)
    var manifest = try backup.finishedManifest()
    for _ in 1..<Restoration.manifestLimit {
      let found = try BackupInspection(manifest, backup)
      // A backup that ends meanwhile replaces the manifest and then removes files that the old one lists.
      let now = try backup.finishedManifest()
      if found.damagedFiles.isEmpty || now == manifest { return found }
      manifest = now
    }
    return try BackupInspection(manifest, backup)
  }

  private init(_ manifest: BackupManifest, _ backup: BackupDirectory) throws(LogStoreError) {
    storeID = manifest.store.storeID.shown
    endOffset = manifest.endOffset
    for part in manifest.parts {
      do throws(LogStoreError) {
        _ = try Segment.readHeader(
          of: try backup.open(part), baseOffset: part.baseOffset, storeID: manifest.store.storeID)
      } catch {
        switch error {
        case .backupDamaged(let damage), .damaged(let damage): damagedFiles.append(damage)
        default: throw error
        }
      }
    }
  }
}

extension BackupDirectory {
  /// - Throws: if no backup was ever finished.
  func finishedManifest() throws(LogStoreError) -> BackupManifest {
    guard let manifest = try manifest() else {
      throw .backupRefused(
        path: path, reason: "there is no finished backup in it; name a directory that was backed up to")
    }
    return manifest
  }

  /// Opens the file of a segment.
  ///
  /// - Throws: ``LogStoreError/backupDamaged(_:)`` if it is missing or has another length than the manifest says.
  func open(_ part: BackupPart) throws(LogStoreError) -> any File {
    let path = path(of: part)
    let file: any File
    do throws(LogStoreError) {
      file = try disk.open(path, .read)
    } catch .inputOutput(_, _, ENOENT) {
      throw .backupDamaged(Damage(file: path, position: 0, reason: "the file is missing"))
    }
    let byteCount = try file.byteCount()
    guard byteCount == part.contentByteCount else {
      throw .backupDamaged(
        Damage(
          file: path, position: min(byteCount, part.contentByteCount),
          reason: "the file has \(byteCount) bytes, the manifest says \(part.contentByteCount)"))
    }
    return file
  }
}
