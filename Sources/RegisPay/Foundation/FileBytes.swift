import Glibc

/// Reads and writes files as a whole.
///
/// All calls block for the disk. Safe to use from any thread.
enum FileBytes {
  struct Failure: Error, CustomStringConvertible {
    let description: String

    init(description: String) { self.description = description }

    init(_ operation: String, _ path: String, _ code: Int32) {
      description = "can't \(operation) \(path): \(String(cString: strerror(code)))"
    }
  }

  /// Bytes that are read in one call.
  private static let pieceByteCount = 64 << 10

  /// The bytes of a file that is no symbolic link, of any size.
  static func read(_ path: String) throws(Failure) -> [UInt8] {
    // A pipe without a writer would keep the thread.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
    guard descriptor >= 0 else { throw Failure("open", path, errno) }
    defer { close(descriptor) }
    return try read(descriptor, path, limit: .max)
  }

  /// The bytes of an open file from where it stands, at most `limit`.
  static func read(_ descriptor: Int32, _ path: String, limit: Int) throws(Failure) -> [UInt8] {
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: pieceByteCount)
    while bytes.count < limit {
      let count = Glibc.read(descriptor, &piece, min(piece.count, limit - bytes.count))
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else { throw Failure("read", path, errno) }
      if count == 0 { break }
      bytes += piece[..<count]
    }
    return bytes
  }

  /// Makes a file that is for this process's user alone. The caller syncs its name.
  ///
  /// - Parameter syncs: returns when the content is on disk.
  /// - Throws: also if there is something under the name. There is nothing afterwards, or what was there.
  static func create(_ path: String, _ bytes: [UInt8], syncs: Bool = true) throws(Failure) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { throw Failure("write", path, errno) }
    // Whatever the umask.
    var failure = fchmod(descriptor, 0o600) == 0 ? 0 : errno
    var rest = bytes[...]
    while failure == 0, !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 { rest.removeFirst(count) } else if errno != EINTR { failure = errno }
    }
    if failure == 0, syncs, fsync(descriptor) != 0 { failure = errno }
    // Linux closes the descriptor also when it reports an error, which is one of writing.
    if close(descriptor) != 0, failure == 0, errno != EINTR { failure = errno }
    guard failure == 0 else {
      unlink(path)
      throw Failure("write", path, failure)
    }
  }
}
