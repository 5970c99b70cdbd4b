import Glibc

/// The operating system, as far as a store needs it. All of LogStore's system calls go through this protocol, so that a
/// simulated disk can replace the real one and tear, drop, reorder and fail.
///
/// Every method may be called from any thread. Errors are ``LogStoreError/inputOutput(operation:path:code:)`` or
/// ``LogStoreError/diskFull(operation:path:)``, with the operation and the path, or, for bytes that the disk can't read,
/// ``LogStoreError/unreadable(_:)``.
protocol Disk: Sendable {
  /// Opens an existing file (`.read`, `.readWrite`), or creates an empty one (`.create`), which removes a file of the same
  /// name and refuses one of another user. `.rewrite` empties an existing file of this user, which stays locked.
  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File
  func exists(_ path: String) throws(LogStoreError) -> Bool
  /// The kind of file at a path, following symbolic links; nil if there is none.
  func kind(_ path: String) throws(LogStoreError) -> FileKind?
  /// The reason why an existing file must not be taken over: it belongs to another user, or is a symbolic link. nil if it
  /// belongs to this user, or if there is none. Does not follow the link.
  func foreign(_ path: String) throws(LogStoreError) -> String?
  /// Whether a path's last component is a symbolic link.
  func isSymbolicLink(_ path: String) throws(LogStoreError) -> Bool
  /// The absolute path, without symbolic links, of an existing file.
  func canonicalPath(_ path: String) throws(LogStoreError) -> String
  /// The absolute path, for a process that changes its working directory later. Refuses what is no path.
  func absolutePath(_ path: String) throws(LogStoreError) -> String
  /// Keeps a directory open, without a lock, to notice when its path leads elsewhere.
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory
  /// The names in a directory, unordered.
  func list(_ directory: String) throws(LogStoreError) -> [String]
  /// Creates one directory. An existing one is no error. Returns whether it was created.
  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool
  /// Replaces `new` if it exists. Durable after ``syncDirectory(_:)``.
  func rename(_ old: String, to new: String) throws(LogStoreError)
  /// Removes a file. A missing file is no error. Durable after ``syncDirectory(_:)``.
  func remove(_ path: String) throws(LogStoreError)
  /// Removes an empty directory. A missing one is no error. Durable after the parent directory is synced.
  func removeDirectory(_ path: String) throws(LogStoreError)
  /// Makes the names in a directory durable.
  func syncDirectory(_ path: String) throws(LogStoreError)
  /// Locks a file until the lock is released or the process dies. Returns nil if another lock forbids that. For an
  /// exclusive lock the file is created if it is missing, and from then on only those who may write it can open it.
  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)?
  /// Locks the directory of a store, in addition to its lock file, until the lock is released or the process dies. Returns
  /// nil if another process's lock forbids that, or, for an exclusive lock, if another process writes the store. Locks of
  /// processes that may not write the store don't count.
  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)?
  /// Throws if the lock under which this disk is used is gone.
  func checkLock() throws(LogStoreError)
  /// Replaces a lock file that only processes hold which may not write it by a new file, locked exclusively. Returns nil if
  /// other processes hold it, or if that is unknown. Inspects all processes.
  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)?
  /// The current holder of a lock on a file, in words; nil if unknown.
  func holder(of path: String) -> String?
  /// Wakes a thread when any process writes a file.
  func watch(_ path: String) throws(LogStoreError) -> any FileWatch
  /// Microseconds since 1970-01-01 UTC.
  func now() -> UInt64
  /// Microseconds of a clock that only goes forwards. Its start is arbitrary.
  func monotonicMicroseconds() -> UInt64
  /// An unpredictable number.
  func random() -> UInt64
  /// Blocks the thread for about this long.
  func sleep(milliseconds: UInt32)
  /// Decides which thread runs; nil: the operating system does.
  var scheduler: (any Scheduler)? { get }
  /// Runs `body` on a thread of its own; see ``startThread(_:_:_:)``.
  func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(LogStoreError)
}

extension Disk {
  func monotonicMicroseconds() -> UInt64 { MonotonicClock.microseconds }

  func monotonicMilliseconds() -> UInt64 { monotonicMicroseconds() / 1000 }
}

enum FileKind: Sendable {
  case file, directory, other
}

enum FileMode: Sendable {
  case read, readWrite, create, rewrite
}

/// An open file. The last reference closes it.
protocol File: AnyObject, Sendable {
  var path: String { get }
  func byteCount() throws(LogStoreError) -> UInt64
  /// Reads until the buffer is full or the file ends. Returns the number of bytes read.
  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int
  /// Writes all bytes. After a failure an unknown part is written.
  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError)
  /// Returns once the file's bytes and its size are on disk. After a failure nothing is known about the bytes written since
  /// the last success, and another try proves nothing: the kernel may have dropped the pages.
  func sync() throws(LogStoreError)
  /// Reserves space for this many bytes, which read as zeros where nothing was written, and makes the file that long.
  /// Returns false where the file system can't reserve.
  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool
  /// Asks the kernel to start writing a part of the file to disk, so that a later ``sync()`` has less to wait for. Best
  /// effort.
  func startWriteback(at position: UInt64, byteCount: UInt64)
  /// Polls without sleeping, up to this many microseconds, until the writes that were started for a part of the file are
  /// done. The ``sync()`` that follows then sleeps once less. Best effort.
  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32)
  /// Marks the file as in use until it is closed, visible to processes that may only read it. They can't prevent the mark.
  func markInUse()
  /// Whether another process has marked the file as in use.
  func isInUse() throws(LogStoreError) -> Bool
  /// Truncates the file or extends it with zeros.
  func resize(to byteCount: UInt64) throws(LogStoreError)
  /// Maps the first bytes of the file for reading. Bytes that the disk can't read, or that the file loses later, read as
  /// zeros: see ``Mapping``.
  func map(byteCount: Int) throws(LogStoreError) -> Mapping
  /// Throws ``LogStoreError/segmentLost(file:reason:)`` if a path does not lead to this file any more, because somebody has
  /// removed or replaced it.
  func checkPath(_ path: String) throws(LogStoreError)
  /// Whether some part of a range of the file is in memory.
  func isCached(at position: UInt64, byteCount: Int) -> Bool
  /// Lets the kernel drop a part of the file that nobody has mapped from its cache. Best effort.
  func dropFromCache(at position: UInt64, byteCount: UInt64)
}

extension Disk {
  /// For disks whose files nobody else can move.
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory { UnmovedDirectory() }
  func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(LogStoreError) {
    try startThread(name, scheduler, body)
  }
  /// For disks without a working directory.
  func absolutePath(_ path: String) throws(LogStoreError) -> String { path }
  /// For disks that don't know.
  func holder(of path: String) -> String? { nil }
  /// For disks with one user.
  func foreign(_ path: String) throws(LogStoreError) -> String? { nil }
  /// For disks without links.
  func isSymbolicLink(_ path: String) throws(LogStoreError) -> Bool { false }
  /// For disks without locks.
  func checkLock() throws(LogStoreError) {}
  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)? { nil }
}

extension File {
  /// For disks whose files nobody else can change.
  func checkPath(_ path: String) throws(LogStoreError) {}

  // For disks whose files everybody may lock.
  func markInUse() {}
  func isInUse() throws(LogStoreError) -> Bool { false }

  /// For disks that don't know.
  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32) {}
}

/// A held lock. The last reference releases it at the latest.
protocol FileLock: AnyObject, Sendable {
  func release()
  /// Replaces the lock file's text, which a refused process reads.
  func describe(_ holder: String) throws(LogStoreError)
  /// Throws if the file at the lock's path is not the locked one any more.
  func check() throws(LogStoreError)
}

/// A directory that is kept open. Meanwhile its inode is not reused.
protocol HeldDirectory: AnyObject, Sendable {
  /// Throws if its path does not lead to it any more.
  func check() throws(LogStoreError)
}

private final class UnmovedDirectory: HeldDirectory {
  func check() throws(LogStoreError) {}
}

extension FileLock {
  /// For disks whose files nobody else can move.
  func check() throws(LogStoreError) {}
}

/// Waits for another process to write a file.
protocol FileWatch: AnyObject, Sendable {
  /// Blocks until the file was written since the last call, until ``interrupt()`` is called, or until the timeout. Returns
  /// false after the timeout.
  func wait(timeoutMilliseconds: Int32) -> Bool
  /// Ends the current wait, or the next one.
  func interrupt()
}

/// The path of a name in a directory.
func join(_ directory: String, _ name: String) -> String {
  directory.hasSuffix("/") ? directory + name : directory + "/" + name
}

/// The directory of a path.
func parent(of path: String) -> String {
  var path = path[...]
  while path.count > 1, path.last == "/" { path.removeLast() }
  guard let slash = path.lastIndex(of: "/") else { return "." }
  return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// The last component of a path.
func fileName(of path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

extension Disk {
  /// Creates a directory and its missing parents, and makes all of their names durable. That includes existing ones, since
  /// their creator may have died before it synced them.
  func makeDirectories(_ path: String) throws(LogStoreError) {
    let above = parent(of: path)
    if above != path, above != "." { try makeDirectories(above) }
    var isNew = false
    if try !exists(path) { isNew = try makeDirectory(path) }
    do throws(LogStoreError) {
      if above != path { try syncDirectory(above) }
    } catch .inputOutput(_, _, let code) where !isNew && (code == EACCES || code == EROFS) {
      // A directory that this process may not open was not created by it either.
    }
  }

  /// As ``canonicalPath(_:)``, also for a path that does not exist yet.
  func resolved(_ path: String) throws(LogStoreError) -> String {
    if try kind(path) != nil { return try canonicalPath(path) }
    let above = parent(of: path)
    let name = path.split(separator: "/").last.map(String.init) ?? ""
    return join(above == path ? above : try resolved(above), name)
  }

  /// Makes a file appear under its name with all of its bytes, or not at all.
  func replace(_ path: String, with bytes: [UInt8]) throws(LogStoreError) {
    let aside = path + ".tmp"
    let file = try open(aside, .create)
    try file.write(bytes)
    try file.sync()
    try rename(aside, to: path)
    try syncDirectory(parent(of: path))
  }

  /// All of a small file; nil if it does not exist, or if there is a symbolic link that leads nowhere.
  func contents(_ path: String, limit: Int) throws(LogStoreError) -> [UInt8]? {
    let file: any File
    do throws(LogStoreError) {
      file = try open(path, .read)
    } catch .inputOutput(_, _, let code) where code == ENOENT || code == ENOLINK {
      return nil
    }
    return try file.read(count: min(limit, Int(clamping: file.byteCount())), at: 0)
  }
}

extension File {
  // For disks without a cache.
  func isCached(at position: UInt64, byteCount: Int) -> Bool { true }
  func dropFromCache(at position: UInt64, byteCount: UInt64) {}

  func write(_ bytes: [UInt8], at position: UInt64 = 0) throws(LogStoreError) {
    // `withUnsafeBytes` does not pass a typed error on, hence the result.
    let result = bytes.withUnsafeBytes { buffer in
      Result { () throws(LogStoreError) in try self.write(buffer, at: position) }
    }
    try result.get()
  }

  /// Overwrites a range with zeros. Does nothing if the range is empty.
  func writeZeros(from start: Int, to end: Int) throws(LogStoreError) {
    let zeros = [UInt8](repeating: 0, count: min(max(end - start, 0), 1 << 20))
    var position = start
    while position < end {
      let count = min(zeros.count, end - position)
      try write(count == zeros.count ? zeros : Array(zeros[..<count]), at: UInt64(position))
      position += count
    }
  }

  /// Every range of the file that the disk can't read, in order, in whole pages. That includes the bytes that the file
  /// should have and does not have.
  ///
  /// - Parameter byteCount: the length that the file should have.
  func unreadableRanges(byteCount: UInt64) throws(LogStoreError) -> [(range: Range<UInt64>, reason: String)] {
    var ranges: [(range: Range<UInt64>, reason: String)] = []
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { piece.deallocate() }
    let page = UInt64(pageByteCount)
    var position: UInt64 = 0
    // Read page by page up to here, since reading a larger piece failed.
    var isSlowTo: UInt64 = 0
    while position < byteCount {
      let isSlow = position < isSlowTo
      let count = isSlow ? Int(page) : piece.count
      do throws(LogStoreError) {
        let read = try read(into: UnsafeMutableRawBufferPointer(rebasing: piece[..<count]), at: position)
        if read < count, position + UInt64(read) < byteCount {
          let end = position + UInt64(read)
          ranges.append((end..<byteCount, "can't be read: the file was cut to \(end) bytes while it was read"))
          break
        }
        position += UInt64(count)
      } catch .unreadable(let damage) {
        guard isSlow else {
          isSlowTo = position + UInt64(piece.count)
          continue
        }
        let end = min(position + page, byteCount)
        if let last = ranges.last, last.range.upperBound == position, last.reason == damage.reason {
          ranges[ranges.count - 1].range = last.range.lowerBound..<end
        } else {
          ranges.append((position..<end, damage.reason))
        }
        position = end
      }
    }
    return ranges
  }

  /// Up to `count` bytes; fewer at the end of the file.
  func read(count: Int, at position: UInt64) throws(LogStoreError) -> [UInt8] {
    var failure: LogStoreError?
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      do throws(LogStoreError) {
        initialized = try self.read(into: UnsafeMutableRawBufferPointer(buffer), at: position)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return bytes
  }
}
