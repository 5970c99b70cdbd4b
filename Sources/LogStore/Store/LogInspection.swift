/// What a look at a store tells that takes no lock, writes nothing, and reads only the small files, the first page of each segment,
/// the first event and the last segment: for a diagnosis beside whatever else uses the store. To read events, open a ``LogReader``.
///
/// Damage inside finished segments is not found: ``LogStore/verify(_:progress:)`` reads everything.
package struct LogInspection: Sendable {
  /// As ``LogReader/storeID``.
  package var storeID: String
  /// The offset after the last event that was found. After a writer died, some of them may not be on disk yet; the next opening
  /// writes them again.
  package var endOffset: UInt64
  /// Segment files.
  package var segmentCount: Int
  /// Bytes of segment files, including preallocated space.
  package var logBytes: UInt64
  /// The last event's time in microseconds since 1970; 0 if there is none.
  package var lastTimestampMicroseconds: UInt64
  /// A process has the store open for writing.
  package var hasWriter: Bool
  /// The last writer closed the store, or one runs.
  package var wasClosedCleanly: Bool
  /// An unfinished write behind the end of the log. It is not damage.
  package var tornTail: Damage?
  /// Finished segments whose file is missing, truncated or has a damaged header.
  package var damagedFiles: [Damage]
  /// The type of the first event; nil if there is none, or none at the log's start that can be read.
  package var firstType: String?
  private var cursors: Checkpoints

  /// Whether the log has a cursor of this name.
  package func hasCursor(_ name: String) -> Bool { cursors[Array(name.utf8)] != nil }

  /// Looks at a store. Blocks for the disk: about 20 ms for a last segment of 64 MiB, and one page for each other segment.
  ///
  /// - Throws: what a ``LogReader`` would throw at its opening; ``LogStoreError/locked(directory:holder:)`` while a writer opens the
  ///   store.
  package static func look(at directory: String) throws(LogStoreError) -> LogInspection {
    let disk = RealDisk()
    return try look(at: try disk.absolutePath(directory), disk: disk)
  }

  static func look(at directory: String, disk: any Disk) throws(LogStoreError) -> LogInspection {
    var attemptsLeft = 5
    while true {
      attemptsLeft -= 1
      let before = try TailState(directory, disk: disk)
      do throws(LogStoreError) {
        let found =
          before.hasWriter
          ? try besideWriter(directory, before.notice, disk: disk) : try unwritten(directory, disk: disk)
        if before.hasWriter { return found }
        if try TailState(directory, disk: disk) == before { return found }
      } catch {
        // A writer that began, ended or went on to another segment meanwhile may be the reason.
        if attemptsLeft == 0 { throw error }
        let isSame = try TailState(directory, disk: disk) == before
        if isSame, !before.hasWriter { throw error }
      }
      if attemptsLeft == 0 { throw .locked(directory: directory, holder: "writers that open and close it; try again") }
      disk.sleep(milliseconds: 10)
    }
  }

  /// What the file `tail` tells: a writer marks it, and writes it before it changes anything else.
  private struct TailState: Equatable {
    var hasWriter = false
    var notice: TailNotice?

    init(_ directory: String, disk: any Disk) throws(LogStoreError) {
      let isInUse = try Follower.isInUse(directory, disk: disk)
      if let bytes = try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount) {
        notice = bytes.withUnsafeBytes { TailNotice($0) }
      }
      // A writer that has closed the store changes nothing more, and removes its mark a moment later.
      hasWriter = isInUse && notice?.state != .closed
    }
  }

  private static func besideWriter(
    _ directory: String, _ notice: TailNotice?, disk: any Disk
  ) throws(LogStoreError) -> LogInspection {
    guard let notice, notice.state != .opening else {
      throw .locked(directory: directory, holder: "a writer that has not finished opening it; try again")
    }
    let catalog = try Catalog.read(directory, disk: disk, upTo: notice.end.baseOffset, servesDamaged: true)
    let segment = try Segment.open(
      join(directory, FileName.segment(notice.end.baseOffset)), baseOffset: notice.end.baseOffset,
      storeID: catalog.storeID, disk: disk)
    var found = LogInspection(catalog, try Follower.read(segment, to: notice).scan, torn: nil, hasWriter: true)
    found.firstType = firstType(catalog, segment, disk: disk)
    return found
  }

  private static func unwritten(_ directory: String, disk: any Disk) throws(LogStoreError) -> LogInspection {
    let catalog = try Catalog.read(directory, disk: disk, servesDamaged: true)
    let header = catalog.lastSegment
    let segment = try Segment.open(
      catalog.path(of: header), baseOffset: header.baseOffset, storeID: catalog.storeID, disk: disk,
      mayBeShort: catalog.clean == nil)
    let found = try RecoveredTail.find(in: segment, clean: catalog.clean, cleanPath: catalog.cleanPath)
    var look = LogInspection(catalog, found.scan, torn: found.torn, hasWriter: false)
    look.firstType = firstType(catalog, segment, disk: disk)
    return look
  }

  /// Reads the first segment up to its first event.
  ///
  /// - Parameter last: the last segment, which may be the first one.
  private static func firstType(_ catalog: Catalog, _ last: Segment, disk: any Disk) -> String? {
    guard catalog.segments[0].baseOffset == 0 else { return nil }
    // A segment that is damaged or can't be read is a finding of the rest of the look. Here it only hides the type.
    let opened = try? Segment.open(
      catalog.path(of: catalog.segments[0]), baseOffset: 0, storeID: catalog.storeID, disk: disk, mayBeShort: true)
    guard let segment = last.baseOffset == 0 ? last : opened else { return nil }
    var type: String?
    var next = segment.start
    while type == nil {
      let header = try? segment.checkFrame(next) { record in
        guard type == nil, record.kind == .event else { return }
        type = String(
          decoding: segment.bytes.part(record.namePosition + record.nameLength, record.typeLength), as: UTF8.self)
      }
      guard let header else { break }
      next.advance(past: header)
    }
    return type
  }

  private init(_ catalog: Catalog, _ scan: RecoveryScan, torn: Damage?, hasWriter: Bool) {
    storeID = catalog.storeID.shown
    endOffset = scan.next.offset
    segmentCount = catalog.segments.count
    logBytes = catalog.segments.reduce(0) { $0 + $1.fileByteCount }
    lastTimestampMicroseconds = scan.next.timestamp
    self.hasWriter = hasWriter
    wasClosedCleanly = hasWriter || catalog.clean != nil
    tornTail = torn
    damagedFiles = catalog.damagedFiles
    cursors = scan.cursors
  }
}
