import CLinux
import Glibc

/// The machine's own disk.
struct RealDisk: Disk {
  /// Of what is made.
  var access = StoreAccess.owner

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    let descriptor: Descriptor
    switch mode {
    case .read: descriptor = try Descriptor(path, O_RDONLY, operation: "open")
    case .readWrite: descriptor = try Descriptor(path, O_RDWR, operation: "open")
    case .create:
      descriptor = try create(path)
      try setMode(of: descriptor, path)
    case .rewrite:
      descriptor = try Descriptor(path, O_RDWR | O_NOFOLLOW, operation: "open")
      try refuseForeign(descriptor, path)
      try RealFile(descriptor: descriptor, path: path).resize(to: 0)
      try setMode(of: descriptor, path)
    }
    return RealFile(descriptor: descriptor, path: path)
  }

  func exists(_ path: String) throws(LogStoreError) -> Bool {
    if uninterrupted({ Glibc.access(path, F_OK) }) == 0 { return true }
    let code = errno
    if code == ENOENT { return false }
    throw failure("look for", path, code)
  }

  func kind(_ path: String) throws(LogStoreError) -> FileKind? {
    guard let status = fileStatus(at: path) else {
      let code = errno
      if code == ENOENT { return nil }
      throw failure("look for", path, code)
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return .file
    case S_IFDIR: return .directory
    default: return .other
    }
  }

  func canonicalPath(_ path: String) throws(LogStoreError) -> String {
    guard let resolved = uninterrupted({ realpath(path, nil) }) else { throw failure("look for", path, errno) }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  func absolutePath(_ path: String) throws(LogStoreError) -> String {
    guard !path.isEmpty else { throw .invalidArgument("an empty path; name a directory or a file") }
    guard !path.utf8.contains(0) else {
      throw .invalidArgument(
        "the path \(path.debugDescription) has a NUL in it, behind which the system does not look; name another")
    }
    if path.utf8.first == UInt8(ascii: "/") { return path }
    guard let current = getcwd(nil, 0) else { throw failure("find the working directory for", path, errno) }
    defer { free(current) }
    return join(String(cString: current), path)
  }

  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory {
    RealLock(
      descriptor: try Descriptor(directory, O_RDONLY | O_DIRECTORY, operation: "open directory"), path: directory)
  }

  func list(_ directory: String) throws(LogStoreError) -> [String] {
    guard let stream = uninterrupted({ opendir(directory) }) else { throw failure("list", directory, errno) }
    defer { closedir(stream) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = readdir(stream) else {
        let code = errno
        if code == EINTR { continue }
        if code != 0 { throw failure("list", directory, code) }
        return names
      }
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool {
    if mkdir(path, access.directoryMode) == 0 {
      try setMode(of: try Descriptor(path, O_RDONLY | O_DIRECTORY, operation: "open directory"), path)
      return true
    }
    let code = errno
    if code == EEXIST { return false }
    throw failure("make directory", path, code)
  }

  /// Gives what was just made its mode past the umask, and takes away what a file of that name had before. A directory's
  /// set-group-ID bit, which it has from the one above, stays.
  private func setMode(of descriptor: Descriptor, _ path: String) throws(LogStoreError) {
    let status = try descriptor.status(path)
    let mode = status.st_mode & S_IFMT == S_IFDIR ? access.directoryMode : access.fileMode
    guard status.st_mode & 0o777 != mode else { return }
    if uninterrupted({ fchmod(descriptor.number, status.st_mode & 0o7000 | mode) }) != 0 {
      throw failure("set the mode of", path, errno)
    }
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    if Glibc.rename(old, new) != 0 { throw failure("rename \(old) to", new, errno) }
  }

  func remove(_ path: String) throws(LogStoreError) {
    if unlink(path) != 0 {
      let code = errno
      if code != ENOENT { throw failure("remove", path, code) }
    }
  }

  func removeDirectory(_ path: String) throws(LogStoreError) {
    if rmdir(path) != 0 {
      let code = errno
      if code != ENOENT { throw failure("remove directory", path, code) }
    }
  }

  func syncDirectory(_ path: String) throws(LogStoreError) {
    let descriptor = try Descriptor(path, O_RDONLY | O_DIRECTORY, operation: "open directory")
    if fsync(descriptor.number) != 0 { throw failure("sync directory", path, errno) }
  }

  func watch(_ path: String) throws(LogStoreError) -> any FileWatch {
    try RealWatch(path)
  }

  func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return microseconds(since1970: time)
  }

  func random() -> UInt64 { .random(in: .min ... .max) }

  func sleep(milliseconds: UInt32) {
    usleep(milliseconds * 1000)
  }

  var scheduler: (any Scheduler)? { nil }
}

/// A calendar's time; 0 before 1970, and in the last second of the year 9999 after that: a clock that is wrong ends no process,
/// and what is counted on from such a time does not overflow, and can be printed.
func microseconds(since1970 time: timespec) -> UInt64 {
  guard time.tv_sec >= 0 else { return 0 }
  return min(UInt64(time.tv_sec), 253_402_300_799) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
}

/// Calls again when a signal came between, which network file systems and FUSE let happen to any call: only for those
/// that change nothing.
func uninterrupted(_ call: () -> Int32) -> Int32 {
  while true {
    let result = call()
    if result != -1 || errno != EINTR { return result }
  }
}

/// As above, for calls that give a pointer, or null.
private func uninterrupted<Pointer>(_ call: () -> Pointer?) -> Pointer? {
  while true {
    if let result = call() { return result }
    if errno != EINTR { return nil }
  }
}

/// What the system says of an open file; nil, with `errno`, if it says nothing. A signal does not disturb it.
package func fileStatus(_ descriptor: Int32) -> stat? {
  var status = stat()
  return uninterrupted({ fstat(descriptor, &status) }) == 0 ? status : nil
}

/// As above, of what has a path; links are followed.
package func fileStatus(at path: String) -> stat? {
  var status = stat()
  return uninterrupted({ stat(path, &status) }) == 0 ? status : nil
}

func failure(_ operation: String, _ path: String, _ code: Int32) -> LogStoreError {
  code == ENOSPC || code == EDQUOT
    ? .diskFull(operation: operation, path: path)
    : .inputOutput(operation: operation, path: path, code: code)
}

/// A file descriptor, closed with its last reference.
final class Descriptor: Sendable {
  let number: Int32

  /// Refuses pipes and devices, which would hold the thread or give anything, and a directory where a file is wanted.
  ///
  /// - Parameter flags: with `O_DIRECTORY` for a directory.
  /// - Parameter mode: of a file that is made; the umask takes away from it.
  init(_ path: String, _ flags: Int32, mode: mode_t = 0o600, operation: String) throws(LogStoreError) {
    var opened: Int32
    repeat {
      // A pipe without a writer would otherwise hold the thread until one comes. A file takes no notice.
      opened = Glibc.open(path, flags | O_CLOEXEC | O_NONBLOCK, mode)
    } while opened < 0 && errno == EINTR
    let code = errno
    number = opened
    if opened < 0 {
      // A socket can't be opened, and the system says of it what it says of a disk that is gone.
      guard code == ENXIO, let status = fileStatus(at: path), status.st_mode & S_IFMT == S_IFSOCK else {
        throw failure(operation, path, code)
      }
      throw .damaged(Damage(file: path, position: 0, reason: "it is a socket, and no file; remove it"))
    }
    switch try status(path).st_mode & S_IFMT {
    case S_IFREG: break
    case S_IFDIR: if flags & O_DIRECTORY == 0 { throw failure(operation, path, EISDIR) }
    default: throw .damaged(Damage(file: path, position: 0, reason: "it is a pipe or a device, and no file; remove it"))
    }
  }

  init(adopting number: Int32) {
    self.number = number
  }

  func status(_ path: String, operation: String = "look at") throws(LogStoreError) -> stat {
    guard let status = fileStatus(number) else { throw failure(operation, path, errno) }
    return status
  }

  deinit {
    // Nothing is lost if closing fails: what must last was synced, and the descriptor is gone either way.
    if number >= 0 { close(number) }
  }
}

let pageByteCount = Int(getpagesize())

final class RealFile: File {
  let descriptor: Descriptor
  let path: String

  init(descriptor: Descriptor, path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  func byteCount() throws(LogStoreError) -> UInt64 {
    UInt64(try descriptor.status(path, operation: "get the size of").st_size)
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    try readAll(into: buffer, path, at: position) { rest, done in
      let count = pread(descriptor.number, rest.baseAddress, rest.count, off_t(position) + off_t(done))
      return count < 0 ? -Int(errno) : count
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    try writeAll(bytes, path) { rest, done in
      let count = pwrite(descriptor.number, rest.baseAddress, rest.count, off_t(position) + off_t(done))
      return count < 0 ? -Int(errno) : count
    }
  }

  func sync() throws(LogStoreError) {
    // Not even EINTR is tried again: whether the pages were marked clean meanwhile can't be known.
    if fdatasync(descriptor.number) != 0 { throw failure("sync", path, errno) }
  }

  func markInUse() {
    // A file system without such locks: then who may not lock sees no writer, and is served what is proven without one.
    _ = clinux_mark_in_use(descriptor.number)
  }

  func isInUse() throws(LogStoreError) -> Bool {
    switch clinux_is_in_use(descriptor.number) {
    case 0: return false
    case EAGAIN: return true
    case let code: throw failure("look for a lock on", path, code)
    }
  }

  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    while true {
      switch clinux_allocate(descriptor.number, byteCount) {
      case 0: return true
      case EINTR: continue
      case EOPNOTSUPP, ENOSYS: return false
      case let code: throw failure("reserve space for", path, code)
      }
    }
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {
    // A failure shows in the sync that follows.
    _ = clinux_start_writeback(descriptor.number, position, byteCount)
  }

  func pollWriteback(at position: UInt64, byteCount: UInt64, microseconds: UInt32) {
    // A kernel that can't tell leaves the waiting to the sync.
    _ = clinux_poll_writeback(descriptor.number, position, byteCount, microseconds &* 1000)
  }

  func resize(to byteCount: UInt64) throws(LogStoreError) {
    while ftruncate(descriptor.number, off_t(byteCount)) != 0 {
      let code = errno
      if code != EINTR { throw failure("resize", path, code) }
    }
  }

  func map(byteCount: Int) throws(LogStoreError) -> Mapping {
    if byteCount == 0 { return Mapping(bytes: UnsafeRawBufferPointer(start: nil, count: 0)) { _ in } }
    let identity = try FileIdentity(descriptor.number, path)
    let memory = mmap(nil, byteCount, PROT_READ, MAP_SHARED, descriptor.number, 0)
    guard let memory, memory != MAP_FAILED else { throw failure("map", path, errno) }
    guard let region = clinux_region_add(memory, UInt64(byteCount)).map(FaultRegion.init) else {
      munmap(memory, byteCount)
      throw failure("map", path, ENOMEM)
    }
    let bytes = UnsafeRawBufferPointer(start: memory, count: byteCount)
    // Proof for the address: the closures live in the mapping, and so no longer than the memory.
    let address = UInt(bitPattern: memory)
    let isRandom = SharedFlag()
    @Sendable func tell(_ range: Range<Int>, _ code: Int32) {
      let start = range.lowerBound & ~(pageByteCount - 1)
      _ = madvise(UnsafeMutableRawPointer(bitPattern: address + UInt(start)), range.upperBound - start, code)
    }
    let source = MappedFile(path: path, identity: identity)
    let faults = Mapping.Faults(region: region) { position in
      source.reason(at: position)
    } heal: {
      defer { if isRandom.isSet { tell(0..<byteCount, MADV_RANDOM) } }
      return source.heal(region)
    } isOfOtherFile: {
      source.isOther(byteCount: byteCount)
    }
    @Sendable func advise(_ advice: Mapping.Advice) {
      switch advice {
      case .randomAccess:
        isRandom.set()
        tell(0..<byteCount, MADV_RANDOM)
      case .readAhead(let range): tell(range, MADV_WILLNEED)
      case .keepReady(let range):
        tell(range, MADV_HUGEPAGE)
        tell(range, MADV_POPULATE_READ)
      }
    }
    return Mapping(bytes: bytes, advise: advise, faults: faults) { bytes in
      clinux_region_remove(region.pointer)
      munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    }
  }
}

extension RealFile {
  func checkPlace(_ path: String) throws(LogStoreError) {
    let own = try descriptor.status(path)
    guard let named = fileStatus(at: path) else {
      let code = errno
      guard code == ENOENT || code == ENOTDIR else { throw failure("look for", path, code) }
      throw .segmentLost(file: path, reason: "it is not there any more")
    }
    guard own.st_dev == named.st_dev, own.st_ino == named.st_ino else {
      throw .segmentLost(file: path, reason: "another file is in its place")
    }
  }

  func isCached(at position: UInt64, byteCount: Int) -> Bool {
    guard byteCount > 0, let size = try? self.byteCount(), position < size else { return true }
    let count = min(byteCount, Int(size - position))
    let memory = mmap(nil, count, PROT_READ, MAP_SHARED, descriptor.number, off_t(position))
    guard let memory, memory != MAP_FAILED else { return true }
    defer { munmap(memory, count) }
    var pages = [UInt8](repeating: 0, count: (count + 4095) / 4096)
    // Nothing of it is touched.
    guard mincore(memory, count, &pages) == 0 else { return true }
    return pages.contains { $0 & 1 != 0 }
  }

  func dropFromCache(at position: UInt64, byteCount: UInt64) {
    _ = posix_fadvise(descriptor.number, off_t(position), off_t(byteCount), POSIX_FADV_DONTNEED)
  }
}

/// inotify on one file, and a pipe to be interrupted through.
private final class RealWatch: FileWatch {
  private let notifications: Descriptor
  private let interruption: Descriptor
  private let interrupter: Descriptor

  init(_ path: String) throws(LogStoreError) {
    var ends: [Int32] = [-1, -1]
    if pipe(&ends) != 0 { throw failure("make a pipe for", path, errno) }
    interruption = Descriptor(adopting: ends[0])
    interrupter = Descriptor(adopting: ends[1])
    for end in ends {
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
    }
    let notifications = inotify_init1(O_CLOEXEC | O_NONBLOCK)
    if notifications < 0 { throw failure("watch (see fs.inotify.max_user_instances)", path, errno) }
    self.notifications = Descriptor(adopting: notifications)
    if inotify_add_watch(notifications, path, UInt32(IN_MODIFY)) < 0 { throw failure("watch", path, errno) }
  }

  func wait(timeoutMilliseconds: Int32) -> Bool {
    var sources = (
      pollfd(fd: notifications.number, events: Int16(POLLIN), revents: 0),
      pollfd(fd: interruption.number, events: Int16(POLLIN), revents: 0)
    )
    return withUnsafeMutableBytes(of: &sources) { bytes in
      let sources = bytes.bindMemory(to: pollfd.self)
      switch poll(sources.baseAddress, 2, timeoutMilliseconds) {
      case 0: return false
      case ..<0: return errno == EINTR || rest()
      default: break
      }
      var wasRead = false
      withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 8) { buffer in
        for source in sources where source.revents != 0 {
          if read(source.fd, buffer.baseAddress, buffer.count) > 0 { wasRead = true }
        }
      }
      // What is ready and can't be read is ready for ever.
      return wasRead || rest()
    }
  }

  /// Where the kernel does not wait for us: whoever calls looks by himself, as often as without a watch, and does not spin.
  /// False.
  private func rest() -> Bool {
    usleep(Self.restMicroseconds)
    return false
  }

  private static let restMicroseconds: UInt32 = 2000

  func interrupt() {
    // It can only fail when the pipe is full of interruptions, and then one is waiting.
    _ = Glibc.write(interrupter.number, [1], 1)
  }
}
