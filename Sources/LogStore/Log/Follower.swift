import Glibc
import Synchronization

/// Follows a log that another process writes, or that nobody writes. It reads the durable end from the file `tail`, checks
/// and indexes the frames up to there, and publishes them. One thread of its own does that, and it changes only
/// ``CommitPoint``.
final class Follower: Sendable {
  /// How long a reader waits for a writer that is still opening the store.
  static let openingTimeoutMilliseconds = 30_000
  /// How often the file is read again, in case its notice was missed or the file was replaced; and how often the directory
  /// is compared with its path, in case it was moved or removed.
  static let checkMilliseconds: Int32 = 1000

  private let directory: String
  private let disk: any Disk
  private let commitPoint: CommitPoint
  /// The writer that wrote `tail` and was dead when this follower began. Its notice is not news.
  private let deadWriter: UInt32?
  private let watch: Mutex<(any FileWatch)?> = Mutex(nil)
  private let isStopped = Atomic(false)
  private let held: any HeldDirectory

  private init(
    directory: String, disk: any Disk, commitPoint: CommitPoint, deadWriter: UInt32?
  ) throws(LogStoreError) {
    held = try disk.hold(directory)
    self.directory = directory
    self.disk = disk
    self.commitPoint = commitPoint
    self.deadWriter = deadWriter
  }

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
    } catch .inputOutput(_, _, ENOENT) {
      return false
    }
  }

  private static func isWritten(_ directory: String, disk: any Disk) throws(LogStoreError) -> Bool {
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
    if catalog.clean == nil, !(try recoverTail(found, disk: disk)), found.scan.provenPosition < found.scan.next.position
    {
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
  private static func recoverTail(_ found: RecoveredTail, disk: any Disk) throws(LogStoreError) -> Bool {
    let proven = found.scan.provenPosition
    let count = found.scan.next.position - proven
    let file: any File
    do throws(LogStoreError) {
      // The segment's name may not be durable yet either.
      try disk.syncDirectory(parent(of: found.segment.path))
      if count == 0 { return true }
      file = try disk.open(found.segment.path, .readWrite)
    } catch .inputOutput(_, _, let code) where code == EROFS || code == EACCES || code == EPERM {
      return false
    }
    // Writes a copy: zeros for what can't be read must not be written over the file's bytes.
    try found.segment.forEachPiece(of: proven..<proven + count) { (piece, position) throws(LogStoreError) in
      try file.write(piece, at: UInt64(position))
    }
    try file.sync()
    return true
  }

  private static func openBesideWriter(
    _ directory: String, disk: any Disk, follows: Bool, _ streamCacheBytes: Int
  ) throws(LogStoreError) -> (Follower, CommitPoint, RecoveryReport) {
    var waited = 0
    var notice = try notice(directory, disk: disk)
    while notice == nil || notice?.state == .opening {
      guard waited < openingTimeoutMilliseconds, try isWritten(directory, disk: disk) else { break }
      disk.sleep(milliseconds: 2)
      waited += 2
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

  /// Reads a segment up to the durable end in a notice.
  ///
  /// A segment without events may have been replaced since by another of the same name. The new one begins with a snapshot
  /// of the cursors of the old one, which is durable. The notice tells nothing about what follows there.
  private static func read(
    _ segment: Segment, to notice: TailNotice
  ) throws(LogStoreError) -> (index: ActiveIndex, scan: RecoveryScan) {
    let isReplaced = segment.headerChecksum != notice.segment && notice.end.offset == notice.end.baseOffset
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    let position = isReplaced ? SegmentHeader.byteCount + FrameHeader.byteCount : notice.end.position
    if let fault = scan.go(to: .position(position), in: segment, adding: index) { throw segment.damage(fault) }
    guard scan.next.offset == notice.end.offset else {
      throw segment.damage(
        Fault(
          position: scan.next.position,
          reason: "the log ends with offset \(scan.next.offset) here, its writer says \(notice.end.offset)"))
    }
    return (index, scan)
  }

  // MARK: - The thread

  private func start(from scan: RecoveryScan? = nil) throws(LogStoreError) {
    try disk.onThread("log follower") { [self] in
      do throws(LogStoreError) {
        try follow(from: scan)
      } catch {
        commitPoint.close(failure: reason(of: error))
      }
    }
  }

  /// A file that is missing in a directory that was moved away or removed is no damage of its own.
  private func reason(of error: LogStoreError) -> LogStoreError {
    do throws(LogStoreError) {
      try checkDirectory()
      return error
    } catch let moved {
      return moved
    }
  }

  private func checkDirectory() throws(LogStoreError) {
    try wasMoved(directory, "the directory") { () throws(LogStoreError) in try held.check() }
  }

  func stop() {
    isStopped.store(true, ordering: .releasing)
    watch.withLock { $0?.interrupt() }
  }

  private func follow(from start: RecoveryScan?) throws(LogStoreError) {
    var scan = start
    var file: (any File)?
    var last: TailNotice?
    var lastCheck = disk.now()
    while !isStopped.load(ordering: .acquiring) {
      let now = disk.now()
      // The clock may have been set back.
      if max(now, lastCheck) - min(now, lastCheck) >= UInt64(Self.checkMilliseconds) * 1000 {
        lastCheck = now
        try checkDirectory()
      }
      // The watch is set before the notice is read, so no change falls in between.
      let current = currentWatch()
      if let notice = try news(&file), notice.state != .opening, notice.writer != deadWriter,
        notice != last
      {
        try advance(&scan, to: notice)
        last = notice
        continue
      }
      if let current, file != nil {
        // The file stays open, and is opened again now and then, in case it was replaced.
        if !current.wait(timeoutMilliseconds: Self.checkMilliseconds) { file = nil }
      } else {
        // There is no file to watch yet, or no inotify instance left. Check often enough that a tail feels live.
        file = nil
        disk.sleep(milliseconds: 2)
      }
    }
  }

  /// The notice, if there is one.
  private func news(_ file: inout (any File)?) throws(LogStoreError) -> TailNotice? {
    do throws(LogStoreError) {
      if file == nil { file = try openNotice() }
      guard let file else { return nil }
      return try Self.notice(in: file)
    } catch {
      guard case .unreadable = error, try !Self.isWritten(directory, disk: disk) else { throw error }
      // Nobody writes, so there is no news. The next writer creates the file again.
      file = nil
      disk.sleep(milliseconds: Self.unreadableRestMilliseconds)
      return nil
    }
  }

  private static let unreadableRestMilliseconds: UInt32 = 100

  private func currentWatch() -> (any FileWatch)? {
    watch.withLock { watch in
      if watch == nil { watch = try? disk.watch(join(directory, FileName.tail)) }
      return watch
    }
  }

  private func openNotice() throws(LogStoreError) -> (any File)? {
    do throws(LogStoreError) {
      return try disk.open(join(directory, FileName.tail), .read)
    } catch .inputOutput(_, _, ENOENT) {
      return nil
    }
  }

  /// One system call and no allocation: this is on the path of every event that is followed.
  private static func notice(in file: any File) throws(LogStoreError) -> TailNotice? {
    var words: (UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0)
    let result = withUnsafeMutableBytes(of: &words) { buffer in
      Result { () throws(LogStoreError) in
        let count = try file.read(into: buffer, at: 0)
        return TailNotice(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      }
    }
    return try result.get()
  }

  private func advance(_ scan: inout RecoveryScan?, to notice: TailNotice) throws(LogStoreError) {
    let end = notice.end
    let known = commitPoint.segments.open
    if end == commitPoint.end, known.segment.headerChecksum == notice.segment { return }
    guard end.baseOffset >= known.segment.baseOffset else {
      throw .damaged(
        Damage(
          file: join(directory, FileName.tail), position: UInt64(TailNotice.Field.baseOffset),
          reason: "it says that the log ends in the segment of offset \(end.baseOffset), but it has gone on to that of"
            + " offset \(known.segment.baseOffset)"))
    }
    if let going = scan, known.segment.headerChecksum == notice.segment, going.next.position <= end.position {
      var going = going
      if going.go(to: .position(end.position), in: known.segment, adding: known) == nil,
        going.next.offset == end.offset
      {
        scan = going
        commitPoint.publish(end, cursors: going.cursors)
        return
      }
    }
    // Another segment; or another file under the same name, which happens to a segment without events; or this follower
    // began without a writer, and reads its segment a second time, once.
    let segment = try Segment.open(
      join(directory, FileName.segment(end.baseOffset)), baseOffset: end.baseOffset,
      storeID: commitPoint.segments.storeID, disk: disk)
    let (index, going) = try Self.read(segment, to: notice)
    let newBases = try disk.list(directory)
      .compactMap { FileName.baseOffset($0, suffix: ".log") }
      .filter { $0 > known.segment.baseOffset && $0 <= end.baseOffset }
      .sorted()
    commitPoint.segments.advance(over: newBases, to: index)
    scan = going
    commitPoint.publish(going.end(in: segment), cursors: going.cursors)
  }
}
