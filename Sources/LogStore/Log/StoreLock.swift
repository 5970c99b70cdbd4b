import CLinux
import Glibc

/// The lock of a store: on its lock file, and on the directory itself.
///
/// A lock file can be removed or replaced while a writer lives, and the next writer would lock the new file. The directory
/// stays the same, and so does the file `tail`, which a writer keeps open for writing.
final class StoreLock: FileLock {
  private let path: String
  private let file: any FileLock
  private let directory: any FileLock

  /// - Parameter path: the path of the directory.
  init(_ path: String, file: any FileLock, directory: any FileLock) {
    self.path = path
    self.file = file
    self.directory = directory
  }

  func release() {
    directory.release()
    file.release()
  }

  func describe(_ holder: String) throws(LogStoreError) { try file.describe(holder) }

  func check() throws(LogStoreError) {
    try wasMoved(path, "the directory") { () throws(LogStoreError) in try directory.check() }
    try wasMoved(path, "its lock file") { () throws(LogStoreError) in try file.check() }
  }
}

/// Runs a check of something that is held. If it fails, says whether the held file is gone or another one is at its path.
func wasMoved(
  _ directory: String, _ what: String, _ check: () throws(LogStoreError) -> Void
) throws(LogStoreError) {
  do throws(LogStoreError) {
    try check()
  } catch .inputOutput(_, _, let code) where code == ENOENT || code == ENOTDIR {
    throw .moved(directory: directory, reason: "\(what) is not there any more")
  } catch .inputOutput(_, _, ESTALE) {
    throw .moved(directory: directory, reason: "\(what) is another one than was opened")
  }
}

extension Disk {
  /// Takes a shared lock on a store: no writer begins while it is held. Returns nil if there is a writer.
  ///
  /// - Throws: also if there is no lock file (`ENOENT`) and no writer.
  func lockFromWriters(_ directory: String) throws(LogStoreError) -> (any FileLock)? {
    let file: (any FileLock)?
    do throws(LogStoreError) {
      file = try lock(join(directory, FileName.lock), exclusive: false)
    } catch {
      // The lock file may have been removed while a writer runs.
      if case .inputOutput(_, _, ENOENT) = error, try lockDirectory(directory, exclusive: false) == nil { return nil }
      throw error
    }
    guard let file else { return nil }
    guard let whole = try lockDirectory(directory, exclusive: false) else {
      file.release()
      return nil
    }
    return StoreLock(directory, file: file, directory: whole)
  }
}

extension RealDisk {
  /// The errors of file systems that can't lock a directory, such as network file systems.
  private static let unsupported: Set<Int32> = [EBADF, EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP]

  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    let descriptor = try Descriptor(path, O_RDONLY | O_DIRECTORY, operation: "open directory")
    let lock = RealLock(descriptor: descriptor, path: path)
    let tail = join(path, FileName.tail)
    let isLocked: Bool
    do throws(LogStoreError) {
      isLocked = try Self.take(descriptor, path, exclusive ? LOCK_EX : LOCK_SH)
    } catch .inputOutput(_, _, let code) where Self.unsupported.contains(code) {
      // The lock file and `tail` have to suffice.
      return exclusive && Self.isOpenForWriting(tail) == true ? nil : lock
    }
    guard isLocked else {
      // Everybody with the right to read a directory can lock it, and no mode takes that right from the group of
      // `--group-access`. A writer differs from such holders by the file that it writes.
      guard LockHolders(of: descriptor.number)?.areStrangersOrEnded == true, Self.isOpenForWriting(tail) == false else {
        return nil
      }
      return lock
    }
    // A writer that began while strangers held the directory has no lock on it.
    if exclusive, Self.isOpenForWriting(tail) == true {
      lock.release()
      return nil
    }
    return lock
  }

  /// Whether any process has a file open for writing, which strangers can't have; nil if unknown.
  private static func isOpenForWriting(_ path: String) -> Bool? {
    let descriptor: Descriptor
    do throws(LogStoreError) {
      descriptor = try Descriptor(path, O_RDONLY, operation: "open")
    } catch {
      if case .inputOutput(_, _, ENOENT) = error { return false }
      return nil
    }
    // The lease ends with the descriptor.
    switch clinux_lease(descriptor.number) {
    case 0: return false
    case EAGAIN: return true
    default: return nil
    }
  }
}
