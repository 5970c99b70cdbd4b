import Foundation

/// Creates directories and files that only this process's user can use, whatever the umask, and whose names survive a power cut.
///
/// All calls block for the disk. Safe to use from any thread.
enum PrivateFiles {
  /// Why an operation failed; `description` names the operation, the path and the reason.
  struct Failure: Error, Sendable, CustomStringConvertible {
    var operation: String
    var path: String
    var code: Int32

    var description: String { "\(operation) \(path): \(String(cString: strerror(code)))" }
  }

  /// Creates a directory and its missing parents. An existing one keeps its mode. All their names are on disk afterwards, including
  /// those of directories that another process created and may not have synced.
  ///
  /// - Parameter mode: the mode of new directories.
  static func makeDirectory(_ path: String, mode: mode_t = 0o700) throws(Failure) {
    let path = URL(fileURLWithPath: path).standardizedFileURL.path
    var missing: [String] = []
    var ancestor = path
    while ancestor != "/", access(ancestor, F_OK) != 0 {
      missing.append(ancestor)
      ancestor = (ancestor as NSString).deletingLastPathComponent
    }
    for directory in missing.reversed() {
      guard mkdir(directory, mode) == 0 else {
        // Another process created it first.
        if errno == EEXIST { continue }
        throw Failure(operation: "can't create", path: directory, code: errno)
      }
      try setMode(mode, of: directory)
      try syncDirectory((directory as NSString).deletingLastPathComponent)
    }
    var status = stat()
    guard stat(path, &status) == 0 else { throw Failure(operation: "can't look at", path: path, code: errno) }
    // A file or a pipe under the name: what is made in it would fail with a reason that names neither.
    guard status.st_mode & S_IFMT == S_IFDIR else {
      throw Failure(operation: "can't use", path: path, code: ENOTDIR)
    }
    if missing.isEmpty, path != "/" {
      // The process that created it may have died before it synced the name. If the parent can't be opened, another user created the
      // directory long ago.
      do throws(Failure) {
        try syncDirectory((path as NSString).deletingLastPathComponent)
      } catch {
        guard error.code == EACCES || error.code == EROFS else { throw error }
      }
    }
  }

  /// Creates an empty file if it is missing, and syncs its name.
  ///
  /// - Parameter tightens: also makes an existing file private, for files that hold secrets.
  static func makeFile(_ path: String, tightens: Bool) throws(Failure) {
    let isNew = access(path, F_OK) != 0
    let descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw Failure(operation: "can't open", path: path, code: errno) }
    defer { close(descriptor) }
    if isNew || tightens {
      guard fchmod(descriptor, 0o600) == 0 else {
        throw Failure(operation: "can't make private", path: path, code: errno)
      }
    }
    try syncDirectory((path as NSString).deletingLastPathComponent)
  }

  static func syncDirectory(_ path: String) throws(Failure) {
    let descriptor = open(path.isEmpty ? "." : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Failure(operation: "can't open", path: path, code: errno) }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw Failure(operation: "can't sync", path: path, code: errno) }
  }

  /// Sets the mode regardless of the umask. Keeps the set-group-ID bit that a directory may inherit from its parent.
  private static func setMode(_ mode: mode_t, of path: String) throws(Failure) {
    var status = stat()
    guard stat(path, &status) == 0 else { throw Failure(operation: "can't read the mode of", path: path, code: errno) }
    guard status.st_mode & 0o777 != mode else { return }
    guard chmod(path, status.st_mode & 0o7000 | mode) == 0 else {
      throw Failure(operation: "can't set the mode of", path: path, code: errno)
    }
  }
}
