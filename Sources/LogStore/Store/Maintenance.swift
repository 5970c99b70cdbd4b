/// Numbers about the durable part of a store.
public struct StoreStatistics: Sendable {
  /// A cursor's checkpoint, and how many events are behind it.
  public struct Cursor: Sendable {
    /// The cursor's name.
    public var name: String
    /// The offset that the consumer reads next.
    public var checkpoint: UInt64
    /// Offsets from ``checkpoint`` to the end of the log.
    public var lag: UInt64
  }

  /// The offset after the last event.
  public var endOffset: UInt64
  /// Offsets before ``endOffset`` that have no events, since a repair could not save them.
  public var gaps: [Range<UInt64>]
  /// The number of offsets in ``gaps``.
  public var missingEvents: UInt64 { gaps.reduce(0) { $0 + $1.length } }
  /// Events in the store: ``endOffset`` without the missing ones.
  public var events: UInt64 { endOffset - missingEvents }
  /// Streams whose first event is there, as the indexes count them.
  public var streams: UInt64
  /// Segment files.
  public var segments: Int
  /// Bytes of segment files, including preallocated space.
  public var logBytes: UInt64
  /// Bytes of index files.
  public var indexBytes: UInt64
  /// All cursors, sorted by name.
  public var cursors: [Cursor]
}

extension LogStore {
  /// Reads and checks every byte of a store, up to its durable end. Changes nothing, and can run while a writer does.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter progress: called with the bytes that were read and their total.
  /// - Throws: what prevents reading at all, for example ``LogStoreError/notAStore(directory:)``. Damage is not thrown but
  ///   listed.
  public static func verify(_ directory: String, progress: Progress? = nil) throws(LogStoreError) -> VerificationReport
  {
    let disk = RealDisk()
    var verification = Verification(directory: try disk.absolutePath(directory), disk: disk, progress: progress)
    try verification.run()
    return verification.report
  }

  /// Rebuilds the index of every finished segment. Takes the writer's lock.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter access: who may read the new files.
  /// - Parameter progress: called with the number of finished segments that have their new index, and the number of all.
  public static func reindex(
    _ directory: String, access: StoreAccess = .owner, progress: Progress? = nil
  ) throws(LogStoreError) -> ReindexReport {
    let disk = RealDisk(access: access)
    return try reindex(try disk.absolutePath(directory), disk: disk, progress: progress)
  }

  static func reindex(
    _ directory: String, disk: any Disk, progress: Progress?
  ) throws(LogStoreError) -> ReindexReport {
    var options = Options()
    options.createIfMissing = false
    let opened = try Recovery(directory: directory, options: options, disk: disk).open()
    let disk = opened.disk
    let segments = opened.commitPoint.segments
    let finished = segments.bases.dropLast()
    var report = ReindexReport()
    let total = UInt64(finished.count)
    do throws(LogStoreError) {
      // The index of a damaged segment is the only thing that tells what is lost there. So none is removed before all can
      // be built.
      for base in finished { _ = try segments.readThrough(try segments.segmentToScan(base)) }
    } catch {
      // Opening has removed the clean mark. Nothing else was changed, so it is written again. If that fails too, the first
      // error is the one to throw: a store without the mark is sound, and its next opening searches for the log's end as
      // after a crash.
      if opened.recovery.wasClosedCleanly {
        try? CommitStart.recordEnd(opened.commitPoint, chain: opened.end.chain, directory: directory, disk: disk)
      }
      throw error
    }
    for name in try disk.list(directory) where name.hasSuffix(FileName.indexSuffix) {
      try disk.remove(join(directory, name))
    }
    segments.forgetIndexes()
    let builder = IndexBuilder(segments: segments, disk: disk)
    for base in finished {
      try builder.build(base)
      // As a writer does, so that the files come out the same.
      try builder.mergeAll()
      report.segments += 1
      progress?(UInt64(report.segments), total)
    }
    report.indexBytes = try segments.indexByteCount()
    // Opening removed the clean mark. Nothing was appended since, so the same mark is written again.
    try CommitStart.recordEnd(opened.commitPoint, chain: opened.end.chain, directory: directory, disk: disk)
    opened.lock.release()
    return report
  }
}

extension LogReader {
  /// Counts what the store holds, from the headers of segments and index files.
  public func statistics() throws(LogStoreError) -> StoreStatistics {
    try commitPoint.check()
    let end = commitPoint.end
    let segments = commitPoint.segments
    var statistics = StoreStatistics(
      endOffset: end.offset, gaps: gaps.filter { $0.upperBound <= end.offset }, streams: 0, segments: 0, logBytes: 0,
      indexBytes: 0, cursors: [])
    for base in segments.bases where base <= end.baseOffset {
      statistics.segments += 1
      statistics.logBytes += try segments.segment(base).header.fileByteCount
    }
    statistics.indexBytes = try segments.indexByteCount()
    statistics.streams = try segments.streamCount()
    statistics.cursors = try cursors().map {
      StoreStatistics.Cursor(name: $0.name, checkpoint: $0.checkpoint, lag: end.offset - min($0.checkpoint, end.offset))
    }
    return statistics
  }
}
