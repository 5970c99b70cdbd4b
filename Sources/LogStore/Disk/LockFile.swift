import CLinux
import Glibc

/// Locks on files between processes: `flock`, which ends with its last holder.
///
/// The kernel lets whoever can open a file lock it, for reading or not, and a shared lock keeps the exclusive one away. So a
/// lock file is given to those who may write it alone, mode 0600. One of an earlier version, which everybody may read, is
/// given so when it is locked; if it is held by strangers by then, another file takes its place. That is safe beside earlier
/// versions too: none of them has the file open for writing, as a writer has, which a lease proves; and whoever opens it
/// afterwards finds, before anything is changed, that it is not the one under the path any more.
extension RealDisk {
  private static let mode: mode_t = 0o600

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    if !exclusive {
      let descriptor = try openShared(path)
      return try Self.take(descriptor, path, LOCK_SH) ? RealLock(descriptor: descriptor, path: path) : nil
    }
    while true {
      let descriptor = try Descriptor(path, O_RDWR | O_CREAT, mode: Self.mode, operation: "open")
      guard try Self.take(descriptor, path, LOCK_EX) else { return nil }
      let lock = RealLock(descriptor: descriptor, path: path)
      do throws(LogStoreError) {
        // Not if another one has taken its place meanwhile.
        guard try lock.isInPlace() else { continue }
      } catch .inputOutput(_, _, ENOENT) {
        continue
      }
      try Self.tighten(lock.descriptor, path)
      return lock
    }
  }

  func holder(of path: String) -> String? {
    guard let descriptor = try? Descriptor(path, O_RDONLY, operation: "open") else { return nil }
    return LockHolders(of: descriptor.number)?.description
  }

  /// Open for writing if that is allowed: so a holder is told from one who only may read.
  private func openShared(_ path: String) throws(LogStoreError) -> Descriptor {
    do throws(LogStoreError) {
      return try Descriptor(path, O_RDWR, operation: "open")
    } catch .inputOutput(_, _, let code) where code == EACCES || code == EROFS || code == EPERM {
      // Nothing is made: without the file nobody has ever locked it.
      return try Descriptor(path, O_RDONLY, operation: "open")
    }
  }

  private static func take(_ descriptor: Descriptor, _ path: String, _ kind: Int32) throws(LogStoreError) -> Bool {
    while flock(descriptor.number, kind | LOCK_NB) != 0 {
      switch errno {
      case EINTR: continue
      case EWOULDBLOCK: return false
      case let code: throw failure("lock", path, code)
      }
    }
    return true
  }

  /// Keeps those who may not write from opening the file, and gives it to the owner where the umask did not.
  private static func tighten(_ descriptor: Descriptor, _ path: String) throws(LogStoreError) {
    var status = stat()
    if fstat(descriptor.number, &status) != 0 { throw failure("look at", path, errno) }
    guard status.st_mode & 0o677 != Self.mode else { return }
    // Who is not the owner, but may write, can't, and need not.
    if fchmod(descriptor.number, status.st_mode & 0o7700 | Self.mode) != 0, errno != EPERM, errno != EROFS {
      throw failure("set the mode of", path, errno)
    }
  }

  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)? {
    // While the lease is held, nobody opens the file for writing: they wait. It ends with the descriptor.
    guard let held = try? Descriptor(path, O_RDONLY, operation: "open"), clinux_lease(held.number) == 0,
      let holders = LockHolders(of: held.number), holders.areStrangers
    else { return nil }
    // The name is one that a writer removes, should the end of this not come to it.
    let aside = path + ".tmp"
    let descriptor = try Descriptor(aside, O_RDWR | O_CREAT | O_NOFOLLOW, mode: Self.mode, operation: "create")
    let lock = RealLock(descriptor: descriptor, path: aside)
    guard try Self.take(descriptor, aside, LOCK_EX), try lock.isInPlace(),
      try RealLock(descriptor: held, path: path).isInPlace()
    else { return nil }
    try Self.tighten(descriptor, aside)
    try rename(aside, to: path)
    return RealLock(descriptor: descriptor, path: path)
  }
}

final class RealLock: FileLock {
  let descriptor: Descriptor
  let path: String

  init(descriptor: Descriptor, path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  func release() {
    flock(descriptor.number, LOCK_UN)
  }

  func describe(_ holder: String) throws(LogStoreError) {
    let file = RealFile(descriptor: descriptor, path: path)
    try file.resize(to: 0)
    try file.write(Array(holder.utf8))
  }

  func check() throws(LogStoreError) {
    guard try isInPlace() else { throw failure("look for the lock that is held,", path, ESTALE) }
  }

  /// Whether the file under the path is the one that is locked.
  func isInPlace() throws(LogStoreError) -> Bool {
    var own = stat()
    var named = stat()
    let number = descriptor.number
    if uninterrupted({ fstat(number, &own) }) != 0 { throw failure("look at", path, errno) }
    if uninterrupted({ stat(path, &named) }) != 0 {
      throw failure("look for the lock that is held,", path, errno)
    }
    return own.st_dev == named.st_dev && own.st_ino == named.st_ino
  }
}
