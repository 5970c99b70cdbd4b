/// A store in numbers, as far as it is durable.
public struct StoreStatistics: Sendable {
  /// A cursor's checkpoint and how many events are behind it.
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
  /// Offsets before it that have no events, since a repair could not save them.
  public var gaps: [Range<UInt64>]
  /// The number of offsets in ``gaps``.
  public var missingEvents: UInt64 { gaps.reduce(0) { $0 + $1.length } }
  /// Events that are there: ``endOffset`` without the missing ones.
  public var events: UInt64 { endOffset - missingEvents }
  /// Streams, as the indexes count them: those whose first event is there.
  public var streams: UInt64
  /// Segment files.
  public var segments: Int
  /// Bytes of segment files, with the space that is written ahead.
  public var logBytes: UInt64
  /// Bytes of index files.
  public var indexBytes: UInt64
  /// All cursors, sorted by name.
  public var cursors: [Cursor]
}

extension LogStore {
  /// Reads every byte of a store and checks it, as far as it is durable. Changes nothing, and may run beside a writer.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter progress: called with the bytes that are read and their total.
  /// - Throws: what stands in the way of reading at all, ``LogStoreError/notAStore(directory:)`` for one. Damage is not
  ///   thrown but listed.
  public static func verify(_ directory: String, progress: Progress? = nil) throws(LogStoreError) -> VerificationReport
  {
    let disk = RealDisk()
    var verification = Verification(directory: try disk.absolutePath(directory), disk: disk, progress: progress)
    try verification.run()
    return verification.report
  }

  /// Builds the index of every finished segment again. Asks for the writer's lock.
  ///
  /// - Parameter directory: the store's directory.
  /// - Parameter access: who may read the new files.
  /// - Parameter progress: called with the number of finished segments that have their new index, and of all.
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
      // The index of a damaged segment is the only thing that tells what is lost there: none is removed before all can be
      // made.
      for base in finished { _ = try segments.readThrough(try segments.segmentToScan(base)) }
    } catch {
      // Opening has taken back the record of a clean end; nothing else was changed, so the record is written again. If that
      // fails too, the first error is the one to throw: a store without the record is sound, and its next opening looks for
      // the log's end as after a crash.
      if opened.recovery.wasClosedCleanly {
        try? CommitStart.recordEnd(opened.commitPoint, chain: opened.end.chain, directory: directory, disk: disk)
      }
      throw error
    }
    for name in try disk.list(directory) where name.hasSuffix(FileName.indexSuffix) {
      try disk.remove(join(directory, name))
    }
    segments.forgetIndexes()
    let maker = IndexBuilder(segments: segments, disk: disk)
    for base in finished {
      try maker.build(base)
      // As a writer does, so that the files come out the same.
      try maker.mergeAll()
      report.segments += 1
      progress?(UInt64(report.segments), total)
    }
    report.indexBytes = try segments.indexByteCount()
    // The record of a clean end was taken back by opening; nothing was appended since, so it is put back the same.
    try CommitStart.recordEnd(opened.commitPoint, chain: opened.end.chain, directory: directory, disk: disk)
    opened.lock.release()
    return report
  }
}

extension LogReader {
  /// Counts what the store holds, by the headers of segments and index files.
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
