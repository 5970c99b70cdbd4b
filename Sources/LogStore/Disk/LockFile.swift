import CLinux
import Glibc

/// Locks on files between processes: `flock`, which the last holder releases.
///
/// The kernel lets everyone who can open a file lock it, for reading or not, and a shared lock excludes the exclusive one.
/// So a lock file has mode 0600, and only its owner opens it. A lock file of an earlier version, which everybody may read,
/// gets that mode before it is locked. If strangers hold it by then, another file replaces it. That is safe beside earlier
/// versions too: none of them has the file open for writing, as a writer has, which a lease proves; and a process that
/// opens it afterwards finds, before it changes anything, that the file is not the one at the path any more.
extension RealDisk {
  private static let mode: mode_t = 0o600

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    do throws(LogStoreError) {
      return exclusive ? try lockExclusively(path) : try lockShared(path)
    } catch .inputOutput(_, _, EAGAIN) {
      // Another process replaces the file, and keeps others from opening it meanwhile.
      return nil
    }
  }

  private func lockExclusively(_ path: String) throws(LogStoreError) -> (any FileLock)? {
    while true {
      let descriptor = try openExclusive(path)
      // First of all, so that even a refused start leaves a file that no stranger can open from now on.
      try Self.tighten(descriptor, path)
      guard try Self.take(descriptor, path, LOCK_EX) else { return nil }
      let lock = RealLock(descriptor: descriptor, path: path)
      do throws(LogStoreError) {
        // Not if another file has replaced it meanwhile.
        if try lock.isInPlace() { return lock }
      } catch .inputOutput(_, _, ENOENT) {
        continue
      }
    }
  }

  private func openExclusive(_ path: String) throws(LogStoreError) -> Descriptor {
    do throws(LogStoreError) {
      return try Descriptor(path, O_RDWR | O_CREAT | O_NOFOLLOW, mode: Self.mode, operation: "open")
    } catch {
      guard case .inputOutput(_, _, ELOOP) = error, try Self.mayFollow(path) else { throw error }
      return try Descriptor(path, O_RDWR | O_CREAT, mode: Self.mode, operation: "open")
    }
  }

  private func lockShared(_ path: String) throws(LogStoreError) -> (any FileLock)? {
    if let lock = try takeShared(path) { return lock }
    do throws(LogStoreError) {
      // A stranger can hold it exclusively, too, and would be taken for a writer.
      guard let lock = try replaceFromStrangers(path) else { return nil }
      return try Self.take(lock.descriptor, path, LOCK_SH) ? lock : nil
    } catch .inputOutput(_, _, let code) where code == EACCES || code == EROFS || code == EPERM {
      // A process without the right to replace the file can't decide that either.
      return nil
    }
  }

  func holder(of path: String) -> String? {
    // The words are only for the refusal, which is valid without them.
    let flags = (try? kind(path)) == .directory ? O_RDONLY | O_DIRECTORY : O_RDONLY
    guard let descriptor = try? Descriptor(path, flags, operation: "open") else { return nil }
    return LockHolders(of: descriptor.number)?.description
  }

  /// Closes the descriptor on return if it got no lock: open for writing, it would prevent the lease.
  private func takeShared(_ path: String) throws(LogStoreError) -> RealLock? {
    let descriptor = try openShared(path)
    return try Self.take(descriptor, path, LOCK_SH) ? RealLock(descriptor: descriptor, path: path) : nil
  }

  /// Opens for writing if that is allowed. This distinguishes a holder from one who may only read.
  private func openShared(_ path: String) throws(LogStoreError) -> Descriptor {
    do throws(LogStoreError) {
      return try Descriptor(path, O_RDWR, operation: "open")
    } catch .inputOutput(_, _, let code) where code == EACCES || code == EROFS || code == EPERM {
      // Creates nothing: without the file nobody has ever locked it.
      return try Descriptor(path, O_RDONLY, operation: "open")
    }
  }

  static func take(_ descriptor: Descriptor, _ path: String, _ kind: Int32) throws(LogStoreError) -> Bool {
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
    let status = try descriptor.status(path)
    guard status.st_mode & 0o677 != Self.mode else { return }
    // A process that may write the file but is not its owner can't change the mode, and need not.
    let mode = status.st_mode & 0o7700 | Self.mode
    if uninterrupted({ fchmod(descriptor.number, mode) }) != 0, errno != EPERM, errno != EROFS {
      throw failure("set the mode of", path, errno)
    }
  }

  func lockFromStrangers(_ path: String) throws(LogStoreError) -> (any FileLock)? { try replaceFromStrangers(path) }

  private func replaceFromStrangers(_ path: String) throws(LogStoreError) -> RealLock? {
    // While the lease is held, nobody opens the file for writing. The lease ends with the descriptor. Without the right to
    // open the file the holders are unknown, and nothing is taken from them.
    guard let held = try? Descriptor(path, O_RDONLY, operation: "open"), clinux_lease(held.number) == 0,
      let holders = LockHolders(of: held.number), holders.areStrangers
    else { return nil }
    // A writer removes a file with this name, if this process dies here.
    let aside = path + ".tmp"
    let descriptor = try Descriptor(aside, O_RDWR | O_CREAT | O_NOFOLLOW, mode: Self.mode, operation: "create")
    try refuseForeign(descriptor, aside)
    let lock = RealLock(descriptor: descriptor, path: aside)
    guard try Self.take(descriptor, aside, LOCK_EX), try lock.isInPlace(),
      try RealLock(descriptor: held, path: path).isInPlace()
    else { return nil }
    try Self.tighten(descriptor, aside)
    try rename(aside, to: path)
    return RealLock(descriptor: descriptor, path: path)
  }
}

final class RealLock: FileLock, HeldDirectory {
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

  /// Whether the file at the path is the locked one.
  func isInPlace() throws(LogStoreError) -> Bool {
    let own = try descriptor.status(path)
    guard let named = fileStatus(at: path) else {
      throw failure("look for the lock that is held,", path, errno)
    }
    return own.st_dev == named.st_dev && own.st_ino == named.st_ino
  }
}
