import Glibc

@testable import LogStore

// A disk that can't read some pages of a file for a while, and then is well again: reads of them fail, mappings have zeros
// there and know it, writes of a part of them fail too. Nothing wrong is served meanwhile; every error names the file and
// the position and calls nothing damaged; a repair saves everything outside those pages; and nothing is lost once the disk
// is well.

extension Simulation {
  /// Checks a copy of the disk with unreadable pages in every way, and again when they can be read.
  ///
  /// With threads of its own, so that the rest of the history is not affected.
  func loseSight(_ seed: UInt64) {
    let prefix = Self.directory + "/"
    guard machine.withState({ $0.names.files[prefix + FileName.store] != nil }) else { return }
    UnreadableDisk(self, seed: seed).run()
  }
}

/// Proof for Sendable: tasks run in turns with everything else, on the same thread.
private final class Answer<Value: Sendable>: @unchecked Sendable {
  var answer: Result<Value, LogStoreError>?
}

/// A copy of a history's machine with unreadable pages, and everything that uses it.
///
/// Proof for Sendable: used in turns, on the one thread that runs its history.
final class UnreadableDisk: @unchecked Sendable {
  static let directory = Simulation.directory

  let simulation: Simulation
  let machine: SimulatedMachine
  let threads: FiberScheduler
  var generator: SeededGenerator
  var model: Model
  /// A writer has opened the store, so that the model knows what became of every append.
  private var isSettled = false
  /// The file with the pages.
  private(set) var path = ""
  private var pages: Set<Int> = []
  /// The position at which a write may have been cut off, so that a repair, which does not need the end of the log, finds a
  /// part of it.
  private var unfinished: (path: String, position: Int)?
  private var processCount = 90
  private(set) var hasFailed = false
  /// The end of an earlier backup.
  var backedUp: UInt64?

  init(_ simulation: Simulation, seed: UInt64) {
    self.simulation = simulation
    machine = simulation.machine.copy()
    threads = FiberScheduler(seed: seed, pool: simulation.pool)
    generator = SeededGenerator(seed)
    model = Model(copying: simulation.model)
    let isTraced = simulation.machine.withState { $0.trace != nil }
    let stallsOneIn: UInt64 = [0, 4, 20, 200].drawn(&generator)
    let failsElsewhereOneIn: UInt64 = [0, 0, 3, 20].drawn(&generator)
    machine.withState { state in
      state.losesPages = true
      state.noise.stallsOneIn = stallsOneIn
      state.noise.failsElsewhereOneIn = failsElsewhereOneIn
      if isTraced { state.trace = [] }
    }
  }

  // MARK: - What is said of it

  func fail(_ text: String) {
    if hasFailed { return }
    hasFailed = true
    simulation.fail("\(path) can't be read in pages \(pages.sorted()): \(text)")
  }

  func trace(_ text: @autoclosure () -> String) {
    machine.withState { state in if state.trace != nil { state.trace?.append(text()) } }
  }

  func process() -> SimulatedDisk {
    processCount += 1
    return SimulatedDisk(machine, number: processCount, scheduler: threads)
  }

  /// Whether the error is right: unreadable bytes are no damage, and readable ones are sound.
  func isDue(_ damage: Damage) -> Bool {
    damage.file == path && damage.reason.contains("can't be read")
      && pages.contains(Int(clamping: damage.position) / Inode.pageByteCount)
  }

  func isDue(_ error: LogStoreError) -> Bool {
    if case .unreadable(let damage) = error { isDue(damage) } else { false }
  }

  func expectDue(_ error: LogStoreError, _ what: String) {
    if !isDue(error) { fail("\(what): \(error)") }
  }

  func expectDue(_ findings: [Damage], _ what: String) {
    if let other = findings.first(where: { !isDue($0) }) { fail("\(what) finds \(other)") }
  }

  /// As ``isDue(_:)``, for one that takes all that there is. Of a segment that was still being made when its process died it
  /// says that it is there.
  private func isDueToAll(_ damage: Damage) -> Bool {
    let isUnfinished = unfinished.map { damage.file == $0.path && damage.position >= $0.position } ?? false
    let name = fileName(of: damage.file)
    // With a name of its own, if the next writer found something else in it.
    let isAside =
      FileName.isAside(name)
      || name.firstRange(of: ".kept-").map { FileName.isAside(String(name[..<$0.lowerBound])) } ?? false
    return isDue(damage) || isUnfinished || isAside
  }

  private func noteUnfinished() {
    let prefix = Self.directory + "/"
    unfinished = machine.withState { state in
      guard state.names.files[prefix + FileName.clean] == nil,
        let path = state.names.files.keys.filter({ $0.hasPrefix(prefix) && $0.hasSuffix(".log") }).max(),
        let inode = state.names.files[path]
      else { return nil }
      return (path, FormatCheck(segment: inode.content).frames().map(\.synced).max() ?? 0)
    }
  }

  /// There still is something that can't be read under the name: the engine may have put another file in the place of one that
  /// it can make again.
  private var isStillUnreadable: Bool {
    machine.withState { state in state.names.files[path].map { !$0.unreadable.isEmpty } ?? false }
  }

  private var isOfSegment: Bool { path.hasSuffix(".log") }

  // MARK: - How it goes

  func run() {
    let writer = generator.oneIn(3) ? nil : openWell()
    if !isSettled { noteUnfinished() }
    if hasFailed { return }
    if generator.oneIn(2) { backUpWell() }
    let reader = generator.oneIn(3) ? openReader() : nil
    if !hasFailed, loseSight(.inStore) {
      // First: it does not follow the writer.
      if let reader { read(reader, "a reader of before", openingIn: nil) }
      if let writer { use(writer) }
      let looks: [() -> Void] = [verify, dump, readAnew, serve, repair, reindex, backUp].shuffled(using: &generator)
      for look in looks where !hasFailed && generator.oneIn(2) { look() }
      machine.withState { state in for inode in state.names.files.values { inode.makeReadable() } }
    } else {
      writer?.abandon()
    }
    reader?.close()
    expectEnd()
    if !hasFailed { expectWell() }
    if !hasFailed { loseBackup() }
    expectEnd()
    let operations = machine.withState { $0.trace ?? [] }
    for operation in operations { simulation.trace("  \(operation)") }
  }

  private func expectEnd() {
    if !threads.run(until: { self.threads.others.isEmpty }), !hasFailed {
      hasFailed = true
      simulation.failStuck("a disk that can't be read in \(path)")
    }
  }

  /// Runs a task to its end.
  func answer<Value: Sendable>(
    _ body: @escaping @Sendable () async throws(LogStoreError) -> Value
  ) -> Result<Value, LogStoreError>? {
    let box = Answer<Value>()
    Task(executorPreference: threads) {
      do throws(LogStoreError) {
        box.answer = .success(try await body())
      } catch {
        box.answer = .failure(error)
      }
    }
    if !threads.run(until: { box.answer != nil }) { expectEnd() }
    return box.answer
  }

  /// A writer, or what one has left, before anything is unreadable.
  private func openWell() -> LogStore? {
    do throws(LogStoreError) {
      let store = try LogStore.open(Self.directory, options: Simulation.options, disk: process())
      if let problem = try model.check(store.reader, openingIn: simulation.life + 1) { fail("before: \(problem)") }
      isSettled = true
      switch generator.below(3) {
      case 0: return store
      case 1:
        if case .failure(let error)? = answer({ () async throws(LogStoreError) in try await store.close() }) {
          fail("before: \(error)")
        }
      default: store.abandon()
      }
      expectEnd()
    } catch {
      fail("before: \(error)")
    }
    return nil
  }

  private func openReader() -> LogReader? {
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: process(), follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      // Some of the files are mapped, or all.
      if generator.oneIn(2) { read(reader, "a reader before", openingIn: nil) }
      return reader
    } catch {
      fail("a reader before: \(error)")
      return nil
    }
  }

  enum Files { case inStore, inBackup, inBackupFile }

  /// Takes one to three pages of one file away; false if there is none.
  func loseSight(_ files: Files) -> Bool {
    let prefix =
      switch files {
      case .inStore: Self.directory + "/"
      case .inBackup: Self.backup + "/"
      case .inBackupFile: Self.backupFile
      }
    let isChosen = machine.withState { state in
      let paths = state.names.files.keys.filter { path in
        let name = path.dropFirst(prefix.count)
        guard path.hasPrefix(prefix), state.names.files[path].map({ $0.byteCount > 0 }) ?? false else { return false }
        return switch files {
        case .inStore:
          name.hasSuffix(".log") || name.hasSuffix(".idx") || name == FileName.store || name == FileName.clean
            || name == FileName.tail
        case .inBackup: name.hasSuffix(".segment") || name == BackupFileName.manifest
        case .inBackupFile: name.isEmpty
        }
      }.sorted()
      guard !paths.isEmpty else { return false }
      path = paths.drawn(&generator)
      pages = []
      guard let inode = state.names.files[path] else { return false }
      // Where there is something, mostly; behind that the zeros that a segment has ahead.
      let used = inode.byteCount - (generator.oneIn(4) ? 0 : inode.content.reversed().prefix { $0 == 0 }.count)
      let count = max(used - 1, 0) / Inode.pageByteCount + 1
      for _ in 0..<1 + generator.below(3) { pages.insert(generator.below(count)) }
      for page in pages.sorted() { inode.makeUnreadable(page) }
      return true
    }
    if isChosen { trace("unreadable: \(path), pages \(pages.sorted())") }
    return isChosen
  }

  // MARK: - A writer at work

  private func use(_ store: LogStore) {
    read(store.reader, "the writer of before", openingIn: nil)
    for _ in 0..<1 + generator.below(3) where !hasFailed { append(store) }
    scrub(store)
    if generator.oneIn(2) { verify() }
    if generator.oneIn(2) { backUp() }
    close(store)
  }

  private func close(_ store: LogStore) {
    if generator.oneIn(3) {
      store.abandon()
    } else if case .failure(let error)? = answer({ () async throws(LogStoreError) in try await store.close() }) {
      if !isOfWrite(error) { fail("close: \(error)") }
    }
    expectEnd()
  }

  /// What becomes of a write to pages that can't be read, and of what follows.
  private func isOfWrite(_ error: LogStoreError) -> Bool {
    switch error {
    case .stopped: true
    case .inputOutput(_, let file, EIO): file == path
    default: isDue(error)
    }
  }

  private func append(_ store: LogStore) {
    let known = model.attempts.indices.filter { number in
      let attempt = model.attempts[number]
      return attempt.status == .placed && attempt.append.cursors.isEmpty && !attempt.append.events.isEmpty
        && attempt.append.events.allSatisfy { $0.id != nil }
    }
    let number: Int
    if !known.isEmpty, generator.oneIn(2) {
      number = known.drawn(&generator)
      model.beginAgain(number)
    } else {
      let stream = simulation.streamName(generator.below(Simulation.streamCount))
      let byteCount = generator.below(simulation.plan.payloadByteCount * 2)
      let version = model.versions[stream] ?? 0
      let conditions: StreamConditions = generator.oneIn(2) ? [:] : [stream: .version(version)]
      number = model.begin { number in
        Append(
          [
            NewEvent(
              stream: stream, type: "t",
              payload: Payload.make(attempt: number, ordinal: 0, byteCount: byteCount),
              id: EventID(high: 0xE7, low: UInt64(number) << 16))
          ], conditions: conditions)
      }
    }
    let append = model.attempts[number].append
    switch answer({ () async throws(LogStoreError) in try await store.append(append) }) {
    case .success(let done)?:
      if let problem = model.acknowledge(number, done, isBuffered: false, life: simulation.life + 1) { fail(problem) }
    case .failure(let error)?:
      model.fail(number)
      if !isOfWrite(error) { fail("append \(number): \(error)") }
    case nil: break
    }
  }

  private func scrub(_ store: LogStore) {
    let segments = store.reader.commitPoint.segments
    var found: [Damage] = []
    let run = ScrubRun(segments, pause: { _ in true }, found: { found.append($0) }, read: { _ in })
    _ = run.readIndexes()
    let finished = segments.bases.dropLast()
    for base in finished { _ = run.readSegment(base) }
    expectDue(found, "scrub")
    let name = String(path.dropFirst(Self.directory.utf8.count + 1))
    let isRead =
      FileName.baseOffset(name, suffix: ".log").map(finished.contains)
      ?? (name == FileName.store || FileName.indexRange(name) != nil)
    if isRead, isStillUnreadable, found.isEmpty { fail("scrub finds nothing") }
  }

  // MARK: - Readers

  /// Reads everything; gives back what is known then, if all could be read.
  @discardableResult
  func read(_ reader: LogReader, _ what: String, openingIn life: Int?) -> Model? {
    let model = Model(copying: model)
    for stream in 0..<Simulation.streamCount {
      do throws(LogStoreError) {
        if let problem = try model.check(reader, stream: simulation.streamName(stream), from: 1) {
          fail("\(what): \(problem)")
        }
      } catch {
        expectDue(error, "\(what), a stream")
      }
    }
    do throws(LogStoreError) {
      if let problem = try model.check(reader, openingIn: life) { fail("\(what): \(problem)") }
      return model
    } catch {
      expectDue(error, what)
      return nil
    }
  }

  private func readAnew() {
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Self.directory, disk: process(), follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      defer { reader.close() }
      read(reader, "a reader", openingIn: simulation.life + 1)
    } catch {
      expectDue(error, "a reader")
    }
  }

  /// A writer that serves what can be read.
  private func serve() {
    do throws(LogStoreError) {
      var options = Simulation.options
      options.servesDamaged = generator.oneIn(2)
      let store = try LogStore.open(Self.directory, options: options, disk: process())
      expectDue(store.recovery.damagedFiles, "opening")
      passOver(store.reader)
      if let seen = read(store.reader, "a writer", openingIn: simulation.life + 1) {
        model = seen
        isSettled = true
      }
      if !hasFailed, isSettled { append(store) }
      if !hasFailed { scrub(store) }
      close(store)
    } catch {
      expectDue(error, "opening")
    }
  }

  private func passOver(_ reader: LogReader) {
    let model = Model(copying: model)
    var next: UInt64 = 0
    var left = 0
    do throws(LogStoreError) {
      try reader.forEach(from: 0, waitsForDisk: false) { range in
        expectDue([range.damage], "passing over")
        // One without an event may be told before its place is come to.
        if range.offsets.isEmpty { return }
        if range.offsets.lowerBound != next { fail("offsets \(range.offsets) are passed over at \(next)") }
        left += range.offsets.count
        next = range.offsets.upperBound
      } _: { event in
        if event.offset != next { fail("passing over: offset \(event.offset), expected \(next)") }
        if let problem = model.see(event) { fail("passing over: \(problem)") }
        next = event.offset + 1
        return !hasFailed
      }
      if next < reader.endOffset { fail("passing over ends with \(next), the log with \(reader.endOffset)") }
      if left > 0, !isOfSegment { fail("\(left) events are passed over") }
    } catch {
      fail("passing over: \(error)")
    }
  }

  // MARK: - Programs

  private func verify() {
    var verification = Verification(directory: Self.directory, disk: process(), progress: nil)
    do throws(LogStoreError) {
      try verification.run()
      expectDue(verification.report.findings, "verify")
      if isStillUnreadable, verification.report.findings.isEmpty { fail("verify finds nothing") }
    } catch {
      expectDue(error, "verify")
    }
  }

  private func dump() {
    let model = Model(copying: model)
    var next: UInt64 = 0
    var left = 0
    do throws(LogStoreError) {
      let report = try DamagedLog(Self.directory, disk: process()).forEach { range, damage in
        if range.lowerBound != next { self.fail("dump: \(range) is missing after \(next)") }
        if damage.map({ self.isDueToAll($0) }) != true { self.fail("dump: \(range) is missing: \(damage as Any)") }
        if range.lowerBound < self.model.required { left += range.count }
        next = range.upperBound
      } _: { event in
        if event.offset != next { self.fail("dump: offset \(event.offset), expected \(next)") }
        if let problem = model.see(event) { self.fail("dump: \(problem)") }
        next = event.offset + 1
        return !self.hasFailed
      }
      expectDue(report.findings.filter { !isDueToAll($0) }, "dump")
      if isStillUnreadable, report.findings.isEmpty { fail("dump finds nothing") }
      if next < self.model.required, !report.isEndUnknown || !isOfSegment {
        fail("dump ends with \(next), and the log with \(self.model.required)")
      }
      if left > 0, !isOfSegment { fail("dump leaves out \(left) events") }
    } catch {
      expectDue(error, "dump")
    }
  }

  private static let mended = "mended"

  private func repair() {
    let model = Model(copying: model)
    defer { removeDirectory(Self.mended) }
    do throws(LogStoreError) {
      let report = try RepairRun(directory: Self.directory, disk: process(), progress: nil).run(to: Self.mended)
      expectDue(report.findings.filter { !isDueToAll($0) }, "repair")
      if isStillUnreadable, report.findings.isEmpty { fail("repair finds nothing") }
      for missing in report.missing where missing.damage.map({ isDueToAll($0) }) != true {
        fail("repair: \(missing.offsets) are missing: \(missing.damage as Any)")
      }
      let (follower, commitPoint, recovery) = try Follower.open(Self.mended, disk: process(), follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      defer { reader.close() }
      var count: UInt64 = 0
      try reader.forEach(from: 0) { event in
        if let problem = model.see(event) { self.fail("repaired: \(problem)") }
        count += 1
        return true
      }
      if count != report.events { fail("\(count) of \(report.events) repaired events") }
      let lost = report.missing.first { $0.offsets.lowerBound < self.model.required }
      if let lost, !isOfSegment { fail("a repair loses \(lost)") }
      if report.endOffset < self.model.required, !report.isEndUnknown || !isOfSegment {
        fail("a repair ends with \(report.endOffset), and the log with \(self.model.required)")
      }
    } catch {
      if case .repairRefused = error, isOfSegment { return }
      // Without its header nothing tells whether a segment behind the end that `tail` names is of this history.
      if case .repairUndecided = error, isOfSegment, pages.contains(0) { return }
      fail("repair: \(error)")
    }
  }

  private func reindex() {
    do throws(LogStoreError) {
      _ = try LogStore.reindex(Self.directory, disk: process(), progress: nil)
    } catch {
      expectDue(error, "reindex")
    }
  }

  func removeDirectory(_ directory: String) {
    machine.withState { state in
      state.names.files = state.names.files.filter { !$0.key.hasPrefix(directory + "/") }
      state.names.directories.remove(directory)
    }
  }

  // MARK: - Well again

  private func expectWell() {
    do throws(LogStoreError) {
      let store = try LogStore.open(Self.directory, options: Simulation.options, disk: process())
      if let problem = try model.check(store.reader, openingIn: simulation.life + 2) { fail("well again: \(problem)") }
      for stream in 0..<Simulation.streamCount {
        if let problem = try model.check(store.reader, stream: simulation.streamName(stream), from: 1) {
          fail("well again: \(problem)")
        }
      }
      let ended = answer { () async throws(LogStoreError) in
        try await store.waitUntilIndexed()
        try await store.close()
      }
      if case .failure(let error)? = ended { fail("well again: \(error)") }
      var verification = Verification(directory: Self.directory, disk: process(), progress: nil)
      try verification.run()
      if let damage = verification.report.findings.first { fail("well again, verify: \(damage)") }
    } catch {
      fail("well again: \(error)")
    }
  }
}
