import Glibc

/// The operating system, as far as a store needs it. Everything that LogStore does to the outside goes through here, so
/// that a simulated disk can stand in its place and tear, drop, reorder and fail.
///
/// Every method may be called from any thread. Errors are ``LogStoreError/inputOutput(operation:path:code:)`` or
/// ``LogStoreError/diskFull(operation:path:)``, naming the operation and the path, or, for bytes that the disk can't read,
/// ``LogStoreError/unreadable(_:)``.
protocol Disk: Sendable {
  /// Opens a file that is there (`.read`, `.readWrite`), or makes an empty one (`.create`): another of the name is removed, and
  /// one that is another user's refused. `.rewrite` empties a file of this user's that is there, and stays locked.
  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File
  func exists(_ path: String) throws(LogStoreError) -> Bool
  /// What a path leads to, through symbolic links; nil if there is nothing.
  func kind(_ path: String) throws(LogStoreError) -> FileKind?
  /// Why what has a name must not be taken over: it is another user's, or a symbolic link; nil if it is this user's own, or if
  /// there is nothing. Does not follow the link.
  func foreign(_ path: String) throws(LogStoreError) -> String?
  /// The one absolute path, without symbolic links, of something that is there.
  func canonicalPath(_ path: String) throws(LogStoreError) -> String
  /// The same path, from the root on, for a process that changes its working directory later. What is no path is refused.
  func absolutePath(_ path: String) throws(LogStoreError) -> String
  /// Keeps a directory open, without a lock, so that it is seen when its path leads elsewhere.
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory
  /// The names in a directory, in no order.
  func list(_ directory: String) throws(LogStoreError) -> [String]
  /// Makes one directory; one that is there already is no error. Tells whether it was made.
  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool
  /// Replaces `new` if it is there. Durable after ``syncDirectory(_:)``.
  func rename(_ old: String, to new: String) throws(LogStoreError)
  /// A file that is not there is no error. Durable after ``syncDirectory(_:)``.
  func remove(_ path: String) throws(LogStoreError)
  /// Only an empty one; one that is not there is no error. Durable after the directory above is synced.
  func removeDirectory(_ path: String) throws(LogStoreError)
  /// Makes the names in a directory durable.
  func syncDirectory(_ path: String) throws(LogStoreError)
  /// Locks a file until the lock is released or the process dies; nil if someone else's lock forbids. For an exclusive lock
  /// the file is made if it is missing, and is from then on for those who may write it alone.
  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)?
  /// Locks the directory of a store, beside its lock file, until the lock is released or the process dies; nil if another
  /// process's lock forbids, or, for an exclusive lock, if another process writes the store. Strangers' locks don't count.
  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)?
  /// Throws if the lock under which this disk is used is not in place any more.
  func checkLock() throws(LogStoreError)
  /// Puts a new file, locked exclusively, in the place of one that only processes hold which may not write it; nil if others
  /// hold it, or if that can't be told. Looks at all processes.
  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)?
  /// Who holds a lock on a file now, in words; nil if that can't be told.
  func holder(of path: String) -> String?
  /// Wakes a thread when a file is written by any process.
  func watch(_ path: String) throws(LogStoreError) -> any FileWatch
  /// Microseconds since 1970-01-01 UTC.
  func now() -> UInt64
  /// Microseconds of a clock that only goes forwards, from some moment on.
  func monotonicMicroseconds() -> UInt64
  /// A number that nobody can foresee.
  func random() -> UInt64
  /// Blocks the thread for about so long.
  func sleep(milliseconds: UInt32)
  /// Who decides which thread runs; nil: the operating system.
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

/// An open file; closed when the last reference goes.
protocol File: AnyObject, Sendable {
  var path: String { get }
  func byteCount() throws(LogStoreError) -> UInt64
  /// Reads until the buffer is full or the file ends; returns how much it read.
  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int
  /// Writes all of it, or fails with an unknown part written.
  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError)
  /// Returns once the file's bytes and its size are on disk. After a failure nothing is known of what was written since
  /// the last success, and trying again proves nothing: the kernel may have dropped the pages.
  func sync() throws(LogStoreError)
  /// Reserves space for so many bytes, which read as zeros where nothing was written, and makes the file that long.
  /// False where the file system can't reserve.
  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool
  /// Asks the kernel to begin writing a part of the file to disk, so that a later ``sync()`` has less to wait for.
  /// Promises nothing.
  func startWriteback(at position: UInt64, byteCount: UInt64)
  /// Looks without sleeping, for at most so many microseconds, until the disk has what was begun of a part of the file: the
  /// ``sync()`` that follows then sleeps once less, and need not be woken. Promises nothing.
  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32)
  /// Lets those see who may only read the file that it is in use, until it is closed. They can't keep it from being so marked.
  func markInUse()
  /// Whether somebody else has so marked the file.
  func isInUse() throws(LogStoreError) -> Bool
  /// Cuts the file or lengthens it with zeros.
  func resize(to byteCount: UInt64) throws(LogStoreError)
  /// Maps the first bytes of the file for reading. Bytes that the disk can't read, or that the file loses later, read as
  /// zeros: see ``Mapping``.
  func map(byteCount: Int) throws(LogStoreError) -> Mapping
  /// Throws ``LogStoreError/segmentLost(file:reason:)`` if a path does not lead to this file any more: somebody has
  /// removed or replaced it.
  func checkPath(_ path: String) throws(LogStoreError)
  /// Whether some of a part of the file is in memory.
  func isCached(at position: UInt64, byteCount: Int) -> Bool
  /// Lets the kernel forget a part of the file that nobody has mapped. Promises nothing.
  func dropFromCache(at position: UInt64, byteCount: UInt64)
}

extension Disk {
  /// Where no one else can move files.
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory { UnmovedDirectory() }
  func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(LogStoreError) {
    try startThread(name, scheduler, body)
  }
  /// Where there is no working directory.
  func absolutePath(_ path: String) throws(LogStoreError) -> String { path }
  /// Where nobody can tell.
  func holder(of path: String) -> String? { nil }
  /// Where there is one user.
  func foreign(_ path: String) throws(LogStoreError) -> String? { nil }
  /// Where there is none.
  func checkLock() throws(LogStoreError) {}
  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)? { nil }
}

extension File {
  /// Where no one else can change files.
  func checkPath(_ path: String) throws(LogStoreError) {}

  // Where everybody may lock.
  func markInUse() {}
  func isInUse() throws(LogStoreError) -> Bool { false }

  /// Where nobody can tell.
  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32) {}
}

/// A held lock; released with the last reference at the latest.
protocol FileLock: AnyObject, Sendable {
  func release()
  /// Replaces the lock file's text, for whoever is refused to read.
  func describe(_ holder: String) throws(LogStoreError)
  /// Throws if the file under the lock's path is not the one that is locked any more.
  func check() throws(LogStoreError)
}

/// A directory that is kept open. Its inode is not used for another one meanwhile.
protocol HeldDirectory: AnyObject, Sendable {
  /// Throws if its path does not lead to it any more.
  func check() throws(LogStoreError)
}

private final class UnmovedDirectory: HeldDirectory {
  func check() throws(LogStoreError) {}
}

extension FileLock {
  /// Where no one else can move files.
  func check() throws(LogStoreError) {}
}

/// Waits for another process to write a file.
protocol FileWatch: AnyObject, Sendable {
  /// Blocks until the file was written since the last call, ``interrupt()`` was called, or the time is over. False in the
  /// last case.
  func wait(timeoutMilliseconds: Int32) -> Bool
  /// Ends one present or coming wait.
  func interrupt()
}

/// Joins a directory's path and a name in it.
func join(_ directory: String, _ name: String) -> String {
  directory.hasSuffix("/") ? directory + name : directory + "/" + name
}

/// The directory that a path is in.
func parent(of path: String) -> String {
  var path = path[...]
  while path.count > 1, path.last == "/" { path.removeLast() }
  guard let slash = path.lastIndex(of: "/") else { return "." }
  return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// The last part of a path.
func fileName(of path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

extension Disk {
  /// Makes a directory and the ones above it that are missing, and makes all of their names durable: also of those that
  /// are there already, since whoever made them may have died before that.
  func makeDirectories(_ path: String) throws(LogStoreError) {
    let above = parent(of: path)
    if above != path, above != "." { try makeDirectories(above) }
    var isNew = false
    if try !exists(path) { isNew = try makeDirectory(path) }
    do throws(LogStoreError) {
      if above != path { try syncDirectory(above) }
    } catch .inputOutput(_, _, let code) where !isNew && (code == EACCES || code == EROFS) {
      // A directory that is not ours to open was not made by us either.
    }
  }

  /// As ``canonicalPath(_:)``, also for what is not there yet.
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

  /// All of a small file; nil if it is not there.
  func contents(_ path: String, limit: Int) throws(LogStoreError) -> [UInt8]? {
    let file: any File
    do throws(LogStoreError) {
      file = try open(path, .read)
    } catch .inputOutput(_, _, ENOENT) {
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
    // A closure of `withUnsafeBytes` can't throw a typed error of ours before it is one, hence the result.
    let result = bytes.withUnsafeBytes { buffer in
      Result { () throws(LogStoreError) in try self.write(buffer, at: position) }
    }
    try result.get()
  }

  /// Overwrites from one position to before another, if that is greater.
  func writeZeros(from start: Int, to end: Int) throws(LogStoreError) {
    let zeros = [UInt8](repeating: 0, count: min(max(end - start, 0), 1 << 20))
    var position = start
    while position < end {
      let count = min(zeros.count, end - position)
      try write(count == zeros.count ? zeros : Array(zeros[..<count]), at: UInt64(position))
      position += count
    }
  }

  /// Every part of the file that the disk can't read, in order, by whole pages; the part that it should have, and has not,
  /// among them.
  ///
  /// - Parameter byteCount: how long the file should be.
  func unreadableRanges(byteCount: UInt64) throws(LogStoreError) -> [(range: Range<UInt64>, reason: String)] {
    var ranges: [(range: Range<UInt64>, reason: String)] = []
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { piece.deallocate() }
    let page = UInt64(pageByteCount)
    var position: UInt64 = 0
    // Page by page to here, since all at once could not be read.
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

  /// Up to `count` bytes; fewer where the file ends.
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
