import CFibers

@testable import LogStore

/// Runs the threads of a simulation in turns on one thread of the operating system, and tasks between them. A seed decides
/// which one is next. Time passes only here.
///
/// Threads are fibers. A task's part from one `await` to the next runs as a whole, on whichever fiber asked for the next
/// one.
///
/// Proof for Sendable: everything is used on the one thread that created it.
final class FiberScheduler: SimulatedScheduler, TaskExecutor, @unchecked Sendable {
  /// A thread of the simulation.
  final class Thread {
    let name: String
    fileprivate let fiber: OpaquePointer
    /// Its weight against the others: some are slow.
    fileprivate var weight: UInt64 = 1
    /// What it waits for; nil: nothing.
    fileprivate var isSo: (() -> Bool)?
    /// When it stops waiting.
    fileprivate var wakesAt = UInt64.max

    fileprivate init(name: String, fiber: OpaquePointer) {
      self.name = name
      self.fiber = fiber
    }
  }

  private(set) var threads: [Thread]
  private var running: Thread
  private let driver: Thread
  private let pool: FiberPool
  private var jobs: [UnownedJob] = []
  /// The threads that can continue; kept to reuse its memory.
  private var ready: [Int] = []
  private var isInJob = false
  private var generator: SeededGenerator
  /// At one of this many points another thread may be chosen.
  private let passesOneIn: UInt64
  private let jobWeight: UInt64
  private(set) var microseconds: UInt64 = 0
  /// The number of choices.
  private(set) var turns = 0
  /// A history that takes more turns than any should is lost.
  private let turnsMax = 3_000_000
  /// No thread can continue, or one never stops. The driver is resumed to report it.
  private(set) var isStuck = false

  /// Call it on the thread that will run everything; the caller is the driver.
  init(seed: UInt64, pool: FiberPool) {
    var generator = SeededGenerator(seed)
    passesOneIn = [1, 1, 2, 4, 16].randomElement(using: &generator) ?? 1
    jobWeight = [1, 4, 16].randomElement(using: &generator) ?? 1
    driver = Thread(name: "driver", fiber: pool.root)
    driver.weight = [1, 1, 4].randomElement(using: &generator) ?? 1
    threads = [driver]
    running = driver
    self.pool = pool
    self.generator = generator
  }

  /// The threads that have not ended, except the driver.
  var others: [String] { threads.dropFirst().map(\.name) }

  // MARK: - Scheduler

  func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
    let thread = Thread(
      name: name,
      fiber: pool.take { [self] in
        body()
        return leave()
      })
    thread.weight = [1, 1, 1, 4, 16].randomElement(using: &generator) ?? 1
    threads.append(thread)
    pass()
  }

  func pass() {
    if isInJob || isStuck || generator.next() % passesOneIn != 0 { return }
    go(to: choose())
  }

  func wait(until isSo: () -> Bool) {
    _ = wait(milliseconds: .max / 1_000_000, until: isSo)
  }

  func wait(milliseconds: UInt64, until isSo: () -> Bool) -> Bool {
    precondition(!isInJob, "a task waits for a thread, where it should await it")
    let end = microseconds + milliseconds * 1000
    withoutActuallyEscaping(isSo) { isSo in
      let me = running
      me.isSo = isSo
      me.wakesAt = end
      go(to: choose())
      me.isSo = nil
      me.wakesAt = .max
    }
    return isSo()
  }

  /// Called by the driver: runs the others until a condition holds. Returns false if it can't hold any more.
  func run(until isSo: () -> Bool) -> Bool {
    if isStuck { return false }
    return wait(milliseconds: .max / 1_000_000, until: isSo)
  }

  // MARK: - Tasks

  func enqueue(_ job: consuming ExecutorJob) {
    jobs.append(UnownedJob(job))
  }

  // MARK: - Turns

  private func isReady(_ thread: Thread) -> Bool {
    guard let isSo = thread.isSo else { return true }
    return isSo() || thread.wakesAt <= microseconds
  }

  /// Chooses the next fiber; runs parts of tasks that are chosen before.
  private func choose() -> Thread {
    while true {
      turns += 1
      microseconds += generator.next() & 7
      // A thread may be delayed for longer than others sleep.
      if generator.next() & 255 == 0 { microseconds += generator.next() % 20_000 }
      if turns > turnsMax { isStuck = true }
      if isStuck { return driver }
      var sum = UInt64(jobs.count) * jobWeight
      ready.removeAll(keepingCapacity: true)
      for index in threads.indices where isReady(threads[index]) {
        sum += threads[index].weight
        ready.append(index)
      }
      if sum == 0 {
        guard let next = threads.map(\.wakesAt).min(), next < .max / 2 else {
          isStuck = true
          return driver
        }
        microseconds = max(microseconds, next)
        continue
      }
      var drawn = generator.next() % sum
      if drawn < UInt64(jobs.count) * jobWeight {
        let job = jobs.remove(at: Int(drawn / jobWeight))
        isInJob = true
        job.runSynchronously(on: asUnownedTaskExecutor())
        isInJob = false
        continue
      }
      drawn -= UInt64(jobs.count) * jobWeight
      for index in ready {
        let thread = threads[index]
        if drawn < thread.weight { return thread }
        drawn -= thread.weight
      }
    }
  }

  private func go(to next: Thread) {
    if next === running { return }
    let me = running
    running = next
    fiber_switch(me.fiber, next.fiber)
  }

  /// The running thread has ended. Returns the fiber to continue with.
  private func leave() -> OpaquePointer {
    let me = running
    threads.removeAll { $0 === me }
    let next = choose()
    running = next
    return next.fiber
  }
}

/// Fibers with their stacks, reused for the next history. For one thread.
final class FiberPool {
  /// The thread that created the pool.
  let root: OpaquePointer
  private var free: [Worker] = []
  private var all: [Worker] = []

  /// A fiber and what it is to do next.
  private final class Worker {
    var body: (() -> OpaquePointer)?
    var fiber: OpaquePointer?
    unowned let pool: FiberPool

    init(_ pool: FiberPool) {
      self.pool = pool
    }

    func work() -> OpaquePointer {
      guard let body else { preconditionFailure("a fiber without work") }
      self.body = nil
      // Before it has ended, but no one takes it before it is left.
      defer { pool.free.append(self) }
      return body()
    }
  }

  private static let stackByteCount = 1 << 20

  init() {
    guard let root = fiber_of_thread() else { preconditionFailure("no memory") }
    self.root = root
  }

  deinit {
    for worker in all { if let fiber = worker.fiber { fiber_free(fiber) } }
    fiber_free(root)
  }

  /// A fiber that runs `body` when it is resumed, and then resumes the fiber that `body` returns.
  func take(_ body: @escaping () -> OpaquePointer) -> OpaquePointer {
    if let worker = free.popLast(), let fiber = worker.fiber {
      worker.body = body
      return fiber
    }
    let worker = Worker(self)
    worker.body = body
    let fiber = fiber_make(
      Self.stackByteCount, { Unmanaged<Worker>.fromOpaque($0).takeUnretainedValue().work() },
      Unmanaged.passUnretained(worker).toOpaque())
    guard let fiber else { preconditionFailure("no memory for another stack") }
    worker.fiber = fiber
    all.append(worker)
    return fiber
  }
}
