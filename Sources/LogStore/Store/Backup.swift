extension BackupLocation {
  func absolute(on disk: any Disk) throws(LogStoreError) -> BackupLocation {
    switch self {
    case .directory(let path): .directory(try disk.absolutePath(path))
    case .file(let path): .file(try disk.absolutePath(path))
    case .descriptor: self
    }
  }
}

extension LogStore {
  /// Copies a store up to its durable end at the start of the call, whether the store is being written or not.
  ///
  /// The store is read as by a reader in another process: its writer neither waits nor is delayed, and an append that was
  /// acknowledged just before may lie behind the backup's end (``BackupReport/endOffset``). Every byte is checked before it
  /// is copied. A directory gets what is new since the last run: each finished segment once, and the open segment every
  /// time. The files that it already has are read and checked too, and copied again if they have gone bad. The previous
  /// backup stays valid until the new one is durable as a whole. After a killed run, the next one keeps the segments that
  /// were finished.
  ///
  /// Blocks until the backup is durable (for a descriptor: written). Reads what is new in the store and everything in the
  /// directory. Needs memory for the index of one segment. Can be called from any thread; a second backup to the same
  /// destination is refused.
  ///
  /// A backup in a file is replaced by one that continues it. If the existing backup goes further than the log, holds other
  /// events than the log, or is damaged, the call is refused, so that a good backup is never lost to a worse one.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter location: where the backup is written to.
  /// - Parameter access: who may read the files that are created.
  /// - Parameter replaces: also replace a backup in a file that would be refused, unless it is another store's.
  /// - Parameter progress: called with the bytes of segment files that are done.
  /// - Throws: ``LogStoreError/damaged(_:)`` for the store, ``LogStoreError/backupDamaged(_:)`` for a manifest that is not
  ///   what was written, ``LogStoreError/backupRefused(path:reason:)`` if the destination holds something else, such as the
  ///   backup of another store or of other events of the same store; ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/diskFull(operation:path:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``. After an error the backup is what it was before. A descriptor
  ///   then has an incomplete backup, which restoring refuses.
  public static func backup(
    _ directory: String, to location: BackupLocation, access: StoreAccess = .owner, replaces: Bool = false,
    progress: Progress? = nil
  ) throws(LogStoreError) -> BackupReport {
    let disk = RealDisk(access: access)
    return try BackupRun(
      directory: try disk.absolutePath(directory), disk: disk, replaces: replaces, progress: progress
    )
    .run(to: try location.absolute(on: disk))
  }

  /// Makes a store from a backup, in a directory that does not exist yet or is empty.
  ///
  /// The store is written to a directory beside it, with `.restoring` appended to its name, and renamed when all of it is
  /// durable and has been read and checked again. A killed run leaves that directory behind, and the next run replaces it.
  /// A directory of that name which holds anything else is refused and left alone.
  ///
  /// If a backup to the same directory ends meanwhile, the restoration continues with the new one. After the fifth it throws
  /// ``LogStoreError/backupRefused(path:reason:)``.
  ///
  /// It is the same store: it has the id of the original, since every checksum and the ids of events depend on it. Write to
  /// only one of the two. Cursors keep their checkpoints. The next writer builds the index.
  ///
  /// Blocks. Reads the backup, and writes, syncs and reads the store. Memory does not grow with the store. Can be called
  /// from any thread.
  ///
  /// - Parameter location: where the backup is.
  /// - Parameter directory: the directory of the new store.
  /// - Parameter until: the offset at which the restored log ends: events before it are restored, and cursors as they were
  ///   just before it. Any offset up to the backup's end. An append of several events that lies across it is split; its
  ///   cursors stay with its last event.
  /// - Parameter access: who may read the files that are created.
  /// - Parameter progress: called with the bytes done of the backup, then of the store.
  /// - Throws: ``LogStoreError/backupDamaged(_:)``, ``LogStoreError/backupRefused(path:reason:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/diskFull(operation:path:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``. After an error there is no store.
  public static func restore(
    from location: BackupLocation, to directory: String, until: UInt64? = nil, access: StoreAccess = .owner,
    progress: Progress? = nil
  ) throws(LogStoreError) -> RestoreReport {
    let disk = RealDisk(access: access)
    return try Restoration.run(
      from: try location.absolute(on: disk), to: try disk.absolutePath(directory), until: until, disk: disk,
      progress: progress)
  }
}
