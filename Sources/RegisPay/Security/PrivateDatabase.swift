import Foundation

/// Makes the files of an SQLite database private to this process's user: the database holds secrets, or data that they protect.
///
/// Another user's process may have opened a file while it was readable (an earlier version, a umask, a restored copy), and changing
/// the mode does not close it there. Such a process could hold SQLite's locks for ever, and no start would succeed. If it holds a lock
/// that counts, a copy that it does not have open replaces the file.
///
/// All calls block for the disk.
enum PrivateDatabase {
  typealias Failure = PrivateFiles.Failure

  /// Creates the database's file if it is missing: SQLite would let others read it, and gives its mode to the files beside it. Makes
  /// existing files private. Call it before SQLite opens the file, in the only process that does.
  static func make(_ path: String) throws(Failure) {
    try PrivateFiles.makeFile(path, tightens: true)
    // SQLite rebuilds it from the write-ahead log.
    let index = path + "-shm"
    if isOpenToOthers(index), unlink(index) != 0, errno != ENOENT {
      throw Failure(operation: "can't remove", path: index, code: errno)
    }
    for file in ["-wal", "-shm", "-journal"].map({ path + $0 }) {
      guard chmod(file, 0o600) == 0 || errno == ENOENT else {
        throw Failure(operation: "can't make private", path: file, code: errno)
      }
    }
  }

  /// Like ``make(_:)``, for a database without a write-ahead log that other processes of this user may have open. If the file is open
  /// to other users and one of them holds a lock on it, a copy replaces it. A journal belongs to the name and stays valid. SQLite
  /// refuses writes to a file that lost its name, so a program that has the old file open changes nothing in it.
  static func makeShared(_ path: String) throws(Failure) {
    if isOpenToOthers(path) { try replaceIfHeld(path) }
    try make(path)
  }

  private static func isOpenToOthers(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG && status.st_mode & 0o077 != 0
  }

  private static func replaceIfHeld(_ path: String) throws(Failure) {
    let old = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
    guard old >= 0 else { throw Failure(operation: "can't open", path: path, code: errno) }
    defer { close(old) }
    guard isHeldByStranger(old) else { return }
    // This read lock keeps writers away while the file is copied; readers don't conflict. If a process is writing, the file stays,
    // and SQLite reports it as locked if that lasts.
    var lock = lockBytes(F_RDLCK)
    guard fcntl(old, F_SETLK, &lock) == 0 else { return }
    let copy = path + ".private"
    guard unlink(copy) == 0 || errno == ENOENT else {
      throw Failure(operation: "can't remove", path: copy, code: errno)
    }
    let new = open(copy, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o600)
    guard new >= 0 else { throw Failure(operation: "can't create", path: copy, code: errno) }
    defer { close(new) }
    try fill(new, from: old, path: copy)
    guard fchmod(new, 0o600) == 0, fsync(new) == 0, rename(copy, path) == 0 else {
      throw Failure(operation: "can't replace \(path) by", path: copy, code: errno)
    }
    try PrivateFiles.syncDirectory((path as NSString).deletingLastPathComponent)
  }

  /// Whether another user's process keeps this one from writing. Of several lock holders only the first is checked.
  private static func isHeldByStranger(_ descriptor: Int32) -> Bool {
    var lock = lockBytes(F_WRLCK)
    guard fcntl(descriptor, F_GETLK, &lock) == 0, lock.l_type != Int16(F_UNLCK) else { return false }
    // A process of another PID namespace, or a lock of another kind than SQLite's.
    guard lock.l_pid > 0 else { return true }
    var status = stat()
    // Without an entry in /proc the process has ended, and its lock with it.
    return stat("/proc/\(lock.l_pid)", &status) == 0 && status.st_uid != geteuid()
  }

  private static func lockBytes(_ type: Int32) -> flock {
    var lock = flock()
    (lock.l_type, lock.l_whence) = (Int16(type), Int16(SEEK_SET))
    (lock.l_start, lock.l_len) = (lockPosition, lockLength)
    return lock
  }

  private static func fill(_ new: Int32, from old: Int32, path: String) throws(Failure) {
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = read(old, &buffer, buffer.count)
      guard count >= 0 else { throw Failure(operation: "can't copy to", path: path, code: errno) }
      if count == 0 { return }
      guard write(new, buffer, count) == count else {
        throw Failure(operation: "can't write", path: path, code: errno == 0 ? ENOSPC : errno)
      }
    }
  }

  /// SQLite's lock bytes: PENDING, RESERVED and 510 of SHARED, at 1 GiB of each database (os.h, PENDING_BYTE).
  private static let lockPosition = 0x4000_0000
  private static let lockLength = 512
}
