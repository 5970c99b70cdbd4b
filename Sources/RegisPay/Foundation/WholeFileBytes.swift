import Glibc

/// Reads and writes files of any size as a whole.
///
/// All calls block for the disk. Safe to use from any thread.
enum WholeFileBytes {
  struct Failure: Error, CustomStringConvertible {
    let description: String

    fileprivate init(_ operation: String, _ path: String, _ code: Int32) {
      description = "can't \(operation) \(path): \(String(cString: strerror(code)))"
    }
  }

  static func read(_ path: String) throws(Failure) -> [UInt8] {
    // A pipe without a writer would keep the thread.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
    guard descriptor >= 0 else { throw Failure("open", path, errno) }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = Glibc.read(descriptor, &piece, piece.count)
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else { throw Failure("read", path, errno) }
      if count == 0 { return bytes }
      bytes += piece[..<count]
    }
  }

  /// Makes a file that is for this process's user alone, and returns when its content is on disk. The caller syncs its name.
  ///
  /// - Throws: also if there is something under the name.
  static func create(_ path: String, _ bytes: [UInt8]) throws(Failure) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { throw Failure("write", path, errno) }
    // Whatever the umask.
    var failure = fchmod(descriptor, 0o600) == 0 ? 0 : errno
    var rest = bytes[...]
    while failure == 0, !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 { rest.removeFirst(count) } else if errno != EINTR { failure = errno }
    }
    if failure == 0, fsync(descriptor) != 0 { failure = errno }
    // Linux closes the descriptor also when it reports an error, which is one of writing.
    if close(descriptor) != 0, failure == 0, errno != EINTR { failure = errno }
    guard failure == 0 else {
      unlink(path)
      throw Failure("write", path, failure)
    }
  }
}
