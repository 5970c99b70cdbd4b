/// What `verify` found.
public struct VerificationReport: Sendable {
  /// Every place that is not what was written; empty for a sound store. Damaged index files are among them, though
  /// nothing depends on them: ``LogStore/reindex(_:progress:)`` makes them anew.
  public var findings: [Damage] = []
  /// An unfinished write behind the end of the log, after a crash: no damage, the next writer cuts it off.
  public var tornTail: Damage?
  public var events: UInt64 = 0
  public var segments = 0
  /// Bytes of segments and indexes that were read.
  public var bytes: UInt64 = 0
}

/// What `reindex` made.
public struct ReindexReport: Sendable {
  /// Finished segments, each of which has a new index.
  public var segments = 0
  /// Bytes of all index files.
  public var indexBytes: UInt64 = 0
}

/// A store in numbers, as far as it is durable.
public struct StoreStatistics: Sendable {
  /// A cursor's place and how many events are behind it.
  public struct Cursor: Sendable {
    public var name: String
    public var place: UInt64
    public var lag: UInt64
  }

  /// The offset after the last event; as offsets have no gaps, also the number of events.
  public var endOffset: UInt64
  public var events: UInt64 { endOffset }
  /// Streams; counted by reading every index.
  public var streams: UInt64
  public var segments: Int
  /// Bytes of segment files, with the space that is written ahead.
  public var logBytes: UInt64
  /// Bytes of index files.
  public var indexBytes: UInt64
  public var cursors: [Cursor]
}

/// Called now and then during long work.
public typealias Progress = (_ bytesDone: UInt64, _ bytesTotal: UInt64) -> Void

extension LogStore {
  /// Reads every byte of a store and checks it, as far as it is durable. Changes nothing, and may run beside a writer.
  ///
  /// - Throws: what stands in the way of reading at all, ``LogStoreError/notAStore(directory:)`` for one. Damage is not
  ///   thrown but listed.
  public static func verify(_ directory: String, progress: Progress? = nil) throws(LogStoreError) -> VerificationReport
  {
    var verification = Verification(directory: directory, disk: RealDisk(), progress: progress)
    try verification.run()
    return verification.report
  }

  /// Makes the index of every finished segment anew. Asks for the writer's lock.
  public static func reindex(_ directory: String, progress: Progress? = nil) throws(LogStoreError) -> ReindexReport {
    var options = Options()
    options.createIfMissing = false
    let disk = RealDisk()
    let opened = try Opening(directory: directory, options: options, disk: disk).open()
    let segments = opened.durable.segments
    let finished = segments.bases.dropLast()
    var report = ReindexReport()
    let total = UInt64(finished.count)
    for base in finished {
      report.indexBytes += UInt64(try segments.writeIndex(of: base))
      report.segments += 1
      progress?(UInt64(report.segments), total)
    }
    // The record of a clean end was taken back by opening; nothing was appended since, so it is put back the same.
    try CommitStart.recordEnd(opened.durable, chain: opened.end.chain, directory: directory, disk: disk)
    opened.lock.release()
    return report
  }
}

extension LogReader {
  /// Counts what the store holds. Reads every index file: some 10 ms for a million events.
  public func statistics() throws(LogStoreError) -> StoreStatistics {
    try durable.check()
    let end = durable.end
    let segments = durable.segments
    var statistics = StoreStatistics(
      endOffset: end.offset, streams: 0, segments: 0, logBytes: 0, indexBytes: 0, cursors: [])
    for base in segments.bases where base <= end.baseOffset {
      statistics.segments += 1
      statistics.logBytes += try segments.segment(base).header.fileByteCount
      let path = join(segments.directory, FileName.index(base))
      if try segments.disk.exists(path) { statistics.indexBytes += try segments.disk.open(path, .read).byteCount() }
      statistics.streams += try segments.withIndex(base) { index, segment throws(LogStoreError) in
        try index.newStreamCount(in: segment)
      }
    }
    statistics.cursors = try cursors().map {
      StoreStatistics.Cursor(name: $0.name, place: $0.place, lag: end.offset - min($0.place, end.offset))
    }
    return statistics
  }
}
