import Glibc
import LogStore

/// A file with a few lines in it, read and written as a whole.
enum SmallFile {
  /// Far more than any of them has.
  static let byteLimit = 1 << 20

  typealias Failure = FileBytes.Failure

  /// The bytes of a file of the server's own; nil if there is none. Does not wait for anybody, whatever is there under the name.
  ///
  /// - Throws: for what is no file, or has more than ``byteLimit`` bytes.
  static func read(_ path: String) throws(Failure) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
    if descriptor < 0, errno == ENOENT { return nil }
    return try read(descriptor, path, noFile: "; remove it", tooLarge: "which the server never wrote; remove it")
  }

  /// The bytes of a file that somebody names, also through a symbolic link. Does not wait for anybody, whatever is there under the
  /// name.
  ///
  /// - Throws: if there is none, for what is no file, or has more than ``byteLimit`` bytes.
  static func readNamed(_ path: String) throws(Failure) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    return try read(descriptor, path, noFile: "", tooLarge: "and at most \(byteLimit) are read")
  }

  /// - Parameter descriptor: opened without waiting, since a pipe without a writer would keep the thread; less than 0 if that failed.
  private static func read(
    _ descriptor: Int32, _ path: String, noFile: String, tooLarge: String
  ) throws(Failure) -> [UInt8] {
    guard descriptor >= 0 else { throw Failure("open", path, errno) }
    defer { close(descriptor) }
    guard let status = fileStatus(descriptor) else { throw Failure("look at", path, errno) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw Failure(description: "\(path) is no file\(noFile)") }
    guard status.st_size <= byteLimit else {
      throw Failure(description: "\(path) has \(status.st_size) bytes, \(tooLarge)")
    }
    return try FileBytes.read(descriptor, path, limit: byteLimit)
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
    try FileBytes.create(temporary, bytes, syncs: syncs)
    guard rename(temporary, path) == 0 else {
      let code = errno
      unlink(temporary)
      throw Failure("write", path, code)
    }
  }
}
