import CLinux
import Glibc
import Synchronization

@testable import LogStore

/// Threads that the simulation schedules, with a clock of its own.
protocol SimulatedScheduler: Scheduler {
  /// As ``Scheduler/wait(until:)``, with a limit. Returns false if the time is over.
  func wait(milliseconds: UInt64, until isSo: () -> Bool) -> Bool
  /// Since the simulation began.
  var microseconds: UInt64 { get }
}

/// A process's view of a machine in memory whose disk forgets, as a real one may, what was not synced: of unsynced sectors,
/// sizes and names any subset survives a power cut. The process can be told to die at an operation, or to fail one.
final class SimulatedDisk: Disk {
  /// What to do instead of an operation.
  enum Fault {
    /// The process dies before the operation: it and everything after it fails.
    case death
    case error(Int32)
  }

  enum Operation: UInt8, Sendable {
    // These change something.
    case create, rename, remove, removeDirectory, makeDirectory, syncDirectory, write, sync, allocate, resize
    case open, kind, list, lock, watch, read, byteCount, map, startWriteback
  }

  /// Decides by number, kind and path of an operation; nil: continue.
  typealias Decide = @Sendable (_ number: Int, _ operation: Operation, _ path: String) -> Fault?

  private struct Process {
    var isDead = false
    /// Operations that change something.
    var operations = 0
    var fault: Decide?
    /// Operations that change nothing.
    var looks = 0
    var lookFault: Decide?
    /// A directory that the process can't change anything in; nil: none.
    var unwritable: String?
  }

  let machine: SimulatedMachine
  /// For readers of the trace.
  let number: Int
  private let process = Mutex(Process())
  private let threads: (any SimulatedScheduler)?

  var scheduler: (any Scheduler)? { threads }

  init(_ machine: SimulatedMachine = SimulatedMachine(), number: Int = 0, scheduler: (any SimulatedScheduler)? = nil) {
    self.machine = machine
    self.number = number
    threads = scheduler
  }

  // MARK: - What is to go wrong

  var isDead: Bool { process.withLock { $0.isDead } }

  /// The number of changing operations that were begun.
  var operationCount: Int { process.withLock { $0.operations } }

  /// Decides about changing operations; their numbers start again.
  func setFault(_ fault: Decide?) {
    process.withLock { process in
      process.fault = fault
      process.operations = 0
    }
  }

  /// Decides about operations that only read.
  func setLookFault(_ fault: Decide?) {
    process.withLock { $0.lookFault = fault }
  }

  /// From now on the process can't change anything in a directory, as on a file system that is mounted read-only.
  func forbidWriting(in directory: String) {
    process.withLock { $0.unwritable = directory + "/" }
  }

  private func checkWritable(_ operation: Operation, _ path: String) throws(LogStoreError) {
    let isForbidden = process.withLock { process in process.unwritable.map(path.hasPrefix) ?? false }
    if isForbidden { throw failure("\(operation)", path, EROFS) }
  }

  /// The process is gone: everything it still tries fails, and its locks are free.
  func die() {
    process.withLock { $0.isDead = true }
    machine.withState { state in state.locks.removeAll { $0.owner == ObjectIdentifier(self) } }
  }

  /// A machine of its own with the state after this process was killed: everything, synced or not.
  func afterKill() -> SimulatedDisk { SimulatedDisk(machine.copy()) }

  /// A machine of its own with the state after a power cut.
  func afterPowerCut(_ generator: inout SeededGenerator) -> SimulatedDisk {
    let copy = machine.copy()
    // Some cuts keep nearly all, some nearly nothing.
    copy.cutPower(&generator, keep: [0, 10, 50, 90, 100].randomElement(using: &generator) ?? 50)
    return SimulatedDisk(copy)
  }

  // MARK: - Every operation

  /// May let others go first; nothing matters any more in a dead process.
  private func pass() {
    if let threads, !isDead { threads.pass() }
  }

  /// Performs a changing operation, or fails it if that was requested.
  fileprivate func change<Value>(
    _ operation: Operation, _ path: String, detail: Int = 0,
    failing: (inout SimulatedMachine.State) -> Void = { _ in },
    _ body: (inout SimulatedMachine.State) throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    pass()
    try checkWritable(operation, path)
    let fault: Fault? = process.withLock { process in
      if process.isDead { return .death }
      process.operations += 1
      return process.fault?(process.operations, operation, path)
    }
    switch fault {
    case .death:
      if !isDead { die() }
      throw failure("\(operation)", path, EIO)
    case .error(let code):
      machine.withState { state in
        state.note(number, operation, path, -1)
        failing(&state)
      }
      throw failure("\(operation)", path, code)
    case nil:
      return try machine.withState { state throws(LogStoreError) in
        state.note(number, operation, path, detail)
        state.failElsewhere()
        return try body(&state)
      }
    }
  }

  /// Performs a reading operation.
  fileprivate func look<Value>(
    _ operation: Operation, _ path: String, passes: Bool = true,
    _ body: (inout SimulatedMachine.State) throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    if passes { pass() }
    let fault: Fault? = process.withLock { process in
      if process.isDead { return .death }
      guard let decide = process.lookFault else { return nil }
      process.looks += 1
      return decide(process.looks, operation, path)
    }
    switch fault {
    case .death: throw failure("\(operation)", path, EIO)
    case .error(let code): throw failure("\(operation)", path, code)
    case nil:
      return try machine.withState { state throws(LogStoreError) in
        state.failElsewhere()
        return try body(&state)
      }
    }
  }

  // MARK: - Disk

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    if mode == .create || mode == .rewrite {
      return try change(.create, path) { state throws(LogStoreError) in
        if let inode = state.names.files[path] {
          inode.resize(to: 0)
          return SimulatedFile(disk: self, inode: inode, path: path)
        }
        let inode = Inode()
        state.change(.set(path, inode))
        return SimulatedFile(disk: self, inode: inode, path: path)
      }
    }
    if mode != .read { try checkWritable(.open, path) }
    return try look(.open, path) { state throws(LogStoreError) in
      guard let inode = state.names.files[path] else { throw failure("open", path, ENOENT) }
      return SimulatedFile(disk: self, inode: inode, path: path)
    }
  }

  func exists(_ path: String) throws(LogStoreError) -> Bool { try kind(path) != nil }

  func kind(_ path: String) throws(LogStoreError) -> FileKind? {
    try look(.kind, path) { state throws(LogStoreError) in
      state.names.files[path] != nil
        ? .file : path == "." || path == "/" || state.names.directories.contains(path) ? .directory : nil
    }
  }

  func canonicalPath(_ path: String) throws(LogStoreError) -> String { path }

  func list(_ directory: String) throws(LogStoreError) -> [String] {
    let prefix = directory + "/"
    return try look(.list, directory) { state throws(LogStoreError) in
      var names: [String] = []
      for path in state.names.files.keys where path.hasPrefix(prefix) {
        let name = path.utf8.dropFirst(prefix.utf8.count)
        if !name.contains(UInt8(ascii: "/")) { names.append(String(Substring(name))) }
      }
      // Directories list in no order, but the same one each time.
      names.sort()
      if threads != nil { names.shuffle(using: &state.generator) }
      return names
    }
  }

  func makeDirectory(_ path: String) throws(LogStoreError) -> Bool {
    try change(.makeDirectory, path) { state throws(LogStoreError) in
      if state.names.directories.contains(path) { return false }
      state.change(.made(path))
      return true
    }
  }

  func rename(_ old: String, to new: String) throws(LogStoreError) {
    try change(.rename, new) { state throws(LogStoreError) in
      if state.names.directories.contains(old) {
        state.change(.renamedDirectory(old, new))
      } else if let inode = state.names.files[old] {
        state.change(.renamed(old, new, inode))
      } else {
        throw failure("rename", old, ENOENT)
      }
    }
  }

  func remove(_ path: String) throws(LogStoreError) {
    try change(.remove, path) { state throws(LogStoreError) in
      if state.names.files[path] != nil { state.change(.removed(path)) }
    }
  }

  func removeDirectory(_ path: String) throws(LogStoreError) {
    try change(.removeDirectory, path) { state throws(LogStoreError) in
      if state.names.directories.contains(path) { state.change(.removedDirectory(path)) }
    }
  }

  func syncDirectory(_ path: String) throws(LogStoreError) {
    try change(.syncDirectory, path) { state throws(LogStoreError) in
      if !state.oneIn(state.noise.ignoresSyncOneIn) { state.syncDirectory(path) }
    }
  }

  func lock(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try look(.lock, path) { state throws(LogStoreError) in
      if state.names.files[path] == nil {
        guard exclusive else { throw failure("open", path, ENOENT) }
        state.change(.set(path, Inode()))
      }
      let isRefused = state.locks.contains { $0.path == path && (exclusive || $0.isExclusive) }
      if isRefused { return nil }
      return SimulatedLock(disk: self, path: path, isExclusive: exclusive, &state)
    }
  }

  func lockDirectory(_ path: String, exclusive: Bool) throws(LogStoreError) -> (any FileLock)? {
    try look(.lock, path) { state throws(LogStoreError) in
      let isRefused = state.locks.contains { $0.path == path && (exclusive || $0.isExclusive) }
      if isRefused { return nil }
      return SimulatedLock(disk: self, path: path, isExclusive: exclusive, &state)
    }
  }

  func watch(_ path: String) throws(LogStoreError) -> any FileWatch {
    // Asked for under a lock, which another thread would wait for.
    try look(.watch, path, passes: false) { state throws(LogStoreError) in
      guard let inode = state.names.files[path] else { throw failure("watch", path, ENOENT) }
      return SimulatedWatch(machine, inode, threads)
    }
  }

  func now() -> UInt64 {
    let passed = threads?.microseconds ?? 0
    return machine.withState { state in
      state.clockMicroseconds += 1
      if state.oneIn(state.noise.setsClockOneIn) {
        state.clockMicroseconds = 1_700_000_000_000_000 + state.generator.next() % 20_000_000
      }
      return state.clockMicroseconds + passed
    }
  }

  func monotonicMicroseconds() -> UInt64 {
    guard let threads else { return MonotonicClock.microseconds }
    let passed = threads.microseconds
    return machine.withState { state in
      if state.oneIn(state.noise.stallsOneIn) {
        state.stalledMicroseconds += [100_000, 700_000, 1_100_000, 31_000_000][Int(state.generator.next() & 3)]
      }
      state.failElsewhere()
      return state.stalledMicroseconds + passed
    }
  }

  func random() -> UInt64 { machine.withState { $0.generator.next() } }

  func sleep(milliseconds: UInt32) {
    if let threads {
      _ = threads.wait(milliseconds: UInt64(milliseconds)) { false }
    } else {
      usleep(milliseconds * 1000)
    }
  }
}

/// Proof for Sendable: as for ``Inode``.
final class SimulatedFile: File {
  let disk: SimulatedDisk
  let inode: Inode
  let path: String

  init(disk: SimulatedDisk, inode: Inode, path: String) {
    self.disk = disk
    self.inode = inode
    self.path = path
  }

  func byteCount() throws(LogStoreError) -> UInt64 {
    try disk.look(.byteCount, path) { _ throws(LogStoreError) in UInt64(inode.byteCount) }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
    try disk.look(.read, path) { state throws(LogStoreError) in
      try readAll(into: buffer, path, at: position) { rest, done in
        let start = Int(position) + done
        let wanted = max(0, min(rest.count, inode.byteCount - start))
        var count = inode.readableCount(wanted, at: start)
        if count < wanted, count == 0 { return -Int(EIO) }
        if count > 0, state.oneIn(state.noise.interruptsOneIn) {
          if state.oneIn(2) { return -Int(EINTR) }
          count = Int(state.generator.next() % UInt64(count)) + 1
        }
        if count > 0 {
          rest.copyMemory(from: UnsafeRawBufferPointer(rebasing: inode.memory.bytes[start..<start + count]))
        }
        return count
      }
    }
  }

  func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
    try disk.change(.write, path, detail: Int(position) &* 31 &+ bytes.count) { state in
      // Any part of it may have been written.
      if state.oneIn(2), bytes.count > 0 {
        let count = Int(state.generator.next() % UInt64(bytes.count))
        inode.write(UnsafeRawBufferPointer(rebasing: bytes[..<count]), at: Int(position))
      }
    } _: { state throws(LogStoreError) in
      if inode.needsUnreadable(toWrite: Int(position)..<Int(position) + bytes.count) {
        throw failure("write", path, EIO)
      }
      try writeAll(bytes, path) { rest, done in
        var count = rest.count
        if state.oneIn(state.noise.interruptsOneIn) {
          if state.oneIn(2) { return -Int(EINTR) }
          count = Int(state.generator.next() % UInt64(count)) + 1
        }
        inode.write(UnsafeRawBufferPointer(rebasing: rest[..<count]), at: Int(position) + done)
        return count
      }
      if state.oneIn(state.noise.writesBackOneIn) {
        inode.writeBack { state.oneIn(2) }
      }
    }
  }

  /// Does not count as an operation, and never fails: only the store changes its files while it is open.
  func checkPath(_ path: String) throws(LogStoreError) {
    if disk.isDead { return }
    let isSound = disk.machine.withState { state in
      state.names.files[path] === inode
    }
    if !isSound { throw .segmentLost(file: path, reason: "another file is in its place") }
  }

  func sync() throws(LogStoreError) {
    try disk.change(.sync, path) { state in
      inode.failSync { state.oneIn(3) }
    } _: { state throws(LogStoreError) in
      if !state.oneIn(state.noise.ignoresSyncOneIn) { inode.sync() }
    }
  }

  func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool {
    try disk.change(.allocate, path, detail: Int(byteCount)) { _ throws(LogStoreError) in
      if inode.byteCount < Int(byteCount) { inode.resize(to: Int(byteCount)) }
      return true
    }
  }

  func startWriteback(at position: UInt64, byteCount: UInt64) {
    try? disk.look(.startWriteback, path) { state throws(LogStoreError) in
      if state.noise.writesBackOneIn > 0 { inode.writeBack { state.oneIn(2) } }
    }
  }

  func resize(to byteCount: UInt64) throws(LogStoreError) {
    try disk.change(.resize, path, detail: Int(byteCount)) { _ throws(LogStoreError) in
      inode.resize(to: Int(byteCount))
    }
  }

  func map(byteCount: Int) throws(LogStoreError) -> Mapping {
    try disk.look(.map, path) { state throws(LogStoreError) in
      let memory = inode.memory
      let bytes = UnsafeRawBufferPointer(rebasing: memory.bytes[..<byteCount])
      guard state.losesPages else { return Mapping(bytes: bytes) { _ in withExtendedLifetime(memory) {} } }
      guard let pointer = clinux_region_add(bytes.baseAddress, UInt64(byteCount)) else {
        throw failure("map", path, ENOMEM)
      }
      let region = FaultRegion(pointer: pointer)
      inode.add(region, byteCount: byteCount)
      return Mapping(bytes: bytes, faults: faults(region)) { [inode] _ in
        inode.remove(region)
        withExtendedLifetime(memory) {}
      }
    }
  }

  /// A mapping does not recover: the file has to be mapped again when it can be read.
  private func faults(_ region: FaultRegion) -> Mapping.Faults {
    let (machine, inode) = (disk.machine, inode)
    return Mapping.Faults(region: region) { position in
      machine.withState { _ in inode.readableCount(1, at: position) == 1 }
        ? "could not be read for a while, and now can be" : unreadableReason(EIO)
    } heal: {
      false
    } isOfOtherFile: {
      machine.withState { _ in inode.unreadable.isEmpty }
    }
  }
}

final class SimulatedLock: FileLock {
  private let disk: SimulatedDisk
  private let path: String
  private let isHeld = Atomic(true)

  fileprivate init(disk: SimulatedDisk, path: String, isExclusive: Bool, _ state: inout SimulatedMachine.State) {
    self.disk = disk
    self.path = path
    state.locks.append(
      SimulatedMachine.HeldLock(path: path, owner: ObjectIdentifier(disk), isExclusive: isExclusive))
  }

  deinit {
    release()
  }

  func release() {
    guard isHeld.exchange(false, ordering: .relaxed) else { return }
    disk.machine.withState { state in
      let held = state.locks.firstIndex { $0.path == path && $0.owner == ObjectIdentifier(disk) }
      if let held { state.locks.remove(at: held) }
    }
  }

  func describe(_ holder: String) throws(LogStoreError) {}
}

/// Proof for Sendable: `inode` is guarded by the machine's lock, `seen` is the one waiting thread's.
final class SimulatedWatch: FileWatch, @unchecked Sendable {
  private let machine: SimulatedMachine
  private let inode: Inode
  private let threads: (any SimulatedScheduler)?
  private var seen: UInt64
  private let isInterrupted = Atomic(false)

  /// Called with the machine's lock held.
  init(_ machine: SimulatedMachine, _ inode: Inode, _ threads: (any SimulatedScheduler)?) {
    self.machine = machine
    self.inode = inode
    self.threads = threads
    seen = inode.changes
  }

  func wait(timeoutMilliseconds: Int32) -> Bool {
    guard let threads else {
      usleep(200)
      return true
    }
    let isWoken = threads.wait(milliseconds: UInt64(timeoutMilliseconds)) {
      isInterrupted.load(ordering: .relaxed) || inode.changes != seen
    }
    seen = inode.changes
    isInterrupted.store(false, ordering: .relaxed)
    return isWoken
  }

  func interrupt() {
    isInterrupted.store(true, ordering: .relaxed)
  }
}
