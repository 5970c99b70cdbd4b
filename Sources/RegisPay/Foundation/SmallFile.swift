import Glibc
import LogStore

/// A file with a few lines in it, read and written as a whole.
enum SmallFile {
  /// Far more than any of them has.
  static let byteLimit = 1 << 20

  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// The bytes of a file of the server's own; nil if there is none. Does not wait for anybody, whatever is there under the name.
  ///
  /// - Throws: for what is no file, or has more than ``byteLimit`` bytes.
  static func read(_ path: String) throws(Failure) -> [UInt8]? {
    // A pipe without a writer would keep the thread.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
    guard descriptor >= 0 else {
      if errno == ENOENT { return nil }
      throw Failure(description: reason("open", path, errno))
    }
    defer { close(descriptor) }
    guard let status = fileStatus(descriptor) else { throw Failure(description: reason("look at", path, errno)) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw Failure(description: "\(path) is no file; remove it") }
    guard status.st_size <= byteLimit else {
      throw Failure(description: "\(path) has \(status.st_size) bytes, which the server never wrote; remove it")
    }
    return try read(descriptor, path)
  }

  /// The bytes of a file that somebody names, also through a symbolic link. Does not wait for anybody, whatever is there under the
  /// name.
  ///
  /// - Throws: if there is none, for what is no file, or has more than ``byteLimit`` bytes.
  static func readNamed(_ path: String) throws(Failure) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw Failure(description: reason("open", path, errno)) }
    defer { close(descriptor) }
    guard let status = fileStatus(descriptor) else { throw Failure(description: reason("look at", path, errno)) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw Failure(description: "\(path) is no file") }
    guard status.st_size <= byteLimit else {
      throw Failure(description: "\(path) has \(status.st_size) bytes, and at most \(byteLimit) are read")
    }
    return try read(descriptor, path)
  }

  private static func read(_ descriptor: Int32, _ path: String) throws(Failure) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteLimit)
    var count = 0
    while count < byteLimit {
      let found = bytes.withUnsafeMutableBytes {
        Glibc.read(descriptor, $0.baseAddress.map { $0 + count }, byteLimit - count)
      }
      if found < 0, errno == EINTR { continue }
      guard found >= 0 else { throw Failure(description: reason("read", path, errno)) }
      if found == 0 { break }
      count += found
    }
    return Array(bytes.prefix(count))
  }

  /// Replaces the file as a whole; the new one is for the owner alone. Two writers of one file must take
  /// turns.
  ///
  /// - Parameter syncs: whether the file has the old or the new bytes after a power cut. Not needed if what it tells of is over when
  ///   the machine goes down.
  static func write(_ bytes: [UInt8], to path: String, syncs: Bool = false) throws(Failure) {
    let temporary = path + ".new"
    // What an interrupted write left; if it can't be removed, the next line says why.
    unlink(temporary)
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { throw Failure(description: reason("write", path, errno)) }
    var rest = bytes[...]
    // Whatever the umask.
    var failure = fchmod(descriptor, 0o600) == 0 ? 0 : errno
    while failure == 0, !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 { rest.removeFirst(count) } else if errno != EINTR { failure = errno }
    }
    if failure == 0, syncs, fsync(descriptor) != 0 { failure = errno }
    // Linux closes the descriptor also when it reports an error, which is one of writing.
    if close(descriptor) != 0, failure == 0, errno != EINTR { failure = errno }
    if failure == 0, rename(temporary, path) != 0 { failure = errno }
    guard failure == 0 else {
      unlink(temporary)
      throw Failure(description: reason("write", path, failure))
    }
  }

  private static func reason(_ operation: String, _ path: String, _ code: Int32) -> String {
    "can't \(operation) \(path): \(String(cString: strerror(code)))"
  }
}
