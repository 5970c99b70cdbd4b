extension LogStore {
  /// Makes a new store from everything that is sound in a damaged one, in a directory that does not exist yet or is empty.
  ///
  /// Offsets, versions, ids, times and cursors stay the same. The new store has a gap where events could not be saved: see
  /// ``LogReader/gaps``. Every record has a checksum of its own, so sound events of a half damaged write are saved; see
  /// ``RepairReport/partial``. Versions that a stream is known to have had, from later events or a sound index file, are
  /// never assigned again.
  ///
  /// The damaged store is never written to. The new one is written to a directory beside it, with `.repairing` appended to
  /// its name, and renamed when all of it is durable and has been read and checked. A killed run leaves that directory
  /// behind, and the next run replaces it. It is the same store, with the same id: write to only one of the two. The next
  /// writer builds its index.
  ///
  /// Two copies that were both written to leave files that contradict each other. Then the files are used that lead, by
  /// headers and index files, to the end of the log that `clean` and `tail` name. All others are in
  /// ``RepairReport/leftOut``. If nothing decides, no store is made, and the error lists the histories.
  ///
  /// Blocks. Reads all of the damaged store, and the new one twice. Needs memory for one segment's events, and more for
  /// lost ones. Can be called from any thread.
  ///
  /// - Parameter directory: the damaged store's directory.
  /// - Parameter target: the directory of the new store.
  /// - Parameter keeping: names of files in the damaged store that belong to the wanted history, if there are several:
  ///   segments, or `clean` or `tail` to believe only that one. Any other file is refused.
  /// - Parameter access: who may read the files that are created.
  /// - Parameter progress: called with the bytes of the damaged store's segments, then with those of the new store.
  /// - Throws: ``LogStoreError/repairUndecided(path:histories:)``; ``LogStoreError/repairRefused(path:reason:)`` if there
  ///   is nothing to save, a writer runs, or something is at the target; ``LogStoreError/notAStore(directory:)``,
  ///   ``LogStoreError/unsupportedFormat(file:version:supported:)``, ``LogStoreError/diskFull(operation:path:)``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``. After an error there is no new store.
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
