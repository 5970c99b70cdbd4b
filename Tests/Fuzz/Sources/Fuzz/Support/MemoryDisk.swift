import Glibc
import Synchronization

@testable import LogStore

/// Files in guarded memory, for one input: quick to make, and a mapping of one reaches to its last byte and not further.
final class MemoryDisk: Disk {
  struct State {
    var files: [String: GuardedMemory] = [:]
    var directories: Set<String> = []
    var locked: Set<String> = []
    /// How many more looks with a shared lock find a living writer.
    var looksAtWriter = 0
    var clock: UInt64 = 1_700_000_000_000_000
  }

  let state: Mutex<State>
  /// What a watch of a file calls instead of waiting, if anything; false ends the wait as a time-out.
  let onWait: (@Sendable () -> Bool)?

  init(files: [String: GuardedMemory] = [:], directories: Set<String> = [], onWait: (@Sendable () -> Bool)? = nil) {
    state = Mutex(State(files: files, directories: directories))
    self.onWait = onWait
  }

  var files: [String: GuardedMemory] { state.withLock { $0.files } }

  func content(_ path: String) -> [UInt8]? { state.withLock { $0.files[path] }.map { Array($0.bytes) } }

  func set(_ path: String, _ content: [UInt8]?) {
    let memory = content.map(GuardedMemory.init)
    state.withLock { $0.files[path] = memory }
  }

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    let isThere = state.withLock { state in
      if mode == .create || mode == .rewrite { state.files[path] = GuardedMemory(byteCount: 0) }
      return state.files[path] != nil
    }
    guard isThere else { throw failure("open", path, ENOENT) }
    return MemoryFile(disk: self, path: path)
  }

  func exists(_ path: String) throws(LogStoreError) -> Bool { try kind(path) != nil }

  func kind(_ path: String) throws(LogStoreError) -> FileKind? {
    state.withLock { $0.files[path] != nil ? .file : $0.directories.contains(path) || path == "." ? .directory : nil }
  }

  func canonicalPath(_ path: String) throws(LogStoreError) -> String { path }

  func list(_ directory: String) throws(LogStoreError) -> [String] {
    state.withLock { state in
      state.files.keys.filter { parent(of: $0) == directory }.map { String($0.dropFirst(directory.utf8.count + 1)) }
        .sorted()
    }
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool {
    state.withLock { $0.directories.insert(path).inserted }
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    state.withLock { state in
      if state.directories.remove(old) != nil {
        state.directories.insert(new)
        for (path, memory) in state.files where path.hasPrefix(old + "/") {
          state.files[path] = nil
          state.files[new + path.dropFirst(old.count)] = memory
        }
      } else {
        state.files[new] = state.files.removeValue(forKey: old)
      }
    }
  }

  func remove(_ path: String) throws(LogStoreError) { state.withLock { $0.files[path] = nil } }
  func removeDirectory(_ path: String) throws(LogStoreError) { state.withLock { _ = $0.directories.remove(path) } }
  func syncDirectory(_ path: String) throws(LogStoreError) {}

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    let isTaken: Bool? = state.withLock { state in
      if exclusive {
        if state.files[path] == nil { state.files[path] = GuardedMemory(byteCount: 0) }
      } else if state.files[path] == nil {
        return nil
      } else if state.looksAtWriter > 0 {
        state.looksAtWriter -= 1
        return false
      }
      return state.locked.insert(path).inserted
    }
    guard let isTaken else { throw failure("open", path, ENOENT) }
    return isTaken ? MemoryLock(disk: self, path: path) : nil
  }

  /// The lock file has to do: nobody removes it here.
  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    FreeLock()
  }

  func watch(_ path: String) throws(LogStoreError) -> any FileWatch { MemoryWatch(onWait) }

  /// Threads are the system's own here.
  var scheduler: (any Scheduler)? { nil }

  func random() -> UInt64 { now() &* 0x9E37_79B9_7F4A_7C15 }

  /// Only the clock goes on.
  func sleep(milliseconds: UInt32) { state.withLock { $0.clock += UInt64(milliseconds) * 1000 } }

  func now() -> UInt64 {
    state.withLock { state in
      state.clock += 1
      return state.clock
    }
  }
}

final class MemoryFile: File {
  let disk: MemoryDisk
  let path: String
  /// The file keeps its content when its name is taken away.
  private let last: Mutex<GuardedMemory?>

  init(disk: MemoryDisk, path: String) {
    self.disk = disk
    self.path = path
    last = Mutex(disk.files[path])
  }

  private var memory: GuardedMemory {
    last.withLock { $0 } ?? GuardedMemory(byteCount: 0)
  }

  private func grow(to byteCount: Int, keeping kept: Int) {
    let old = memory
    let new = GuardedMemory(byteCount: byteCount)
    if min(kept, byteCount) > 0 {
      new.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: old.bytes[..<min(kept, byteCount)]))
    }
    disk.state.withLock { state in
      for (path, memory) in state.files where memory === old { state.files[path] = new }
    }
    last.withLock { $0 = new }
  }

  func byteCount() throws(LogStoreError) -> UInt64 { UInt64(memory.bytes.count) }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    let memory = memory
    let start = Int(clamping: position)
    let count = max(0, min(buffer.count, memory.bytes.count - min(start, memory.bytes.count)))
    if count > 0 { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory.bytes[start..<start + count])) }
    return count
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    guard bytes.count > 0 else { return }
    let end = Int(position) + bytes.count
    if end > memory.bytes.count { grow(to: end, keeping: memory.bytes.count) }
    UnsafeMutableRawBufferPointer(rebasing: memory.bytes[Int(position)..<end]).copyMemory(from: bytes)
  }

  func sync() throws(LogStoreError) {}

  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    if Int(byteCount) > memory.bytes.count { try resize(to: byteCount) }
    return true
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {}

  func resize(to byteCount: UInt64) throws(LogStoreError) {
    // As a disk that small would: no format allows more than this in a file that is made from what was read.
    guard byteCount <= Self.byteCountMax else { throw failure("resize", path, ENOSPC) }
    grow(to: Int(byteCount), keeping: memory.bytes.count)
  }

  /// Files are small here; more is refused as a full disk would.
  private static let byteCountMax: UInt64 = 8 << 20

  func map(byteCount: Int) throws(LogStoreError) -> Mapping {
    let memory = memory
    // A mapping beyond the end of the file is the mistake that is looked for.
    precondition(byteCount <= memory.bytes.count, "\(path) is mapped beyond its end")
    if byteCount == memory.bytes.count {
      return Mapping(bytes: UnsafeRawBufferPointer(memory.bytes)) { _ in withExtendedLifetime(memory) {} }
    }
    let part = GuardedMemory(byteCount: byteCount)
    part.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory.bytes[..<byteCount]))
    return Mapping(bytes: UnsafeRawBufferPointer(part.bytes)) { _ in withExtendedLifetime(part) {} }
  }
}

final class MemoryLock: FileLock {
  private let disk: MemoryDisk
  private let path: String
  private let isHeld = Atomic(true)

  init(disk: MemoryDisk, path: String) {
    self.disk = disk
    self.path = path
  }

  deinit { release() }

  func release() {
    if isHeld.exchange(false, ordering: .relaxed) { disk.state.withLock { _ = $0.locked.remove(path) } }
  }

  func describe(_ holder: String) throws(LogStoreError) {}
}

private final class FreeLock: FileLock {
  func release() {}
  func describe(_ holder: String) throws(LogStoreError) {}
}

final class MemoryWatch: FileWatch {
  private let onWait: (@Sendable () -> Bool)?

  init(_ onWait: (@Sendable () -> Bool)?) { self.onWait = onWait }

  func wait(timeoutMilliseconds: Int32) -> Bool {
    if let onWait { return onWait() }
    usleep(200)
    return true
  }
  func interrupt() {}
}
