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
  /// Copies a store, up to its durable end as it is when this begins, while it is being written or not.
  ///
  /// The store is read as a reader in another process does: its writer is neither waited for nor held up, and an append that was
  /// acknowledged just before may be behind the backup's end (``BackupReport/endOffset``). Every byte that is copied is
  /// checked before. A directory gets what is new since the last time: finished segments once, the open one anew. What it
  /// holds already is read and checked too, and made anew where it has gone bad. Until the new backup is durable as a whole
  /// the one before stays valid, and after a killed run the next one goes on with the segments that were finished.
  ///
  /// Blocks until the backup is durable (of a descriptor: written). Reads what is new in the store and all that is in the
  /// directory; needs memory for the index of one segment. May be called from any thread; a second backup to the same place
  /// is refused.
  ///
  /// A backup in a file is replaced by one that goes on from it. One that goes further than the log, of which the log has other
  /// events, or that is damaged is refused, so that a good backup is never lost to a worse one.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter location: where the backup is written to.
  /// - Parameter access: who may read what is made.
  /// - Parameter replaces: a backup in a file is replaced also if it would be refused, but for one of another store.
  /// - Parameter progress: told of the bytes of segment files that are done.
  /// - Throws: ``LogStoreError/damaged(_:)`` for the store, ``LogStoreError/backupDamaged(_:)`` for a manifest that is not
  ///   what was written, ``LogStoreError/backupRefused(path:reason:)`` where something else is, the backup of another store
  ///   or of other events of the same one included; ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/diskFull(operation:path:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``. After each of them the backup is what it was before; what a
  ///   descriptor was given is not a whole backup, which restoring tells.
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

  /// Makes a store from a backup, in a directory that is not there yet or is empty.
  ///
  /// The store is made in a directory beside it, with `.restoring` behind its name, and is renamed when all of it is
  /// durable and was read and checked once more. A killed run leaves that directory, which the next one replaces.
  ///
  /// It is the same store: it has the id of the one that was backed up, since every checksum and the ids of events depend
  /// on it. Write to one of the two only. Cursors stand where they stood. The index is left to the next writer.
  ///
  /// Blocks. Reads the backup and writes, syncs and reads the store; memory does not grow with it. May be called from any
  /// thread.
  ///
  /// - Parameter location: where the backup is.
  /// - Parameter directory: the directory that the store is made in.
  /// - Parameter until: the offset that the restored log ends with: events before it are restored, and cursors as they
  ///   were just before it. Any offset up to the end of the backup; an append of several events that lies across it is
  ///   taken apart, its cursors go with its last event.
  /// - Parameter access: who may read what is made.
  /// - Parameter progress: told of the bytes of the backup, then of those of the store.
  /// - Throws: ``LogStoreError/backupDamaged(_:)``, ``LogStoreError/backupRefused(path:reason:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/diskFull(operation:path:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``. After each of them there is no store.
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
