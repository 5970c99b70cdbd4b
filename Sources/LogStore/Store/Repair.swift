extension LogStore {
  /// Makes a new store of all that is sound of a damaged one, in a directory that is not there yet or is empty.
  ///
  /// Offsets, versions, ids, times and cursors stay what they were. Where events could not be saved the new store has a
  /// gap: see ``LogReader/gaps``. Every record has a checksum of its own, so sound events of a half damaged write are
  /// saved; see ``RepairReport/partial``. Versions that streams are known to have had, by later events or by a sound index
  /// file, are never given again.
  ///
  /// Nothing in the damaged store is written to. The new one is made in a directory beside it, with `.repairing` behind its
  /// name, and is renamed when all of it is durable and was read and checked. A killed run leaves that directory, which
  /// the next one replaces. It is the same store, with the same id: write to one of the two only. Its index is left to the
  /// next writer.
  ///
  /// Of files that contradict one another, as those of two copies that were both written to, the ones are taken that lead,
  /// by headers and index files, to the end of the log that `clean` and `tail` name. All others are in
  /// ``RepairReport/leftOut``. Where neither decides nothing is made, and the histories are told.
  ///
  /// Blocks. Reads all of the damaged store and of the new one twice; needs memory for one segment's events, and more for
  /// lost ones. May be called from any thread.
  ///
  /// - Parameter directory: the damaged store's directory.
  /// - Parameter target: the directory that the new store is made in.
  /// - Parameter keeping: names of files in the damaged store that are of the history that is wanted, where there are several:
  ///   segments, or `clean` or `tail`, to believe that one alone. Any other file is refused.
  /// - Parameter access: who may read what is made.
  /// - Parameter progress: told of the bytes of the damaged store's segments, then of those of the new one.
  /// - Throws: ``LogStoreError/repairUndecided(path:histories:)``; ``LogStoreError/repairRefused(path:reason:)`` where there is nothing to save, a writer, or something at the
  ///   target; ``LogStoreError/notAStore(directory:)``, ``LogStoreError/unsupportedFormat(file:version:supported:)``,
  ///   ``LogStoreError/diskFull(operation:path:)``, ``LogStoreError/inputOutput(operation:path:code:)``. After each of them
  ///   there is no new store.
  public static func repair(
    _ directory: String, to target: String, keeping: [String] = [], access: StoreAccess = .owner,
    progress: Progress? = nil
  ) throws(LogStoreError) -> RepairReport {
    let disk = RealDisk(access: access)
    let run = RepairRun(
      directory: try disk.absolutePath(directory), disk: disk, keeping: keeping, progress: progress)
    return try run.run(to: try disk.absolutePath(target))
  }
}
