import CLinux
import Glibc
import Synchronization

@testable import LogStore

/// A machine's files and names, as the kernel shows them and as a power cut would leave them; any number of processes
/// (``SimulatedDisk``) use it.
final class SimulatedMachine: Sendable {
  /// A change of names, which may be lost until its directory is synced.
  enum NameChange {
    case set(String, Inode)
    case removed(String)
    /// Whatever becomes of the old name, the new one leads to the file.
    case renamed(String, String, Inode)
    case made(String)
    case removedDirectory(String)
    case renamedDirectory(String, String)

    var path: String {
      switch self {
      case .set(let path, _), .removed(let path), .renamed(_, let path, _), .made(let path),
        .removedDirectory(let path), .renamedDirectory(_, let path):
        path
      }
    }
  }

  /// Paths of files and directories.
  struct Names {
    var files: [String: Inode] = [:]
    var directories: Set<String> = []

    mutating func apply(_ change: NameChange) {
      switch change {
      case .set(let path, let inode): files[path] = inode
      case .removed(let path): files[path] = nil
      case .renamed(let old, let new, let inode):
        files[old] = nil
        files[new] = inode
      case .made(let path): directories.insert(path)
      case .removedDirectory(let path): directories.remove(path)
      case .renamedDirectory(let old, let new):
        guard directories.remove(old) != nil else { return }
        directories.insert(new)
        for (path, inode) in files where path.hasPrefix(old + "/") {
          files[path] = nil
          files[new + path.dropFirst(old.count)] = inode
        }
      }
    }
  }

  struct HeldLock {
    var path: String
    var owner: ObjectIdentifier
    var isExclusive: Bool
  }

  /// What machines do besides what they are asked for.
  struct Noise: Sendable {
    /// One of this many reads and writes is short, or interrupted; 0: none.
    var interruptsOneIn: UInt64 = 0
    /// After one of this many operations the kernel writes something to disk by itself; 0: never.
    var writesBackOneIn: UInt64 = 0
    /// One of this many readings of the clock finds it set to another time; 0: none.
    var setsClockOneIn: UInt64 = 0
    /// One of this many syncs does nothing and reports success. No log can bear that, so a simulation must find it; 0:
    /// none.
    var ignoresSyncOneIn: UInt64 = 0
    /// Before one of this many readings of the monotonic clock the process stood still for long; 0: never.
    var stallsOneIn: UInt64 = 0
    /// At one of this many operations a page of another mapping of the process, not of the store, becomes unreadable; 0:
    /// never.
    var failsElsewhereOneIn: UInt64 = 0
  }

  struct State {
    var names = Names()
    var durableNames = Names()
    var nameChanges: [NameChange] = []
    var locks: [HeldLock] = []
    var generator = SeededGenerator(0)
    var noise = Noise()
    /// Pages of files can become unreadable, and mappings are notified.
    var losesPages = false
    /// What the clock is ahead.
    var clockMicroseconds: UInt64 = 1_700_000_000_000_000
    /// What the monotonic clock is ahead.
    var stalledMicroseconds: UInt64 = 0
    /// A hash of all operations, in order.
    var digest: UInt64 = 0xcbf2_9ce4_8422_2325
    /// The same in words, if it is wanted.
    var trace: [String]?
  }

  let state: Mutex<State>

  init(_ state: sending State = State()) {
    self.state = Mutex(state)
  }

  /// Sendable: inodes are guarded by the lock, and only reached through it again.
  func withState<Value, Failure>(_ body: (inout State) throws(Failure) -> Value) throws(Failure) -> Value {
    try state.withLock { state throws(Failure) in
      nonisolated(unsafe) let value = try body(&state)
      return value
    }
  }

  /// The power fails, for all processes at once. None of them may continue.
  ///
  /// - Parameter keep: the percentage of unsynced data that stays.
  func cutPower(_ generator: inout SeededGenerator, keep: UInt64) {
    withState { state in
      var names = state.durableNames
      for change in state.nameChanges where generator.next() % 100 < keep { names.apply(change) }
      let isThere = names.directories
      names.files = names.files.filter { path, _ in
        let above = parent(of: path)
        return above == "." || above == "/" || isThere.contains(above)
      }
      var cut: Set<ObjectIdentifier> = []
      // In an order that does not depend on how a table keeps them.
      for path in names.files.keys.sorted() {
        guard let inode = names.files[path], cut.insert(ObjectIdentifier(inode)).inserted else { continue }
        inode.cutPower(&generator, keep: keep)
      }
      state.names = names
      state.durableNames = names
      state.nameChanges = []
      state.locks = []
    }
  }

  /// The kernel forgets what it could not write.
  func evict() {
    withState { state in for inode in state.names.files.values { inode.evict() } }
  }

  /// Another machine whose disk and memory are the same.
  func copy() -> SimulatedMachine {
    var next = State()
    withState { state in
      var copies: [ObjectIdentifier: Inode] = [:]
      func copy(_ inode: Inode) -> Inode {
        if let known = copies[ObjectIdentifier(inode)] { return known }
        let copy = Inode(copying: inode)
        copies[ObjectIdentifier(inode)] = copy
        return copy
      }
      next.names = Names(files: state.names.files.mapValues(copy), directories: state.names.directories)
      next.durableNames = Names(
        files: state.durableNames.files.mapValues(copy), directories: state.durableNames.directories)
      next.nameChanges = state.nameChanges.map { change in
        switch change {
        case .set(let path, let inode): .set(path, copy(inode))
        case .renamed(let old, let new, let inode): .renamed(old, new, copy(inode))
        case .removed, .made, .removedDirectory, .renamedDirectory: change
        }
      }
      next.generator = state.generator
      next.clockMicroseconds = state.clockMicroseconds
    }
    return SimulatedMachine(next)
  }
}

extension SimulatedMachine.State {
  /// Changes names, which a power cut may undo until the directory is synced.
  mutating func change(_ change: SimulatedMachine.NameChange) {
    names.apply(change)
    nameChanges.append(change)
  }

  mutating func syncDirectory(_ path: String) {
    nameChanges.removeAll { change in
      guard parent(of: change.path) == path else { return false }
      durableNames.apply(change)
      return true
    }
  }

  /// Records an operation.
  mutating func note(_ process: Int, _ operation: SimulatedDisk.Operation, _ path: String, _ detail: Int) {
    digest = (digest ^ UInt64(operation.rawValue)) &* 0x100_0000_01b3
    for byte in path.utf8 { digest = (digest ^ UInt64(byte)) &* 0x100_0000_01b3 }
    digest = (digest ^ UInt64(truncatingIfNeeded: detail &* 31 &+ process)) &* 0x100_0000_01b3
    if trace != nil { trace?.append("process \(process) \(operation) \(path) \(detail)") }
  }

  mutating func oneIn(_ count: UInt64) -> Bool { count > 0 && generator.next() % count == 0 }

  /// May make a page of a mapping unreadable that is not of the store.
  mutating func failElsewhere() {
    if oneIn(noise.failsElsewhereOneIn) { OtherMapping.one.fail() }
  }
}

/// A mapping of the process that belongs to no store. One number counts the faults of all mappings, and readers check it.
///
/// Proof for Sendable: `region` never changes, and what it leads to may be used from any thread (CFaults.h).
final class OtherMapping: @unchecked Sendable {
  static let one = OtherMapping()

  private let region: FaultRegion?

  private init() {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: Inode.pageByteCount, alignment: 4096)
    region = clinux_region_add(memory.baseAddress, UInt64(memory.count)).map(FaultRegion.init)
  }

  /// Notes that a page of it could not be read.
  func fail() {
    if let region { clinux_region_note(region.pointer, 0) }
  }
}
