import Foundation
import Glibc
import Synchronization

@testable import LogStore

/// A disk in memory that forgets, as a real one may, what was not synced: of unsynced sectors, sizes and names any
/// subset survives a power cut. It can be told to die at an operation, or to fail one.
final class SimulatedDisk: Disk {
  static let sectorBytes = 512
  /// Room for the largest file that a test makes; memory is only used where it is written.
  static let capacityBytes = 1 << 20

  /// A file whatever its name. `memory` is what the kernel shows; `durable` what a power cut leaves for sure.
  final class Inode: @unchecked Sendable {
    // Unchecked: all but the memory is guarded by the disk's lock; the memory is written under it, and read through
    // mappings only where it is written no more, as LogStore promises.
    let memory = UnsafeMutableRawBufferPointer(start: calloc(1, capacityBytes), count: capacityBytes)
    var byteCount = 0
    var durable: [UInt8] = []
    var dirtySectors: Set<Int> = []

    deinit {
      free(memory.baseAddress)
    }

    var content: [UInt8] { Array(memory[..<byteCount]) }
  }

  enum NameChange {
    case set(String, Inode)
    case removed(String)
    case renamed(String, String)
  }

  /// What to do instead of an operation.
  enum Fault {
    /// The process dies before the operation: it and everything after it fails.
    case death
    case error(Int32)
  }

  struct State {
    var names: [String: Inode] = [:]
    var durableNames: [String: Inode] = [:]
    var nameChanges: [NameChange] = []
    var directories: Set<String> = []
    var locked: Set<String> = []
    var operations = 0
    var isDead = false
    /// By name of operation and path; nil: go on.
    var fault: (@Sendable (_ number: Int, _ operation: String, _ path: String) -> Fault?)?
    var log: [String] = []
  }

  let state: Mutex<State>
  let clock = Atomic<UInt64>(1_700_000_000_000_000)

  init(_ state: sending State = State()) {
    self.state = Mutex(state)
  }

  /// Notes an operation that changes something, and fails it if that was asked for.
  func begin(_ operation: String, _ path: String, _ state: inout State) throws(LogStoreError) {
    if state.isDead { throw failure(operation, path, EIO) }
    state.operations += 1
    state.log.append("\(operation) \(path.split(separator: "/").last ?? "")")
    switch state.fault?(state.operations, operation, path) {
    case .death:
      state.isDead = true
      throw failure(operation, path, EIO)
    case .error(let code): throw failure(operation, path, code)
    case nil: break
    }
  }

  func withState<Value>(_ body: (inout State) throws(LogStoreError) -> Value) throws(LogStoreError) -> Value {
    // Sent out of the lock: inodes are guarded by it and only reached through it again.
    try state.withLock { state throws(LogStoreError) in
      nonisolated(unsafe) let value = try body(&state)
      return value
    }
  }

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    try withState { state throws(LogStoreError) in
      if mode == .create {
        try begin("create", path, &state)
        let inode = Inode()
        state.names[path] = inode
        state.nameChanges.append(.set(path, inode))
        return SimulatedFile(disk: self, inode: inode, path: path)
      }
      if state.isDead { throw failure("open", path, EIO) }
      guard let inode = state.names[path] else { throw failure("open", path, ENOENT) }
      return SimulatedFile(disk: self, inode: inode, path: path)
    }
  }

  func exists(_ path: String) throws(LogStoreError) -> Bool {
    try withState { state throws(LogStoreError) in
      state.names[path] != nil || state.directories.contains(path) || path == "."
    }
  }

  func kind(_ path: String) throws(LogStoreError) -> FileKind? {
    try withState { state throws(LogStoreError) in
      state.names[path] != nil ? .file : state.directories.contains(path) ? .directory : nil
    }
  }

  func canonicalPath(_ path: String) throws(LogStoreError) -> String { path }

  func list(_ directory: String) throws(LogStoreError) -> [String] {
    try withState { state throws(LogStoreError) in
      state.names.keys.filter { parent(of: $0) == directory }.map { String($0.dropFirst(directory.count + 1)) }
    }
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool {
    try withState { state throws(LogStoreError) in state.directories.insert(path).inserted }
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    try withState { state throws(LogStoreError) in
      try begin("rename", new, &state)
      guard let inode = state.names.removeValue(forKey: old) else { throw failure("rename", old, ENOENT) }
      state.names[new] = inode
      state.nameChanges.append(.renamed(old, new))
    }
  }

  func remove(_ path: String) throws(LogStoreError) {
    try withState { state throws(LogStoreError) in
      try begin("remove", path, &state)
      if state.names.removeValue(forKey: path) != nil { state.nameChanges.append(.removed(path)) }
    }
  }

  func removeDirectory(_ path: String) throws(LogStoreError) {
    try withState { state throws(LogStoreError) in
      try begin("removeDirectory", path, &state)
      state.directories.remove(path)
    }
  }

  func syncDirectory(_ path: String) throws(LogStoreError) {
    try withState { state throws(LogStoreError) in
      try begin("syncDirectory", path, &state)
      state.durableNames = state.names
      state.nameChanges = []
    }
  }

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try withState { state throws(LogStoreError) in
      if state.isDead { throw failure("lock", path, EIO) }
      if exclusive, state.names[path] == nil { state.names[path] = Inode() }
      guard state.names[path] != nil else { throw failure("open", path, ENOENT) }
      guard state.locked.insert(path).inserted else { return nil }
      return SimulatedLock(disk: self, path: path)
    }
  }

  func watch(_ path: String) throws(LogStoreError) -> any FileWatch { SimulatedWatch() }

  func now() -> UInt64 { clock.wrappingAdd(1, ordering: .relaxed).newValue }
}

final class SimulatedFile: File {
  let disk: SimulatedDisk
  let inode: SimulatedDisk.Inode
  let path: String

  init(disk: SimulatedDisk, inode: SimulatedDisk.Inode, path: String) {
    self.disk = disk
    self.inode = inode
    self.path = path
  }

  func byteCount() throws(LogStoreError) -> UInt64 {
    try disk.withState { _ throws(LogStoreError) in UInt64(inode.byteCount) }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    try disk.withState { state throws(LogStoreError) in
      if state.isDead { throw failure("read", path, EIO) }
      let count = max(0, min(buffer.count, inode.byteCount - Int(position)))
      if count > 0 {
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: inode.memory[Int(position)..<Int(position) + count]))
      }
      return count
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    try disk.withState { state throws(LogStoreError) in
      try disk.begin("write", path, &state)
      precondition(Int(position) + bytes.count <= SimulatedDisk.capacityBytes, "\(path) outgrows the simulated disk")
      guard bytes.count > 0 else { return }
      UnsafeMutableRawBufferPointer(rebasing: inode.memory[Int(position)..<Int(position) + bytes.count])
        .copyMemory(from: bytes)
      inode.byteCount = max(inode.byteCount, Int(position) + bytes.count)
      let first = Int(position) / SimulatedDisk.sectorBytes
      let last = (Int(position) + bytes.count - 1) / SimulatedDisk.sectorBytes
      inode.dirtySectors.formUnion(first...last)
    }
  }

  func sync() throws(LogStoreError) {
    try disk.withState { state throws(LogStoreError) in
      do throws(LogStoreError) {
        try disk.begin("sync", path, &state)
      } catch {
        // As Linux does: the pages are clean from now on, though not on disk, and a second sync would succeed.
        if !state.isDead { inode.dirtySectors = [] }
        throw error
      }
      inode.makeDurable(inode.dirtySectors, byteCount: inode.byteCount)
      inode.dirtySectors = []
    }
  }

  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    try disk.withState { state throws(LogStoreError) in
      try disk.begin("allocate", path, &state)
      precondition(Int(byteCount) <= SimulatedDisk.capacityBytes, "\(path) outgrows the simulated disk")
      inode.byteCount = max(inode.byteCount, Int(byteCount))
      return true
    }
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {}

  func resize(to byteCount: UInt64) throws(LogStoreError) {
    try disk.withState { state throws(LogStoreError) in
      try disk.begin("resize", path, &state)
      for index in min(Int(byteCount), inode.byteCount)..<inode.byteCount { inode.memory[index] = 0 }
      inode.byteCount = Int(byteCount)
    }
  }

  func map(byteCount: Int) throws(LogStoreError) -> Mapping {
    let inode = inode
    return Mapping(bytes: UnsafeRawBufferPointer(rebasing: inode.memory[..<byteCount])) { _ in
      withExtendedLifetime(inode) {}
    }
  }
}

extension SimulatedDisk.Inode {
  func makeDurable(_ sectors: Set<Int>, byteCount: Int) {
    if durable.count < byteCount { durable.append(contentsOf: repeatElement(0, count: byteCount - durable.count)) }
    if durable.count > byteCount { durable.removeLast(durable.count - byteCount) }
    for sector in sectors {
      let start = sector * SimulatedDisk.sectorBytes
      let end = min(start + SimulatedDisk.sectorBytes, byteCount)
      if start < end { durable.replaceSubrange(start..<end, with: memory[start..<end]) }
    }
  }
}

final class SimulatedLock: FileLock {
  private let disk: SimulatedDisk
  private let path: String
  private let isHeld = Atomic(true)

  init(disk: SimulatedDisk, path: String) {
    self.disk = disk
    self.path = path
  }

  deinit {
    release()
  }

  func release() {
    if isHeld.exchange(false, ordering: .relaxed) {
      _ = try? disk.withState { $0.locked.remove(path) }
    }
  }

  func describe(_ holder: String) throws(LogStoreError) {}
}

final class SimulatedWatch: FileWatch {
  func wait(timeoutMilliseconds: Int32) -> Bool {
    usleep(200)
    return true
  }
  func interrupt() {}
}

extension SimulatedDisk {
  /// What is there after the machine lost its power: everything synced, and of the rest whatever chance leaves.
  func afterPowerCut(_ generator: inout some RandomNumberGenerator) -> SimulatedDisk {
    var copies: [ObjectIdentifier: Inode] = [:]
    var next = State()
    state.withLock { state in
      // Some cuts keep nearly all, some nearly nothing.
      let keep = [0.0, 0.1, 0.5, 0.9, 1.0].randomElement(using: &generator) ?? 0.5
      func copy(_ inode: Inode) -> Inode {
        if let known = copies[ObjectIdentifier(inode)] { return known }
        let copy = Inode()
        let kept = inode.dirtySectors.filter { _ in Double.random(in: 0..<1, using: &generator) < keep }
        let isLonger = inode.byteCount > inode.durable.count && Double.random(in: 0..<1, using: &generator) < keep
        var content = inode.durable
        if isLonger { content.append(contentsOf: repeatElement(0, count: inode.byteCount - content.count)) }
        for sector in kept {
          let start = sector * Self.sectorBytes
          let end = min(start + Self.sectorBytes, content.count, inode.byteCount)
          if start < end { content.replaceSubrange(start..<end, with: inode.memory[start..<end]) }
        }
        copy.memory.copyBytes(from: content)
        copy.byteCount = content.count
        copy.durable = content
        copies[ObjectIdentifier(inode)] = copy
        return copy
      }
      var names = state.durableNames
      for change in state.nameChanges where Double.random(in: 0..<1, using: &generator) < keep {
        switch change {
        case .set(let path, let inode): names[path] = inode
        case .removed(let path): names[path] = nil
        case .renamed(let old, let new): if let inode = names.removeValue(forKey: old) { names[new] = inode }
        }
      }
      next.names = names.mapValues(copy)
      next.durableNames = next.names
      next.directories = state.directories
    }
    return SimulatedDisk(next)
  }

  /// What is there after the process was killed: everything, in the kernel's memory, synced or not.
  func afterKill() -> SimulatedDisk {
    var next = State()
    state.withLock { state in
      var copies: [ObjectIdentifier: Inode] = [:]
      func copy(_ inode: Inode) -> Inode {
        if let known = copies[ObjectIdentifier(inode)] { return known }
        let copy = Inode()
        copy.memory.copyBytes(from: inode.content)
        copy.byteCount = inode.byteCount
        copy.durable = inode.durable
        copy.dirtySectors = inode.dirtySectors
        copies[ObjectIdentifier(inode)] = copy
        return copy
      }
      next.names = state.names.mapValues(copy)
      next.durableNames = state.durableNames.mapValues(copy)
      next.nameChanges = state.nameChanges.map { change in
        switch change {
        case .set(let path, let inode): .set(path, copy(inode))
        case .removed, .renamed: change
        }
      }
      next.directories = state.directories
    }
    return SimulatedDisk(next)
  }

  var isDead: Bool { state.withLock { $0.isDead } }

  func setFault(_ fault: (@Sendable (_ number: Int, _ operation: String, _ path: String) -> Fault?)?) {
    state.withLock { state in
      state.fault = fault
      state.operations = 0
    }
  }
}
