import Foundation
import Glibc
import LogStore

/// A file of the server's own with a few lines in it, read and written as a whole.
enum SmallFile {
  /// Far more than any of them has.
  static let byteLimit = 1 << 20

  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// The file's bytes; nil if there is none. Does not wait for anybody, whatever is there under the name.
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

  /// Replaces the file, for the owner alone. It is not synced: what it tells of is over when the machine goes down.
  static func write(_ bytes: [UInt8], to path: String) throws(Failure) {
    do {
      try Data(bytes).write(to: URL(fileURLWithPath: path), options: .atomic)
    } catch {
      throw Failure(description: "\(path) can't be written: \(error)")
    }
    // Refused, it has the mode that the umask gave it; nothing in it is secret.
    _ = chmod(path, 0o600)
  }

  private static func reason(_ operation: String, _ path: String, _ code: Int32) -> String {
    "can't \(operation) \(path): \(String(cString: strerror(code)))"
  }
}
