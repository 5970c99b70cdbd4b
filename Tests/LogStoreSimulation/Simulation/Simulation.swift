import Glibc

@testable import LogStore

/// One history: the steps of a plan, done to a store on a simulated machine and compared with a model.
///
/// Proof for Sendable: everything, tasks included, runs on the one thread that runs the history, in turns.
final class Simulation: @unchecked Sendable {
  static let directory = "d"

  /// The result of a history.
  struct Outcome: Sendable {
    /// What is wrong; nil if all is well.
    var problem: String?
    /// A hash of everything that was done to the disk, in order.
    var digest: UInt64 = 0
    var operations: [String] = []
    var turns = 0
    var events = 0
  }

  /// A call, and its result once it is there.
  final class Call {
    enum Kind {
      case append(Int, isBuffered: Bool)
      /// - upTo: the end of what was buffered before.
      case flush(upTo: UInt64)
      case close
      case waitUntilIndexed
    }

    let kind: Kind
    let life: Int
    let disk: SimulatedDisk
    /// The least versions of streams at the time of the call.
    let versions: [String: UInt64]
    /// The store had failed before.
    let wasStopped: Bool
    /// The append was in the log before.
    var wasPlaced = false
    var answer: Result<Appended, LogStoreError>?

    init(_ kind: Kind, life: Int, disk: SimulatedDisk, versions: [String: UInt64], wasStopped: Bool) {
      self.kind = kind
      self.life = life
      self.disk = disk
      self.versions = versions
      self.wasStopped = wasStopped
    }
  }

  /// A follower of a log, in a task of its own.
  final class Tail {
    let disk: SimulatedDisk
    var next: UInt64
    var isDone = false

    init(disk: SimulatedDisk, from next: UInt64) {
      self.disk = disk
      self.next = next
    }
  }

  /// A reader in a process of its own.
  struct OtherReader {
    var reader: LogReader
    var disk: SimulatedDisk
  }

  let plan: Plan
  let scheduler: FiberScheduler
  let pool: FiberPool
  let machine: SimulatedMachine
  let model = Model()
  var disk: SimulatedDisk
  var store: LogStore?
  var others: [OtherReader] = []
  var tails: [Tail] = []
  var calls: [Call] = []
  /// Appends with an id of another event.
  var reused: [Int: Reuse] = [:]
  /// The highest offset that a buffered append got.
  var bufferedEnd: UInt64 = 0
  /// The end of the last finished backup.
  var backedUp: UInt64?
  /// The index of everything before this offset is on disk.
  var indexedEnd: UInt64 = 0
  /// The lives in which operations fail, so that calls may fail too.
  private var failingLives: Set<Int> = []
  private(set) var life = 0
  private var processCount = 0
  /// The last life ended with a close that returned.
  private var wasClosed = false
  private var problem: String?

  init(_ plan: Plan, pool: FiberPool, isTraced: Bool = false) {
    self.plan = plan
    self.pool = pool
    scheduler = FiberScheduler(seed: plan.schedule, pool: pool)
    var state = SimulatedMachine.State()
    state.generator = SeededGenerator(plan.schedule ^ 0x9E37)
    state.noise = plan.noise
    if isTraced { state.trace = [] }
    machine = SimulatedMachine(state)
    disk = SimulatedDisk(machine, number: 0, scheduler: scheduler)
  }

  /// Runs a plan from its beginning to its end.
  static func run(_ plan: Plan, pool: FiberPool, isTraced: Bool = false) -> Outcome {
    // There has been a fault in the process, as there may be at any time. So a history runs the same way whatever ran
    // before it.
    OtherMapping.one.fail()
    let simulation = Simulation(plan, pool: pool, isTraced: isTraced)
    simulation.run()
    return simulation.machine.withState { state in
      Outcome(
        problem: simulation.problem, digest: state.digest, operations: state.trace ?? [],
        turns: simulation.scheduler.turns, events: Int(simulation.model.required))
    }
  }

  private func run() {
    for number in plan.lives.indices {
      live(plan.lives[number])
      if problem != nil { break }
    }
    if problem == nil { end() }
    if problem != nil {
      // Everything that is left is released, so that its threads end.
      disk.die()
      for other in others { other.disk.die() }
      letGo()
      _ = scheduler.run { self.isQuiet }
    }
  }

  func fail(_ text: String) {
    if problem == nil { problem = "life \(life): \(text)" }
    machine.withState { state in if state.trace != nil { state.trace?.append("FAILED: \(text)") } }
  }

  func trace(_ text: @autoclosure () -> String) {
    machine.withState { state in if state.trace != nil { state.trace?.append(text()) } }
  }

  // MARK: - Lives

  func process() -> SimulatedDisk {
    processCount += 1
    return SimulatedDisk(machine, number: processCount, scheduler: scheduler)
  }

  /// Nothing continues by itself.
  private var isQuiet: Bool { scheduler.others.isEmpty && calls.allSatisfy { $0.answer != nil } && areTailsDone }
  private var areTailsDone: Bool { tails.allSatisfy(\.isDone) }

  private func live(_ life: Plan.Life) {
    self.life += 1
    bufferedEnd = 0
    trace("— life \(self.life)")
    disk = process()
    plantFailures(life)
    if !life.failures.isEmpty { failingLives.insert(self.life) }
    if open() {
      for step in life.steps {
        take(step)
        collect()
        if problem != nil || disk.isDead { break }
      }
    }
    if problem == nil { finish(life.end) }
    var generator = SeededGenerator(plan.schedule &* 31 &+ UInt64(self.life))
    // Before a reader makes durable what it finds.
    if problem == nil, generator.oneIn(3) { backUpUnwritable() }
    if problem == nil, life.isRead { readBetweenLives() }
    if problem == nil { restoreLast() }
    if problem == nil, let seed = life.damage {
      damage(seed)
      if problem == nil { loseSight(seed ^ 0x5B01) }
    }
  }

  private func plantFailures(_ life: Plan.Life) {
    // Proof for Sendable: used by the one thread of the history.
    final class Counts: @unchecked Sendable { var value = [Int](repeating: 0, count: 8) }
    let counts = Counts()
    let failures = life.failures
    let dieAt = life.dieAt
    if dieAt == nil, failures.isEmpty { return }
    disk.setFault { number, operation, path in
      if let dieAt, number >= dieAt { return .death }
      for (index, failure) in failures.enumerated() {
        let isMeant =
          switch failure.scope {
          case .any: true
          case .segments: path.hasSuffix(".log")
          case .syncs: operation == .sync || operation == .syncDirectory
          case .names: operation == .create || operation == .rename || operation == .remove
          case .looks: false
          }
        guard isMeant else { continue }
        counts.value[index] += 1
        if counts.value[index] >= failure.first, counts.value[index] < failure.first + failure.count {
          return .error(failure.code)
        }
      }
      return nil
    }
    if failures.contains(where: { $0.scope == .looks }) {
      disk.setLookFault { number, operation, _ in
        for failure in failures where failure.scope == .looks {
          if number >= failure.first, number < failure.first + failure.count { return .error(EIO) }
        }
        return nil
      }
    }
  }

  static let options: LogStore.Options = {
    var options = LogStore.Options()
    options.segmentBytes = 64 << 10
    return options
  }()

  /// Operations fail in this life.
  var isFailing: Bool { failingLives.contains(life) }

  /// Whether a life may see an error.
  func isExpected(_ error: LogStoreError, life: Int, disk: SimulatedDisk) -> Bool {
    switch error {
    case .inputOutput, .diskFull, .stopped: failingLives.contains(life) || disk.isDead
    default: false
    }
  }

  /// Once a segment has an index file, it always has one.
  private func checkIndexes() {
    var end: UInt64 = 0
    machine.withState { state in
      let prefix = Self.directory + "/"
      for path in state.names.files.keys.sorted() where path.hasPrefix(prefix) {
        guard let range = FileName.indexRange(String(path.dropFirst(prefix.count))), range.lowerBound <= end else {
          continue
        }
        end = max(end, range.upperBound)
      }
    }
    if end < indexedEnd { fail("the index goes to offset \(end), it went to \(indexedEnd)") }
    indexedEnd = 0
  }

  private func open() -> Bool {
    let mustBeClean = wasClosed
    do throws(LogStoreError) {
      var options = Self.options
      // Few appends are in flight at a time, so responses are left due from a much smaller number on, too.
      options.dueCount = [1, 2, 16][Int(plan.seed % 3)]
      // In some lives syncs wait for more appends to join them.
      options.gatherMilliseconds = life % 3 == 2 ? 1 : 0
      let store = try LogStore.open(Self.directory, options: options, disk: disk)
      wasClosed = false
      self.store = store
      if mustBeClean, !store.recovery.wasClosedCleanly || store.recovery.tornTail != nil {
        fail("the store was closed, but is found as not: \(store.recovery)")
      }
      if let problem = try model.check(store.reader, openingIn: life) { fail(problem) }
      checkIndexes()
    } catch {
      // The clean mark may have been removed already.
      wasClosed = false
      let isBusy = { if case .locked = error { !self.scheduler.others.isEmpty } else { false } }()
      if !isExpected(error, life: life, disk: disk), !isBusy { fail("opening: \(error)") }
      letGoOfStore()
      return false
    }
    return problem == nil
  }

  /// Without a writer, a reader finds everything that anyone may rely on, and makes it durable for others.
  private func readBetweenLives() {
    let isAlone = scheduler.others.count == others.count
    let required = model.required
    let disk = process()
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: disk)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      defer { reader.close() }
      if isAlone, reader.endOffset < required {
        fail("lost: a reader finds the log to end with \(reader.endOffset), it went to \(required)")
      }
      if let problem = try model.check(reader) { fail("a reader between lives: \(problem)") }
    } catch {
      if !isOfUnfinished(error, isAlone: isAlone) { fail("a reader between lives: \(error)") }
    }
    _ = scheduler.run { self.scheduler.others.count <= (isAlone ? self.others.count : .max) }
  }

  /// Whether a reader without a writer may see an error: the store was never finished, and the last process still runs or has
  /// left it unusable for now.
  func isOfUnfinished(_ error: LogStoreError, isAlone: Bool) -> Bool {
    switch error {
    case .notAStore: model.required == 0
    case .damaged: model.required == 0 && !isFinished
    case .locked: !isAlone
    default: false
    }
  }

  /// The store was opened once: it is complete from then on.
  private var isFinished: Bool {
    machine.withState { $0.names.files[Self.directory + "/" + FileName.store] != nil }
  }

  // MARK: - Ends of lives

  private func finish(_ end: Plan.End) {
    trace("end: \(end)")
    switch end {
    case .close where !disk.isDead: close()
    case .abandon where !disk.isDead: letGoOfStore()
    case .close, .abandon, .kill:
      disk.die()
      letGoOfStore()
      if life % 2 == 0 {
        guard finishPending(whole: false) else { return }
        machine.evict()
      }
    case .powerCut(let keep):
      disk.die()
      for other in others { other.disk.die() }
      letGo()
      guard finishPending(whole: true) else { return }
      var generator = SeededGenerator(plan.schedule &+ UInt64(life))
      machine.cutPower(&generator, keep: keep)
    }
  }

  private func checkFormat() {
    let segments = machine.withState { state in
      state.names.files.keys.filter { $0.hasSuffix(".log") && $0.hasPrefix(Self.directory + "/") }.sorted()
        .compactMap { state.names.files[$0]?.content }
    }
    var events: UInt64 = 0
    for segment in segments {
      let check = FormatCheck(segment: segment)
      if let fault = check.fault() { fail(fault) }
      if check.baseOffset != events { fail("a segment begins with \(check.baseOffset), expected \(events)") }
      for frame in check.frames() { events += UInt64(frame.events) }
    }
    if events != model.required { fail("\(events) events by docs/FORMAT.md, expected \(model.required)") }
  }

  private func close() {
    guard let store else { return }
    let mayFail = failingLives.contains(life)
    if !mayFail { waitForTails(store) }
    let call = Call(.close, life: life, disk: disk, versions: [:], wasStopped: store.failure != nil)
    start(call) { () async throws(LogStoreError) in
      try await store.close()
      return Appended(offsets: 0..<0, versions: [], isRepeat: false)
    }
    self.store = nil
    guard scheduler.run(until: { call.answer != nil }) else { return failStuck("close") }
    collect()
    if case .success = call.answer { wasClosed = true }
  }

  /// Every follower reaches the end of the log.
  private func waitForTails(_ store: LogStore) {
    let end = store.reader.endOffset
    let isThere = scheduler.run { self.tails.allSatisfy { $0.isDone || $0.next >= end || $0.disk.isDead } }
    if !isThere { failStuck("a tail") }
  }

  private func letGoOfStore() {
    store?.abandon()
    store = nil
  }

  private func letGo() {
    letGoOfStore()
    for other in others { other.reader.close() }
    others = []
  }

  /// Lets everything end that can.
  private func finishPending(whole: Bool) -> Bool {
    let readers = whole ? 0 : others.count
    let isThere = scheduler.run {
      self.scheduler.others.count <= readers && self.calls.allSatisfy { $0.answer != nil }
        && (!whole || self.areTailsDone)
    }
    collect()
    if !isThere { failStuck("threads after the end of the process") }
    tails.removeAll { $0.isDone }
    return problem == nil
  }

  func failStuck(_ what: String) {
    fail("\(what): nobody goes on, or somebody never ends; there are \(scheduler.others)")
  }

  /// The last check, on a disk that does not fail: everything is there, can be appended to, and closed.
  private func end() {
    life += 1
    trace("— the end")
    disk = process()
    guard open(), let store else { return }
    var generator = SeededGenerator(plan.seed ^ 77)
    startAppend(isBuffered: false, &generator)
    waitForAnswers()
    do throws(LogStoreError) {
      if let problem = try model.check(store.reader) { return fail("at the end: \(problem)") }
    } catch {
      return fail("at the end: \(error)")
    }
    close()
    if problem != nil { return }
    letGo()
    guard finishPending(whole: true) else { return }
    machine.cutPower(&generator, keep: 0)
    life += 1
    disk = process()
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: disk)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      if !recovery.wasClosedCleanly { fail("closed, but not found so by a reader") }
      if let problem = try model.check(reader, openingIn: life) { fail("a reader at the end: \(problem)") }
      for stream in 0..<Self.streamCount {
        if let problem = try model.check(reader, stream: streamName(stream), from: 1) {
          fail("a reader at the end: \(problem)")
        }
      }
      reader.close()
      var verification = Verification(directory: Self.directory, disk: disk, progress: nil)
      try verification.run()
      if let damage = verification.report.findings.first { fail("verify: \(damage)") }
      // It reads every byte once more, slowly.
      if plan.seed % 8 == 0 { checkFormat() }
    } catch {
      fail("at the end: \(error)")
    }
    if !scheduler.run(until: { self.isQuiet }) { failStuck("the end") }
    collect()
  }
}
