import Glibc

// Opening a store for reading: beside a writer, or without one.

extension Follower {
  /// Opens a store for reading.
  ///
  /// - Parameter follows: if false, the reader sees one moment of the log, whatever a writer appends.
  static func open(
    _ directory: String, disk: any Disk, follows: Bool = true,
    streamCacheBytes: Int = StreamCache.defaultByteCount
  ) throws(LogStoreError) -> (follower: Follower, commitPoint: CommitPoint, recovery: RecoveryReport) {
    var attemptsLeft = 5
    while true {
      var lock: (any FileLock)?
      var wasBesideWriter = false
      do throws(LogStoreError) {
        // First, so that the error for a directory without a store says so.
        _ = try Catalog.readStore(directory, disk: disk)
        let before = try notice(directory, disk: disk)
        switch try findWriter(directory, disk: disk) {
        case .none(let held):
          lock = held
          return try openUnwritten(directory, disk: disk, follows: follows, streamCacheBytes)
        case .unseen:
          let opened = try openUnwritten(directory, disk: disk, follows: false, streamCacheBytes)
          // A writer that has begun meanwhile has written a notice before it changed anything.
          guard case .unseen = try findWriter(directory, disk: disk), try notice(directory, disk: disk) == before else {
            attemptsLeft -= 1
            if attemptsLeft > 0 { continue }
            throw .locked(directory: directory, holder: "a writer that has not finished opening it; try again")
          }
          if follows { try opened.0.start() }
          return opened
        case .alive: break
        }
        wasBesideWriter = true
        return try openBesideWriter(directory, disk: disk, follows: follows, streamCacheBytes)
      } catch {
        // The writer may have ended, or another may have begun, between the two reads.
        attemptsLeft -= 1
        guard lock == nil, attemptsLeft > 0 else { throw error }
        let isWritten = try isWritten(directory, disk: disk)
        if !wasBesideWriter, !isWritten { throw error }
        // The wait for the writer has reached its limit.
        if wasBesideWriter, isWritten, case .locked = error { throw error }
        disk.sleep(milliseconds: 10)
      }
    }
  }

  /// Whether another process has the store open for writing.
  private enum Writer {
    /// No writer, and none begins while the lock is held. Without a lock there never was one.
    case none(lock: (any FileLock)?)
    /// No writer is visible, but one may begin, since this process may not lock.
    case unseen
    case alive
  }

  private static func findWriter(_ directory: String, disk: any Disk) throws(LogStoreError) -> Writer {
    let path = join(directory, FileName.lock)
    do throws(LogStoreError) {
      return try disk.lockFromWriters(directory).map { .none(lock: $0) } ?? .alive
    } catch .inputOutput(_, _, ENOENT) {
      return try disk.exists(path) ? .alive : .none(lock: nil)
    } catch .inputOutput(_, _, let code) where code == EACCES || code == EPERM {
      return try isInUse(directory, disk: disk) ? .alive : .unseen
    }
  }

  /// Whether a writer has marked its notice: for processes that may not open the lock.
  static func isInUse(_ directory: String, disk: any Disk) throws(LogStoreError) -> Bool {
    do throws(LogStoreError) {
      return try disk.open(join(directory, FileName.tail), .read).isInUse()
    } catch .inputOutput(_, _, let code) where code == ENOENT || code == ENOLINK {
      return false
    }
  }

  static func isWritten(_ directory: String, disk: any Disk) throws(LogStoreError) -> Bool {
    if case .alive = try findWriter(directory, disk: disk) { true } else { false }
  }

  private static func notice(_ directory: String, disk: any Disk) throws(LogStoreError) -> TailNotice? {
    guard let bytes = try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount) else { return nil }
    return bytes.withUnsafeBytes { TailNotice($0) }
  }

  /// Nobody writes, and while the shared lock is held no writer begins.
  private static func openUnwritten(
    _ directory: String, disk: any Disk, follows: Bool, _ streamCacheBytes: Int
  ) throws(LogStoreError) -> (Follower, CommitPoint, RecoveryReport) {
    let catalog = try Catalog.read(directory, disk: disk)
    let header = catalog.lastSegment
    let segment = try Segment.open(
      catalog.path(of: header), baseOffset: header.baseOffset, storeID: catalog.storeID, disk: disk,
      mayBeShort: catalog.clean == nil)
    var found = try RecoveredTail.find(in: segment, clean: catalog.clean, cleanPath: catalog.cleanPath)
    if catalog.clean == nil, !(try makeDurable(found, disk: disk)), !found.unproven.isEmpty {
      // What this process has no right to write again, it can't make certain either.
      let proven = found.scan.provenPosition
      let index = ActiveIndex(segment)
      var scan = RecoveryScan(segment)
      if let fault = scan.go(to: .position(proven), in: segment, adding: index) { throw segment.damage(fault) }
      found = RecoveredTail(
        index: index, scan: scan,
        torn: Damage(
          file: segment.path, position: UInt64(scan.next.position),
          reason:
            "acknowledged events may stand here, but nothing proves that they are on disk, and they can't be synced"
            + " without leave to write; read as one who may write, or let a writer open the store"))
    }
    let commitPoint = CommitPoint(
      segments: SegmentSet(
        directory: directory, disk: disk, storeID: catalog.storeID, bases: catalog.segments.map(\.baseOffset),
        gaps: try Gaps(catalog, disk: disk), open: found.index, streamCacheBytes: streamCacheBytes),
      end: found.end, cursors: found.scan.cursors)
    var deadWriter: UInt32?
    do throws(LogStoreError) {
      deadWriter = try notice(directory, disk: disk)?.writer
    } catch {
      // Nothing needs an unreadable notice of a writer that is gone. If it becomes readable, it tells nothing new.
      guard case .unreadable = error else { throw error }
    }
    let follower = try Follower(directory: directory, disk: disk, commitPoint: commitPoint, deadWriter: deadWriter)
    if follows { try follower.start() }
    return (
      follower, commitPoint,
      RecoveryReport(
        wasClosedCleanly: catalog.clean != nil, tornTail: found.torn, endOffset: found.end.offset)
    )
  }

  /// Makes the end of the log durable: writes the same bytes again and syncs. Returns false without the right to write.
  private static func makeDurable(_ found: RecoveredTail, disk: any Disk) throws(LogStoreError) -> Bool {
    let file: any File
    do throws(LogStoreError) {
      // The segment's name may not be durable yet either.
      try disk.syncDirectory(parent(of: found.segment.path))
      if found.unproven.isEmpty { return true }
      file = try disk.open(found.segment.path, .readWrite)
    } catch .inputOutput(_, _, let code) where code == EROFS || code == EACCES || code == EPERM {
      return false
    }
    try found.rewriteUnproven(in: file)
    try file.sync()
    return true
  }

  private static func openBesideWriter(
    _ directory: String, disk: any Disk, follows: Bool, _ streamCacheBytes: Int
  ) throws(LogStoreError) -> (Follower, CommitPoint, RecoveryReport) {
    var waited: UInt64 = 0
    var lastLook = disk.monotonicMilliseconds()
    var notice = try notice(directory, disk: disk)
    while notice == nil || notice?.state == .opening {
      guard waited < openingTimeoutMilliseconds, try isWritten(directory, disk: disk) else { break }
      disk.sleep(milliseconds: 2)
      let now = disk.monotonicMilliseconds()
      // A process that was stopped meanwhile has not waited: the writer may have finished since.
      waited += min(now - lastLook, longestLookMilliseconds)
      lastLook = now
      notice = try Self.notice(directory, disk: disk)
    }
    guard let notice, notice.state != .opening else {
      throw .locked(directory: directory, holder: "a writer that has not finished opening it; try again")
    }
    // The listing comes after the notice: all segments up to the noticed one existed before it.
    let catalog = try Catalog.read(directory, disk: disk, upTo: notice.end.baseOffset)
    let bases = catalog.segments.map(\.baseOffset)
    guard bases.last == notice.end.baseOffset else {
      throw .damaged(
        Damage(
          file: join(catalog.directory, FileName.segment(notice.end.baseOffset)), position: 0,
          reason: "the segment that is being written is missing"))
    }
    let segment = try Segment.open(
      join(catalog.directory, FileName.segment(notice.end.baseOffset)), baseOffset: notice.end.baseOffset,
      storeID: catalog.storeID, disk: disk)
    let (index, scan) = try read(segment, to: notice)
    let commitPoint = CommitPoint(
      segments: SegmentSet(
        directory: catalog.directory, disk: disk, storeID: catalog.storeID, bases: bases,
        gaps: try Gaps(catalog, disk: disk), open: index, streamCacheBytes: streamCacheBytes),
      end: scan.end(in: segment), cursors: scan.cursors)
    let follower = try Follower(directory: catalog.directory, disk: disk, commitPoint: commitPoint, deadWriter: nil)
    if follows { try follower.start(from: scan) }
    return (
      follower, commitPoint, RecoveryReport(wasClosedCleanly: true, tornTail: nil, endOffset: scan.next.offset)
    )
  }
}
