import Glibc

/// The sound part of a store that may be damaged anywhere. ``LogReader`` refuses what it can't vouch for; this leaves it
/// out and reports it, and is used only where that is asked for explicitly. The store is never written to.
///
/// Events come in order, each checked as by any other reader; ``forEach(from:missing:_:)`` reports where some are missing.
/// While a writer runs, the log ends here with what was durable when it was opened. Can be used from any thread.
public struct DamagedLog: Sendable {
  private let location: Result<String, LogStoreError>
  private let disk: any Disk

  /// What a visit found.
  public struct Report: Sendable {
    /// Every damaged place that the visit found.
    public var findings: [Damage] = []
    /// An unfinished write behind the end of the log. It is not damage.
    public var tornTail: Damage?
    /// Events at the end of the log are lost, and nothing tells how many.
    public var isEndUnknown = false
    /// The offset to continue with.
    public var next: UInt64 = 0
  }

  /// Opens nothing yet. The first call refuses an invalid path.
  public init(_ directory: String) {
    self.init(directory, disk: RealDisk())
  }

  init(_ directory: String, disk: any Disk) {
    // Resolve it now: the process may change its working directory.
    location = Result { () throws(LogStoreError) in try disk.absolutePath(directory) }
    self.disk = disk
  }

  /// Visits the sound events in order from an offset on, or until `body` returns false.
  ///
  /// Blocks. Reads the segments from the offset on, and nothing before it unless files are missing or contradict each
  /// other.
  ///
  /// - Parameter offset: the first offset to visit.
  /// - Parameter missing: called with offsets that have no events, before the event behind them, and with what was found in
  ///   their place; nil for a gap that a repair has left.
  /// - Parameter body: visits one event; false ends the visit.
  public func forEach(
    from offset: UInt64 = 0, missing: @escaping (Range<UInt64>, Damage?) -> Void = { _, _ in },
    _ body: @escaping (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> Report {
    var report = Report()
    try scan(from: offset, report: &report) { item in
      switch item {
      case .gap(let gap):
        missing(gap.offsets, gap.damage)
        return true
      case .run(let run):
        for record in run.records where record.kind == .event {
          let event = EventView(
            SoundRecord(record, in: run.segment.bytes), baseOffset: run.segment.baseOffset,
            storeIDFirst: run.segment.checksumSeed.storeID.first, timestampMicroseconds: run.timestamp)
          if !body(event) { return false }
        }
        return true
      }
    }
    return report
  }

  /// Counts what is sound. Reads all of the store. Counts the streams whose first event is sound.
  public func statistics() throws(LogStoreError) -> (statistics: StoreStatistics, report: Report) {
    var report = Report()
    let count = Count()
    let source = try scan(from: 0, report: &report) { item in
      count.add(item)
      return true
    }
    let end = report.next
    return (
      StoreStatistics(
        endOffset: end, gaps: count.gaps, streams: count.streams, segments: source.parts.count,
        logBytes: source.parts.reduce(0) { $0 + $1.fileByteCount },
        indexBytes: source.indexes.reduce(0) { $0 + UInt64($1.bytes.count) },
        cursors: count.cursors.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map { name, checkpoint in
          StoreStatistics.Cursor(
            name: String(decoding: name, as: UTF8.self), checkpoint: checkpoint, lag: end - min(checkpoint, end))
        }),
      report
    )
  }

  /// A class, so that the scan's closure can write to it.
  private final class Count {
    var streams: UInt64 = 0
    var gaps: [Range<UInt64>] = []
    var cursors: Checkpoints = [:]

    func add(_ item: SalvageScan.Item) {
      switch item {
      case .gap(let gap): gaps.append(gap.offsets)
      case .run(let run):
        if run.isSnapshot, run.isWholeFrame { cursors = [:] }
        for record in run.records {
          if record.kind != .event {
            cursors.apply(record, in: run.segment.bytes)
          } else if record.version == 1 {
            streams += 1
          }
        }
      }
    }
  }

  @discardableResult
  private func scan(
    from offset: UInt64, report: inout Report, _ visit: @escaping (SalvageScan.Item) throws(LogStoreError) -> Bool
  ) throws(LogStoreError) -> SalvageSource {
    let directory = try location.get()
    // If the end of the log is sound, this makes sure that it is durable, and stops at what a running writer has made
    // durable.
    var end: DurableEnd?
    do throws(LogStoreError) {
      end = try Follower.open(directory, disk: disk, follows: false).commitPoint.end
    } catch .unsupportedFormat {
      // The file is of a newer program, or damaged; the code below tells which.
      end = try durableEndOfWriter(of: directory)
    } catch {
      // Damage is what this type is for. But what a running writer has not synced must not be read.
      guard error.finding != nil else { throw error }
      end = try durableEndOfWriter(of: directory)
    }
    guard let source = try SalvageSource(directory, disk: disk, upTo: end) else {
      throw .damaged(Damage(file: directory, position: 0, reason: "nothing in it tells which store it was"))
    }
    var scan = SalvageScan(source, from: offset, visit: visit)
    try scan.go()
    report = Report(
      findings: scan.findings, tornTail: scan.tornTail, isEndUnknown: scan.isEndUnknown, next: max(scan.next, offset))
    return source
  }

  private func durableEndOfWriter(of directory: String) throws(LogStoreError) -> DurableEnd? {
    do throws(LogStoreError) {
      if try disk.lockFromWriters(directory) != nil { return nil }
    } catch .inputOutput(_, _, ENOENT) {
      return nil
    } catch .inputOutput(_, _, let code) where code == EACCES || code == EPERM {
      // This process is not allowed to lock.
      if try !Follower.isInUse(directory, disk: disk) { return nil }
    }
    guard
      let notice = try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount).flatMap({
        $0.withUnsafeBytes { TailNotice($0) }
      }), notice.state == .open
    else { throw .locked(directory: directory, holder: "a writer that does not tell how far the log is durable") }
    return notice.end
  }
}
