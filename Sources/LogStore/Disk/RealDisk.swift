import CLinux
import Glibc

/// The machine's own disk.
struct RealDisk: Disk {
  /// The access rights of created files and directories.
  var access = StoreAccess.owner

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    let descriptor: Descriptor
    switch mode {
    case .read: descriptor = try openExisting(path, O_RDONLY)
    case .readWrite: descriptor = try openExisting(path, O_RDWR)
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

  /// A symbolic link whose target is gone is not a missing file: the name is there, and what it stood for is lost (`ENOLINK`).
  private func openExisting(_ path: String, _ flags: Int32) throws(LogStoreError) -> Descriptor {
    do throws(LogStoreError) {
      return try Descriptor(path, flags, operation: "open")
    } catch .inputOutput(let operation, let path, ENOENT) {
      throw failure(operation, path, try isSymbolicLink(path) ? ENOLINK : ENOENT)
    }
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
      // A symbolic link in a circle is there, and is no file.
      if code == ELOOP { return .other }
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

  /// Sets the mode of a created file or directory regardless of the umask, and removes rights that an emptied file had
  /// before. A directory keeps the set-group-ID bit that it inherited.
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

/// A calendar time in microseconds; 0 before 1970, and the last second of the year 9999 after that. So a wrong clock
/// crashes no process, and times computed from it do not overflow and can be printed.
func microseconds(since1970 time: timespec) -> UInt64 {
  guard time.tv_sec >= 0 else { return 0 }
  return min(UInt64(time.tv_sec), 253_402_300_799) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
}
