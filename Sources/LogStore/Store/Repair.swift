/// What a repair saved, and what it could not save.
public struct RepairReport: Sendable {
  /// Offsets that are a gap of the new store.
  public struct Missing: Sendable {
    /// The offsets that have no events.
    public var offsets: Range<UInt64>
    /// What was found where the events should be; nil if they were missing before, from an earlier repair.
    public var damage: Damage?
    /// Those of the events that an index file tells of; all of them, if there was a sound one for the segment.
    public var events: [LostEvent]
  }

  /// A segment's file that was not read for the new store, since it is of another store, or of another history of this one:
  /// of a copy that was written to apart from it.
  public struct LeftOut: Sendable {
    /// The file's path.
    public var file: String
    /// The offsets that its events have; empty for another store's.
    public var offsets: Range<UInt64>
    /// Events of frames that are sound.
    public var events: UInt64
    /// Why the file was not read for the new store.
    public var reason: String
  }

  /// The offset after the last, saved or missing: what the next event will get.
  public var endOffset: UInt64 = 0
  /// Events that were saved.
  public var events: UInt64 = 0
  /// In order. Together with the saved events these are all offsets up to ``endOffset``.
  public var missing: [Missing] = []
  /// The number of offsets in ``missing``.
  public var missingEvents: UInt64 { missing.reduce(0) { $0 + UInt64($1.offsets.count) } }
  /// Saved events from frames that lost others. A frame holds one or more appends, and where one ends is not written
  /// down: an append that these belong to may be incomplete.
  public var partial: [Range<UInt64>] = []
  /// Saved events whose time is lost with their frame's header: they have the time of the frame before.
  public var guessedTimes: [Range<UInt64>] = []
  /// Events were lost at the end of the log, or may have been where the disk can't read it, and nothing tells how many: the next
  /// events get offsets that they had.
  public var isEndUnknown = false
  /// Files with segments that are no part of the new store. They contradict the files that are; those have more proof.
  public var leftOut: [LeftOut] = []
  /// Every damaged place, of files that hold no events too.
  public var findings: [Damage] = []
  /// An unfinished write behind the end of the log: no loss.
  public var tornTail: Damage?
  /// Segment files of the new store.
  public var segments = 0
  /// Cursors of the new store.
  public var cursors = 0
  /// Bytes of the new store's frames and headers.
  public var bytes: UInt64 = 0

  mutating func addGuessedTime(_ offsets: Range<UInt64>) {
    if let last = guessedTimes.last, last.upperBound == offsets.lowerBound {
      guessedTimes[guessedTimes.count - 1] = last.lowerBound..<offsets.upperBound
    } else {
      guessedTimes.append(offsets)
    }
  }
}

/// One of several histories that a store's files are of: copies that were written to apart, and that nothing tells which of
/// them is the store's own.
public struct RepairHistory: Sendable, Hashable {
  /// The segment files that not all of the histories have, in order; empty for the one that has none of those of the others.
  public var files: [String]
  /// Events in all of the history's files.
  public var events: UInt64
  /// The offset after the last one there; nil if it is only known that the log did not end as in the others.
  public var endOffset: UInt64?
  /// The file to name so that this history is kept.
  public var keeping: String
}

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
