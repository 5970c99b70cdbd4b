/// The disk of a writer that holds the lock on a directory. Before it changes a name there, it checks that the lock is
/// still the one at its path.
///
/// A directory that is moved away takes the lock along, and another writer may hold a new lock at the old path. What the
/// first writer does by path would then change the other's files. What it writes to its open files goes where they went. A
/// directory can also be moved in the moment between the check and the change. Then only a name is changed that a new
/// writer does not use yet, since it has to lock first and to read what is there.
struct LockedDisk: Disk {
  let disk: any Disk
  let lock: any FileLock

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    if mode == .create || mode == .rewrite { try lock.check() }
    let file = try disk.open(path, mode)
    // A file that is written must be in the locked directory.
    if mode != .read { try lock.check() }
    return file
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    try lock.check()
    try disk.rename(old, to: new)
  }

  func remove(_ path: String) throws(LogStoreError) {
    try lock.check()
    try disk.remove(path)
  }

  func removeDirectory(_ path: String) throws(LogStoreError) {
    try lock.check()
    try disk.removeDirectory(path)
  }

  func syncDirectory(_ path: String) throws(LogStoreError) {
    // Checks again after the change: what was renamed in another directory must not be acknowledged here.
    try disk.syncDirectory(path)
    try lock.check()
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool { try disk.makeDirectory(path) }
  func exists(_ path: String) throws(LogStoreError) -> Bool { try disk.exists(path) }
  func kind(_ path: String) throws(LogStoreError) -> FileKind? { try disk.kind(path) }
  func foreign(_ path: String) throws(LogStoreError) -> String? { try disk.foreign(path) }
  func canonicalPath(_ path: String) throws(LogStoreError) -> String { try disk.canonicalPath(path) }
  func absolutePath(_ path: String) throws(LogStoreError) -> String { try disk.absolutePath(path) }
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory { try disk.hold(directory) }
  func list(_ directory: String) throws(LogStoreError) -> [String] { try disk.list(directory) }
  func watch(_ path: String) throws(LogStoreError) -> any FileWatch { try disk.watch(path) }
  func now() -> UInt64 { disk.now() }
  func monotonicMicroseconds() -> UInt64 { disk.monotonicMicroseconds() }
  func random() -> UInt64 { disk.random() }
  func sleep(milliseconds: UInt32) { disk.sleep(milliseconds: milliseconds) }
  var scheduler: (any Scheduler)? { disk.scheduler }
  func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(LogStoreError) {
    try disk.onThread(name, body)
  }

  func holder(of path: String) -> String? { disk.holder(of: path) }

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try disk.lock(path, exclusive: exclusive)
  }

  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try disk.lockDirectory(path, exclusive: exclusive)
  }

  func checkLock() throws(LogStoreError) { try lock.check() }
}
