import CLinux
import Glibc
import Synchronization

/// Files without a disk: each is anonymous memory of the system (memfd_create(2)), which is read, written and
/// mapped as a file is. One process uses it, and nothing outlives it.
final class MemoryDisk: Disk {
  private struct State {
    var files: [String: Descriptor] = [:]
    var directories: Set<String> = ["/"]
    var locked: Set<String> = []
  }

  private let state = Mutex(State())

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    if mode == .create || mode == .rewrite {
      let created = try Self.makeFile(path)
      state.withLock { $0.files[path] = created }
      return MemoryFile(created, path, self)
    }
    guard let descriptor = descriptor(of: path) else { throw failure("open", path, ENOENT) }
    return MemoryFile(descriptor, path, self)
  }

  private static func makeFile(_ path: String) throws(LogStoreError) -> Descriptor {
    let number = clinux_memory_file()
    guard number >= 0 else { throw failure("create in memory", path, errno) }
    return Descriptor(adopting: number)
  }

  fileprivate func descriptor(of path: String) -> Descriptor? { state.withLock { $0.files[path] } }

  func exists(_ path: String) throws(LogStoreError) -> Bool { try kind(path) != nil }

  func kind(_ path: String) throws(LogStoreError) -> FileKind? {
    state.withLock { $0.files[path] != nil ? .file : $0.directories.contains(path) ? .directory : nil }
  }

  func canonicalPath(_ path: String) throws(LogStoreError) -> String { path }

  func list(_ directory: String) throws(LogStoreError) -> [String] {
    state.withLock { $0.files.keys.filter { parent(of: $0) == directory }.map { fileName(of: $0) } }
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool {
    state.withLock { $0.directories.insert(path).inserted }
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    let wasThere = state.withLock { state in
      guard let file = state.files.removeValue(forKey: old) else { return false }
      state.files[new] = file
      return true
    }
    guard wasThere else { throw failure("rename \(old) to", new, ENOENT) }
  }

  func remove(_ path: String) throws(LogStoreError) { state.withLock { $0.files[path] = nil } }
  func removeDirectory(_ path: String) throws(LogStoreError) { state.withLock { _ = $0.directories.remove(path) } }
  func syncDirectory(_ path: String) throws(LogStoreError) {}

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    let created = exclusive && descriptor(of: path) == nil ? try Self.makeFile(path) : nil
    let isFree = state.withLock { state in
      if let created { state.files[path] = created }
      return state.locked.insert(path).inserted
    }
    return isFree ? MemoryLock { [self] in state.withLock { _ = $0.locked.remove(path) } } : nil
  }

  /// The lock file suffices: nobody else can remove it.
  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? { MemoryLock {} }

  func watch(_ path: String) throws(LogStoreError) -> any FileWatch {
    guard let descriptor = descriptor(of: path) else { throw failure("watch", path, ENOENT) }
    return try RealWatch("/proc/self/fd/\(descriptor.number)")
  }

  func now() -> UInt64 { RealDisk().now() }
  func random() -> UInt64 { RealDisk().random() }
  func sleep(milliseconds: UInt32) { RealDisk().sleep(milliseconds: milliseconds) }
  var scheduler: (any Scheduler)? { nil }
}

/// A file of a ``MemoryDisk``.
private final class MemoryFile: File {
  private let descriptor: Descriptor
  private let file: RealFile
  private let disk: MemoryDisk
  let path: String

  init(_ descriptor: Descriptor, _ path: String, _ disk: MemoryDisk) {
    self.descriptor = descriptor
    self.path = path
    self.disk = disk
    file = RealFile(descriptor: descriptor, path: path)
  }

  func byteCount() throws(LogStoreError) -> UInt64 { try file.byteCount() }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    try file.read(into: buffer, at: position)
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    try file.write(bytes, at: position)
  }

  func sync() throws(LogStoreError) {}

  /// Memory is taken when it is written: a segment that is mostly empty takes little.
  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    if try file.byteCount() < byteCount { try file.resize(to: byteCount) }
    return true
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {}
  func resize(to byteCount: UInt64) throws(LogStoreError) { try file.resize(to: byteCount) }
  func map(byteCount: Int) throws(LogStoreError) -> Mapping { try file.map(byteCount: byteCount) }

  func checkPath(_ path: String) throws(LogStoreError) {
    guard disk.descriptor(of: path) === descriptor else {
      throw .segmentLost(file: path, reason: "it is not there any more")
    }
  }
}

private final class MemoryLock: FileLock {
  private let isHeld = Atomic(true)
  private let unlock: @Sendable () -> Void

  init(_ unlock: @escaping @Sendable () -> Void) { self.unlock = unlock }

  deinit { release() }

  func release() {
    if isHeld.exchange(false, ordering: .relaxed) { unlock() }
  }

  func describe(_ holder: String) throws(LogStoreError) {}
}
