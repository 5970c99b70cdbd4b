import Foundation

/// Directories and files that nobody but this process's user may use, whatever the umask, and whose names a power cut does
/// not take away.
///
/// All calls block for the disk. Safe to use from any thread.
enum PrivateFiles {
  /// Why one can't be made; `description` names operation, path and reason.
  struct Failure: Error, Sendable, CustomStringConvertible {
    var operation: String
    var path: String
    var code: Int32

    var description: String { "\(operation) \(path): \(String(cString: strerror(code)))" }
  }

  /// Makes a directory and those above it that are missing. One that is there keeps its mode. All their names are on disk
  /// afterwards, those of directories that somebody else made, and may not have synced, too.
  ///
  /// - Parameter mode: of what is made.
  static func makeDirectory(_ path: String, mode: mode_t = 0o700) throws(Failure) {
    let path = URL(fileURLWithPath: path).standardizedFileURL.path
    var missing: [String] = []
    var place = path
    while place != "/", access(place, F_OK) != 0 {
      missing.append(place)
      place = (place as NSString).deletingLastPathComponent
    }
    for directory in missing.reversed() {
      guard mkdir(directory, mode) == 0 else {
        // Another process was first.
        if errno == EEXIST { continue }
        throw Failure(operation: "can't make", path: directory, code: errno)
      }
      try setMode(mode, of: directory)
      try syncDirectory((directory as NSString).deletingLastPathComponent)
    }
    if missing.isEmpty, path != "/" {
      // Whoever made it may have died before this. Where it may not be opened it was made by somebody else, long ago.
      do throws(Failure) {
        try syncDirectory((path as NSString).deletingLastPathComponent)
      } catch {
        guard error.code == EACCES || error.code == EROFS else { throw error }
      }
    }
  }

  /// Makes an empty file, if there is none, and puts its name on disk.
  ///
  /// - Parameter tightens: takes rights of others away from a file that is there: for what holds secrets.
  static func makeFile(_ path: String, tightens: Bool) throws(Failure) {
    let isNew = access(path, F_OK) != 0
    let descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw Failure(operation: "can't open", path: path, code: errno) }
    defer { close(descriptor) }
    if isNew || tightens {
      guard fchmod(descriptor, 0o600) == 0 else {
        throw Failure(operation: "can't take from others", path: path, code: errno)
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

  /// Past the umask; a directory's set-group-ID bit, which it may have from the one above, stays.
  private static func setMode(_ mode: mode_t, of path: String) throws(Failure) {
    var status = stat()
    guard stat(path, &status) == 0 else { throw Failure(operation: "can't look at", path: path, code: errno) }
    guard status.st_mode & 0o777 != mode else { return }
    guard chmod(path, status.st_mode & 0o7000 | mode) == 0 else {
      throw Failure(operation: "can't set the mode of", path: path, code: errno)
    }
  }
}
