@testable import LogStore

/// The machine's own disk, with calls that a test can replace.
protocol RealDiskDouble: Disk {
  var real: RealDisk { get }
}

extension RealDiskDouble {
  var scheduler: (any Scheduler)? { nil }
  func now() -> UInt64 { real.now() }
  func random() -> UInt64 { real.random() }
  func sleep(milliseconds: UInt32) { real.sleep(milliseconds: milliseconds) }

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File { try real.open(path, mode) }
  func exists(_ path: String) throws(LogStoreError) -> Bool { try real.exists(path) }
  func kind(_ path: String) throws(LogStoreError) -> FileKind? { try real.kind(path) }
  func canonicalPath(_ path: String) throws(LogStoreError) -> String { try real.canonicalPath(path) }
  func list(_ directory: String) throws(LogStoreError) -> [String] { try real.list(directory) }
  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool { try real.makeDirectory(path) }
  func rename(_ old: String, to new: String) throws(LogStoreError) { try real.rename(old, to: new) }
  func remove(_ path: String) throws(LogStoreError) { try real.remove(path) }
  func removeDirectory(_ path: String) throws(LogStoreError) { try real.removeDirectory(path) }
  func syncDirectory(_ path: String) throws(LogStoreError) { try real.syncDirectory(path) }
  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try real.lock(path, exclusive: exclusive)
  }
  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try real.lockDirectory(path, exclusive: exclusive)
  }
  func hold(_ directory: String) throws(LogStoreError) -> any HeldDirectory { try real.hold(directory) }
  func watch(_ path: String) throws(LogStoreError) -> any FileWatch { try real.watch(path) }
}

/// A disk with a clock that stands still: what happens at intervals happens once.
struct TimelessDisk: RealDiskDouble {
  let real = RealDisk()
  private let time: UInt64

  init() { time = real.now() }

  func now() -> UInt64 { time }
}
