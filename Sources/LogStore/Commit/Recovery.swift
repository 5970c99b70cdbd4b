import Glibc

/// Opens a store for writing: locks it, finds the end of the log, makes everything before the end durable and everything
/// behind it zero. See docs/FORMAT.md, *What a writer does when it opens*.
struct Recovery {
  let directory: String
  let options: StoreOptions
  let disk: any Disk

  struct Opened: ~Copyable {
    var lock: any FileLock
    /// The disk for everything that the lock's holder does.
    var disk: any Disk
    var commitPoint: CommitPoint
    var file: any File
    var end: FrameExpectation
    var tail: TailFile
    var recovery: RecoveryReport
  }

  func open() throws(LogStoreError) -> Opened {
    let isNew = try !disk.exists(join(directory, FileName.store))
    if isNew {
      // Before the lock, which creates its file.
      if !options.createIfMissing { try refuseMissing() }
      try OwnFiles(directory: directory, disk: disk).checkFree()
      try disk.makeDirectories(directory)
    } else {
      // Before the lock file is written to: a directory that only has a file of this name is not a store.
      _ = try Catalog.readStore(directory, disk: disk)
    }
    let lock = try takeLock()
    return try Recovery(directory: directory, options: options, disk: LockedDisk(disk: disk, lock: lock))
      .open(lock, isNew: isNew)
  }

  /// Throws unless another process has created the store meanwhile. A store that lost its file `store` is still a store.
  private func refuseMissing() throws(LogStoreError) {
    var isNothingLost = true
    if try disk.exists(directory) { isNothingLost = try Catalog.isNothingLost(directory, disk: disk) }
    if try disk.exists(join(directory, FileName.store)) { return }
    throw isNothingLost ? .notAStore(directory: directory) : Catalog.storeMissing(directory)
  }

  private func open(_ lock: any FileLock, isNew: Bool) throws(LogStoreError) -> Opened {
    // Check again: another process may have created the store before this one got the lock.
    if isNew, try !disk.exists(join(directory, FileName.store)) { try create() }
    let catalog = try Catalog.read(directory, disk: disk, servesDamaged: options.servesDamaged)
    let header = catalog.lastSegment
    let segment = try Segment.open(
      catalog.path(of: header), baseOffset: header.baseOffset, storeID: catalog.storeID, disk: disk,
      mayBeShort: catalog.clean == nil)
    let found = try RecoveredTail.find(in: segment, clean: catalog.clean, cleanPath: catalog.cleanPath)
    let gaps = try Gaps(catalog, disk: disk)

    let wasOpeningFinished = try isOpeningFinished()
    // Everything is sound. Files are changed only from here on.
    let tail = try TailFile(directory: directory, disk: disk)
    try OwnFiles(directory: directory, disk: disk).removeUnfinished()
    let file = try disk.open(segment.path, .readWrite)
    var open = found.index
    if catalog.clean == nil {
      open = try recoverTail(found, file, storeID: catalog.storeID, trustsZeros: wasOpeningFinished)
    } else {
      try disk.remove(catalog.cleanPath)
    }
    // Makes the removal of the clean mark durable, and also any rename that a crashed writer did not sync.
    try disk.syncDirectory(directory)
    let commitPoint = CommitPoint(
      segments: SegmentSet(
        directory: directory, disk: disk, storeID: catalog.storeID, bases: catalog.segments.map(\.baseOffset),
        gaps: gaps, open: open, streamCacheBytes: options.streamCacheBytes, servesDamaged: options.servesDamaged),
      end: found.end, cursors: found.scan.cursors)
    return Opened(
      lock: lock, disk: disk, commitPoint: commitPoint, file: file, end: found.scan.next, tail: tail,
      recovery: RecoveryReport(
        wasClosedCleanly: catalog.clean != nil || isNew, tornTail: found.torn, endOffset: found.end.offset,
        damagedFiles: catalog.damagedFiles))
  }

  private func takeLock() throws(LogStoreError) -> any FileLock {
    let path = join(directory, FileName.lock)
    var attemptsLeft = 2500
    var looksForStrangers = true
    while true {
      var taken = try disk.lock(path, exclusive: true)
      if taken == nil, looksForStrangers || attemptsLeft <= 0 { taken = try disk.lockFromStrangers(path) }
      looksForStrangers = false
      var held = path
      if let file = taken {
        if let whole = try disk.lockDirectory(directory, exclusive: true) {
          let lock = StoreLock(directory, file: file, directory: whole)
          try lock.describe("process \(getpid())\n")
          return lock
        }
        // This lock file is not the one that a writer locked: that one was removed or replaced.
        file.release()
        held = directory
      }
      // A reader that recovers the tail of a dead writer's log holds a shared lock for a moment.
      let heldByWriter = held == directory ? true : try disk.lock(path, exclusive: false) == nil
      guard attemptsLeft > 0 else { throw .locked(directory: directory, holder: holder(of: held)) }
      attemptsLeft -= heldByWriter ? 100 : 1
      disk.sleep(milliseconds: 2)
    }
  }

  /// The lock's holder as the kernel reports it; otherwise as the last writer described itself in the file.
  private func holder(of path: String) -> String {
    if let holder = disk.holder(of: path) { return holder }
    // A failure here only makes the error text less precise.
    let text = (try? disk.contents(join(directory, FileName.lock), limit: 256)) ?? []
    let last = String(decoding: text.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    return last.isEmpty ? "another process" : "another process; the last writer was \(last)"
  }

  /// Creates a store: the first segment, then the file `store`, so that a directory with that file always has a segment.
  /// Leftovers of an earlier attempt that did not get that far are replaced.
  private func create() throws(LogStoreError) {
    // Check again, now that no other process creates one.
    try OwnFiles(directory: directory, disk: disk).checkFree()
    guard try Catalog.isNothingLost(directory, disk: disk) else { throw Catalog.storeMissing(directory) }
    for name in try disk.list(directory)
    where FileName.isAside(name) || FileName.baseOffset(name, suffix: ".log") != nil {
      try disk.remove(join(directory, name))
    }
    let preallocator = try SegmentPreallocator(directory: directory, disk: disk, byteCount: options.segmentBytes)
    defer { preallocator.stop() }
    preallocator.prepare(
      SegmentPreallocator.Zeros(byteCount: options.segmentBytes, unitByteCount: SegmentPreallocator.Zeros.smallest))
    let preallocated = try preallocator.take(atLeast: 2 * SegmentHeader.byteCount)
    let storeID = StoreID(first: disk.random(), second: disk.random())
    let now = disk.now()
    let header = SegmentHeader(
      storeID: storeID, baseOffset: 0, previousBaseOffset: SegmentHeader.noPrevious,
      fileByteCount: UInt64(preallocated.byteCount), createdMicroseconds: now, chain: 0)
    try preallocated.file.write(header.encoded() + header.emptySnapshot.frame)
    try preallocated.file.sync()
    try preallocated.file.checkPath(preallocator.path)
    try disk.rename(preallocator.path, to: join(directory, FileName.segment(0)))
    try disk.syncDirectory(directory)
    try disk.replace(
      join(directory, FileName.store),
      with: StoreHeader(storeID: storeID, createdMicroseconds: now).encoded())
  }

  /// Whether the last writer got far enough in opening the store that what it zeroed is synced.
  private func isOpeningFinished() throws(LogStoreError) -> Bool {
    let path = join(directory, FileName.tail)
    let bytes: [UInt8]
    do throws(LogStoreError) {
      guard let found = try disk.contents(path, limit: TailNotice.byteCount) else { return true }
      bytes = found
    } catch {
      guard case .unreadable = error else { throw error }
      // It can't be written in part either. Another file replaces it, and nothing is trusted.
      try disk.remove(path)
      return false
    }
    let notice = bytes.withUnsafeBytes { TailNotice($0) }
    return notice.map { $0.state != .opening } ?? false
  }

  /// Writes again what is not proven to be on disk, zeroes everything behind the end, and syncs. Returns the open segment's
  /// index, over a mapping of the whole file.
  ///
  /// - Parameter trustsZeros: if false, zeros behind the end may come from an earlier opening that failed to sync them: the
  ///   kernel shows zeros while the disk still has the old bytes. They are written again.
  private func recoverTail(
    _ found: RecoveredTail, _ file: any File, storeID: StoreID, trustsZeros: Bool
  ) throws(LogStoreError) -> ActiveIndex {
    let segment = found.segment
    let end = found.scan.next.position
    let isShort = segment.bytes.count < Int(segment.header.fileByteCount)
    try found.rewriteUnproven(in: file)
    let behind = segment.bytes.part(end, segment.bytes.count - end).countWithoutTrailingZeros
    try segment.checkReadable(end..<segment.bytes.count, since: .max)
    let isWhole = isShort || !trustsZeros
    try file.writeZeros(from: end, to: isWhole ? Int(segment.header.fileByteCount) : end + behind)
    try file.sync()
    guard isShort else { return found.index }
    // The file has its full size again; the mapping covers only what was left of it.
    let whole = try Segment.open(segment.path, baseOffset: segment.baseOffset, storeID: storeID, disk: disk)
    let index = ActiveIndex(whole)
    var scan = RecoveryScan(whole)
    if let fault = scan.go(to: .position(end), in: whole, adding: index) { throw whole.damage(fault) }
    return index
  }
}
