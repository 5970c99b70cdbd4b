import Glibc

/// Repeats a call that a signal has interrupted, which can happen to any call on network file systems and FUSE. Only for
/// calls that change nothing.
func uninterrupted(_ call: () -> Int32) -> Int32 {
  while true {
    let result = call()
    if result != -1 || errno != EINTR { return result }
  }
}

/// As above, for calls that return a pointer or null.
func uninterrupted<Pointer>(_ call: () -> Pointer?) -> Pointer? {
  while true {
    if let result = call() { return result }
    if errno != EINTR { return nil }
  }
}

/// The status of an open file; nil, with `errno` set, on failure. Repeats the call after a signal.
package func fileStatus(_ descriptor: Int32) -> stat? {
  var status = stat()
  return uninterrupted({ fstat(descriptor, &status) }) == 0 ? status : nil
}

/// As above, for a path. Follows links.
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

  /// Refuses pipes and devices, which would block the thread or return anything, and a directory where a file is wanted.
  ///
  /// - Parameter flags: include `O_DIRECTORY` for a directory.
  /// - Parameter mode: the mode of a created file, reduced by the umask.
  init(_ path: String, _ flags: Int32, mode: mode_t = 0o600, operation: String) throws(LogStoreError) {
    var opened: Int32
    repeat {
      // Non-blocking, since opening a pipe without a writer would otherwise block until one comes. It has no effect on a
      // file.
      opened = Glibc.open(path, flags | O_CLOEXEC | O_NONBLOCK, mode)
    } while opened < 0 && errno == EINTR
    let code = errno
    number = opened
    if opened < 0 {
      // A socket can't be opened, and the system reports the same code as for a disk that is gone.
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
    // A failure to close loses nothing: what must last was synced, and the descriptor is gone either way.
    if number >= 0 { close(number) }
  }
}
