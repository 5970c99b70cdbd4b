import Glibc
import Synchronization

/// Follows a log that another process writes, or that nobody writes. It reads the durable end from the file `tail`, checks
/// and indexes the frames up to there, and publishes them. One thread of its own does that, and it changes only
/// ``CommitPoint``.
final class Follower: Sendable {
  /// How long a reader waits for a writer that is still opening the store.
  static let openingTimeoutMilliseconds: UInt64 = 30_000
  /// What one look at a writer that is opening counts for at most, of ``openingTimeoutMilliseconds``.
  static let longestLookMilliseconds: UInt64 = 1_000
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

  init(
    directory: String, disk: any Disk, commitPoint: CommitPoint, deadWriter: UInt32?
  ) throws(LogStoreError) {
    held = try disk.hold(directory)
    self.directory = directory
    self.disk = disk
    self.commitPoint = commitPoint
    self.deadWriter = deadWriter
  }

  /// Reads a segment up to the durable end in a notice.
  ///
  /// A segment without events may have been replaced since by another of the same name. The new one begins with a snapshot
  /// of the cursors of the old one, which is durable. The notice tells nothing about what follows there.
  static func read(
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

  func start(from scan: RecoveryScan? = nil) throws(LogStoreError) {
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
    } catch .inputOutput(_, _, let code) where code == ENOENT || code == ENOLINK {
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
