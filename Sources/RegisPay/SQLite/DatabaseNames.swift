import Glibc
import LogStore
import Synchronization

/// The names of an open SQLite database. SQLite does not notice when a file's name is removed or given to another file: it goes
/// on in the old one, and what it writes there is gone when the process ends.
///
/// Safe to use from any task. A check makes two system calls.
final class DatabaseNames: Sendable {
  private struct Identity: Hashable {
    var device: dev_t
    var inode: ino_t

    init?(_ path: String) {
      guard let status = fileStatus(at: path) else { return nil }
      (device, inode) = (status.st_dev, status.st_ino)
    }
  }

  private let path: String
  private let file: Identity?
  /// The write-ahead log, which is there from the first write to the end of the last connection.
  private let log: Mutex<Identity?>

  /// - Parameter path: of a database that was just opened.
  init(_ path: String) {
    self.path = path
    file = Identity(path)
    log = Mutex(Identity(path + "-wal"))
  }

  /// What is wrong; nil while the names lead to the open files.
  func problem() -> String? {
    guard Identity(path) == file else { return reason(path) }
    let found = Identity(path + "-wal")
    let isSame = log.withLock { log in
      if log == nil { log = found }
      return log == found
    }
    return isSame ? nil : reason(path + "-wal")
  }

  private func reason(_ path: String) -> String {
    let what = Identity(path) == nil ? "is not there any more" : "was replaced by another file"
    return
      "\(path) \(what) while the server runs, and nothing more is written: put the old file back, or restart the server"
  }
}
