import Foundation
import Testing

/// How often the power is cut on each kind of disk. LOGSTORE_CRASH_STATES sets it.
let crashStates = ProcessInfo.processInfo.environment["LOGSTORE_CRASH_STATES"].flatMap(Int.init)

extension LogStoreCommandTests {
  /// Power cuts on a disk that guarantees only what POSIX says: real processes are recorded, states are made from their
  /// calls, and real processes check what is left.
  @Suite struct StrictCrashes {
    @Test(
      "whatever POSIX allows to be lost of what was not synced, everything acknowledged is there and the store works")
    func anyStateAllowed() async throws {
      var random = SeededGenerator("power cuts by the letter of POSIX")
      let wanted = crashStates ?? 80
      var counts = StrictSession.Counts()
      while counts.states < wanted {
        var session = try await StrictSession(startsFull: Bool.random(using: &random))
        try await session.run(using: &random, &counts)
      }
      print(
        "\(counts.states) states of \(counts.sessions) recorded runs, \(counts.recoveries) with a cut in the recovery")
    }
  }
}

/// Some processes one after the other on one store, and states in which the power was cut while they ran.
private struct StrictSession {
  struct Counts {
    var sessions = 0
    var states = 0
    var recoveries = 0
  }

  /// Cuts in each process.
  private static let cuts = 12

  private enum Step: CaseIterable {
    case append, read, cursor, reindex, backup, restore
  }

  private struct State: Sendable {
    var path: String
    var expected: CrashExpectation
    var readsFirst: Bool
    var cutsRecovery: Bool
    var random: SeededGenerator
    var comment: String
  }

  private let scratch: TemporaryDirectory
  private let root: String
  private let store: StoreUnderTest
  private var disk: StrictDisk
  private var expected = CrashExpectation()
  /// How many events were there when the cursor was last moved.
  private var countAtCursor = 0

  /// - Parameter startsFull: with a store of several segments, whose index is about to be merged.
  init(startsFull: Bool) async throws {
    scratch = try TemporaryDirectory(isInMemory: true)
    root = scratch.path + "/data"
    store = StoreUnderTest(root + "/store", in: scratch)
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: false)
    if startsFull {
      let templates = try await Templates.shared.value
      try FileManager.default.copyItem(atPath: templates.scratch.path + "/clean", toPath: store.path)
      expected.base = templates.clean
    }
    disk = try StrictDisk(root: root)
  }

  mutating func run(using random: inout SeededGenerator, _ counts: inout Counts) async throws {
    counts.sessions += 1
    for round in 1...5 {
      // Mostly appends, and always until there is something to lose.
      let count = expected.base.count + expected.acknowledged.count
      let step =
        count == 0 || round == 1 || Bool.random(using: &random)
        ? .append : Step.allCases.randomElement(using: &random) ?? .read
      if step == .restore, expected.backedUp == 0 || expected.restored != nil { continue }
      if step == .cursor {
        // A cursor that is at the end prints nothing.
        if count == countAtCursor { continue }
        countAtCursor = count
      }
      let isKilled = Int.random(in: 0..<3, using: &random) == 0
      let log = scratch.newPath("log")
      let tracer = try await Shim.words(
        root: root,
        faults: isKilled
          ? [Shim.Fault(call: "*", number: Int.random(in: 1...400, using: &random), action: .kill)] : [],
        log: log, withData: true)
      let finished = try await take(step, round, tracer, using: &random)
      #expect(
        finished.exitCode == 0 || finished.signal == SIGKILL, "\(step) failed: \(finished.errors) \(finished.text)")
      let records = try ShimRecord.read(log)
      try? FileManager.default.removeItem(atPath: log)
      let states = try follow(records, "\(step) number \(round)", using: &random)
      counts.states += states.count
      counts.recoveries += states.count { $0.cutsRecovery }
      try await inParallel(states) { try await Self.check($0) }
      guard try isAsRecorded() else {
        // A call that another thread was in when the process was killed: whether it was done is not in the log.
        #expect(finished.signal == SIGKILL, "the model is not what the system shows after \(step)")
        return
      }
    }
  }

  private mutating func take(
    _ step: Step, _ round: Int, _ tracer: [String], using random: inout SeededGenerator
  ) async throws -> Finished {
    switch step {
    case .append:
      let batch = [1, 2, 5].randomElement(using: &random) ?? 1
      // Up to two segments.
      let input = expected.input(
        round: round, batches: Int.random(in: 1...(400 / batch), using: &random), batch: batch, fillerMax: 500,
        using: &random)
      return try await store.run(
        ["append", "--segment-size", "64KiB", "--batch", "\(batch)"], input: input, under: tracer)
    case .read: return try await store.run(["dump"], under: tracer)
    case .cursor:
      let process = try store.start("tail", "--cursor", "c", under: tracer)
      if try await process.line() != nil { process.signal(SIGTERM) }
      return try await process.endByItself()
    case .reindex: return try await store.run(["reindex"], under: tracer)
    case .backup: return try await store.run(["backup", "--to", root + "/backup/"], under: tracer)
    case .restore:
      return try await StoreUnderTest(root + "/restored", in: scratch).run(
        ["restore", "--from", root + "/backup/"], under: tracer)
    }
  }

  /// Replays the calls of a process, and makes states on the way.
  private mutating func follow(
    _ records: [ShimRecord], _ name: String, using random: inout SeededGenerator
  ) throws -> [State] {
    var cuts: Set<Int> = []
    for _ in 0..<min(Self.cuts, records.count) {
      var cut = Int.random(in: 0..<records.count, using: &random)
      // Preferably where something has just been promised, or is about to be.
      if Bool.random(using: &random) {
        cut = records[cut...].firstIndex { ["write", "fdatasync", "fsync", "rename"].contains($0.call) } ?? cut
      }
      cuts.insert(cut)
    }
    disk.beginProcess()
    var states: [State] = []
    for (index, record) in records.enumerated() {
      if record.call == "write", record.phase == .begin, record.path == "<stdout>" { try expected.heard(record.data) }
      try disk.follow(record)
      guard cuts.contains(index) else { continue }
      let path = scratch.newPath("state")
      let seed = random.next()
      var own = SeededGenerator(seed: seed)
      try disk.makeState(at: path, using: &own)
      states.append(
        State(
          path: path, expected: expected, readsFirst: Bool.random(using: &own),
          cutsRecovery: Int.random(in: 0..<4, using: &own) == 0, random: own,
          comment: "\(name), cut at record \(index) of \(records.count) (\(record.call) \(record.path)), state \(seed)")
      )
    }
    return states
  }

  /// The model of the disk, with nothing lost, is what is there.
  private func isAsRecorded() throws -> Bool {
    let path = scratch.newPath("present")
    try disk.makePresent(at: path)
    defer { try? FileManager.default.removeItem(atPath: path) }
    return FileManager.default.contentsEqual(atPath: path, andPath: root)
  }

  private static func check(_ state: State) async throws {
    var state = state
    let scratch = try TemporaryDirectory(isInMemory: true)
    var paths = [state.path]
    defer { for path in paths { try? FileManager.default.removeItem(atPath: path) } }
    if state.cutsRecovery {
      // The power is cut again while the store is opened and written to.
      var disk = try StrictDisk(root: state.path)
      let log = scratch.newPath("log")
      let input = state.expected.input(round: 99, batches: 6, batch: 2, fillerMax: 300, using: &state.random)
      let finished = try await StoreUnderTest(state.path + "/store", in: scratch).run(
        ["append", "--segment-size", "64KiB", "--batch", "2"], input: input,
        under: try await Shim.words(root: state.path, log: log, withData: true))
      #expect(finished.exitCode == 0, "\(state.comment): \(finished.errors)")
      let records = try ShimRecord.read(log)
      let cut = records.isEmpty ? 0 : Int.random(in: 0..<records.count, using: &state.random)
      disk.beginProcess()
      for record in records.prefix(cut) {
        if record.call == "write", record.phase == .begin, record.path == "<stdout>" {
          try state.expected.heard(record.data)
        }
        try disk.follow(record)
      }
      let second = state.path + ".again"
      paths.append(second)
      try disk.makeState(at: second, using: &state.random)
      state.path = second
      state.comment += ", and at record \(cut) of its recovery"
    }
    let comment = Comment(rawValue: state.comment)
    let store = StoreUnderTest(state.path + "/store", in: scratch)
    try await state.expected.expect(store, readsFirst: state.readsFirst, comment)
    try await checkBackup(state, store, scratch, comment)
  }

  private static func checkBackup(
    _ state: State, _ store: StoreUnderTest, _ scratch: TemporaryDirectory, _ comment: Comment
  ) async throws {
    let files = FileManager.default
    let backup = state.path + "/backup/"
    let isThere = files.fileExists(atPath: backup + "manifest")
    #expect(isThere || state.expected.backedUp == 0, "the backup is gone: \(comment)")
    if isThere {
      let copy = StoreUnderTest(scratch.path + "/copy", in: scratch)
      let result = try await copy.run("restore", "--from", backup)
      #expect(result.exitCode == 0, "\(comment): restoring failed: \(result.errors)")
      let copied = try await copy.dump()
      #expect(copied.count >= state.expected.backedUp, "the backup lacks events: \(comment)")
      #expect(try await store.dump().starts(with: copied), "the backup has other events: \(comment)")
      let next = try await store.run("backup", "--to", backup)
      #expect(next.exitCode == 0, "\(comment): the next backup failed: \(next.errors)")
    }
    let restored = StoreUnderTest(state.path + "/restored", in: scratch)
    let isRestored = files.fileExists(atPath: restored.path)
    #expect(isRestored || state.expected.restored == nil, "the restored store is gone: \(comment)")
    if isRestored {
      let events = try await restored.dump()
      #expect(events.count == state.expected.backedUp, "not all was restored: \(comment)")
      try await restored.expectSound(comment)
    }
  }
}
