import Glibc

/// In a directory where others can create files, another user may have created a name first. RealDisk writes into no file
/// of another user, and follows no link of another user.
extension RealDisk {
  func foreign(_ path: String) throws(LogStoreError) -> String? {
    guard let status = try Self.status(of: path) else { return nil }
    if status.st_mode & S_IFMT == S_IFLNK { return "it is a symbolic link" }
    return status.st_uid == geteuid() ? nil : "it belongs to another user (\(status.st_uid))"
  }

  func isSymbolicLink(_ path: String) throws(LogStoreError) -> Bool {
    try Self.status(of: path).map { $0.st_mode & S_IFMT == S_IFLNK } ?? false
  }

  /// Creates a file. Removes a file of the same name that belongs to this user or to the directory's owner.
  func create(_ path: String) throws(LogStoreError) -> Descriptor {
    var attemptsLeft = 3
    while true {
      do throws(LogStoreError) {
        return try Descriptor(
          path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: access.fileMode, operation: "create")
      } catch .inputOutput(_, _, EEXIST) where attemptsLeft > 0 {
        attemptsLeft -= 1
        guard let status = try Self.status(of: path) else { continue }
        if status.st_mode & S_IFMT == S_IFDIR { throw failure("create", path, EISDIR) }
        guard try Self.isOfUserOrDirectory(status, path) else {
          throw failure("replace what is another user's (\(status.st_uid)),", path, EPERM)
        }
        try remove(path)
      }
    }
  }

  /// As for ``create(_:)``: whether a link may be followed.
  static func mayFollow(_ path: String) throws(LogStoreError) -> Bool {
    guard let status = try Self.status(of: path) else { return true }
    return try isOfUserOrDirectory(status, path)
  }

  func refuseForeign(_ descriptor: Descriptor, _ path: String) throws(LogStoreError) {
    let status = try descriptor.status(path)
    guard status.st_uid == geteuid() else {
      throw failure("write into what is another user's (\(status.st_uid)),", path, EPERM)
    }
  }

  /// The owner of a directory can do anything in it, so the owner's files are as trusted as the directory.
  private static func isOfUserOrDirectory(_ status: stat, _ path: String) throws(LogStoreError) -> Bool {
    if status.st_uid == geteuid() { return true }
    let directory = parent(of: path)
    guard let above = fileStatus(at: directory) else { throw failure("look at", directory, errno) }
    return status.st_uid == above.st_uid
  }

  /// The status of a path, without following a link; nil if nothing is there.
  private static func status(of path: String) throws(LogStoreError) -> stat? {
    var status = stat()
    if uninterrupted({ lstat(path, &status) }) == 0 { return status }
    let code = errno
    if code == ENOENT { return nil }
    throw failure("look for", path, code)
  }
}
