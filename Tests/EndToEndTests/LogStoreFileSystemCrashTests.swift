import Foundation
import Synchronization
import Testing

extension LogStoreCommandTests {
  /// Power cuts on real file systems: the disk below them is recorded; images of what a power cut may leave of it are made,
  /// mounted, and checked by real processes.
  @Suite struct FileSystemCrashes {
    /// In an ordinary run.
    private static let fewStates: [FileSystem: Int] = [.ext4: 40, .xfs: 30, .btrfs: 10]

    @Test(
      "whatever a power cut leaves of the disk below, everything acknowledged is there and the store works",
      arguments: FileSystem.allCases)
    func anyStateOfTheDisk(fileSystem: FileSystem) async throws {
      guard await Mount.isPossible("power cuts on \(fileSystem.rawValue)") else { return }
      var random = SeededGenerator("power cuts on \(fileSystem.rawValue)")
      let wanted = crashStates ?? Self.fewStates[fileSystem] ?? 10
      var counts = DiskSession.Counts()
      while counts.states < wanted {
        var session = try await DiskSession(fileSystem)
        try await session.record(using: &random)
        try await session.cutPower(min(100, wanted - counts.states), using: &random, &counts)
        // Not every file system survives a torn sector of its own; but most of the time each does.
        try #require(counts.lostFileSystems < 10 + counts.states / 5, "\(fileSystem.rawValue) can't be mounted")
      }
      print(
        "\(fileSystem.rawValue): \(counts.states) states of \(counts.sessions) recorded disks, \(counts.atRisk) with "
          + "writes at risk, \(counts.torn) of which have lost some; \(counts.operations) writes and \(counts.flushes) "
          + "flushes, \(counts.acknowledged) events acknowledged; \(counts.lostFileSystems) more in which the file system "
          + "itself did not survive sectors that were torn apart")
      if wanted >= 10 { #expect(counts.torn > 0 && counts.acknowledged > 0, "nothing was ever at risk") }
    }
  }
}

/// Some processes on one recorded disk, and power cuts while they ran.
private struct DiskSession {
  struct Counts {
    var sessions = 0
    /// Checked states; ``lostFileSystems`` don't count.
    var states = 0
    var lostFileSystems = 0
    var atRisk = 0
    var torn = 0
    var operations = 0
    var flushes = 0
    var acknowledged = 0
  }

  private struct State: Sendable {
    var image: String
    var expected: CrashExpectation
    var atom: RecordedDisk.Atom
    var readsFirst: Bool
    var comment: String
  }

  private let fileSystem: FileSystem
  private let scratch: TemporaryDirectory
  private let recordPath: String
  private let basePath: String
  private var expected = CrashExpectation()
  /// What had been acknowledged at each length of the record, in order.
  private var marks: [(record: Int, offset: UInt64, payload: [UInt8])] = []
  /// The record's length when the file system had been mounted.
  private var start = 0

  init(_ fileSystem: FileSystem) async throws {
    self.fileSystem = fileSystem
    scratch = try TemporaryDirectory(isInMemory: true)
    recordPath = scratch.path + "/record"
    basePath = scratch.path + "/base"
    try await fileSystem.make(basePath, in: scratch)
  }

  private func recordByteCount() throws -> Int {
    var status = stat()
    guard stat(recordPath, &status) == 0 else { throw HarnessError("no record: \(errno)") }
    return Int(status.st_size)
  }

  // MARK: - Recording

  mutating func record(using random: inout SeededGenerator) async throws {
    let image = scratch.path + "/image"
    try await system(["cp", "--sparse=auto", basePath, image], in: scratch)
    var session = self
    try await Mount.withRecorder(image: image, record: recordPath, fileSystem, in: scratch) { mount in
      session.start = try session.recordByteCount()
      let store = StoreUnderTest(mount.path + "/store", in: session.scratch)
      for round in 1...4 {
        try await session.append(to: store, round, using: &random)
        switch Int.random(in: 0..<5, using: &random) {
        case 0: try #require(try await store.run("dump").exitCode == 0)
        case 1: try #require(try await store.run("reindex").exitCode == 0)
        case 2:
          let tail = try store.start("tail", "--cursor", "c")
          if try await tail.line() != nil { tail.signal(SIGTERM) }
          try #require(try await tail.endByItself().exitCode == 0)
        default: break
        }
      }
    }
    self = session
    try? FileManager.default.removeItem(atPath: image)
  }

  /// One writer, which is given a few lines at a time, and ends cleanly or is killed.
  private mutating func append(to store: StoreUnderTest, _ round: Int, using random: inout SeededGenerator) async throws
  {
    let batch = [1, 3].randomElement(using: &random) ?? 1
    let input = expected.input(
      round: round, batches: Int.random(in: 10...(240 / batch), using: &random), batch: batch, fillerMax: 700,
      using: &random)
    let lines = input.split(separator: UInt8(ascii: "\n"))
    let process = try store.start("append", "--segment-size", "64KiB", "--batch", "\(batch)")
    var sent = 0
    while sent < lines.count {
      // Alone, so that nothing but its own sync can have made it durable; or many at once.
      let count = min(
        batch * (Bool.random(using: &random) ? 1 : Int.random(in: 1...30, using: &random)), lines.count - sent)
      let part = lines[sent..<sent + count]
      try await process.send(Array(part.map { $0 + [UInt8(ascii: "\n")] }.joined()))
      for line in part {
        let answer = try await process.line()
        guard let answer, answer.hasPrefix("ok "), let offset = UInt64(answer.dropFirst(3)) else {
          throw HarnessError("\(answer ?? "no answer"); \(process.errorsSoFar)")
        }
        let payload = Array(line[(line.lastIndex(of: 9) ?? line.startIndex).advanced(by: 1)...])
        marks.append((try recordByteCount(), offset, payload))
      }
      sent += count
    }
    if Bool.random(using: &random) { process.signal(SIGKILL) }
    let finished = try await process.end()
    try #require(finished.exitCode == 0 || finished.signal == SIGKILL, "\(finished.errors)")
  }

  // MARK: - Cutting

  mutating func cutPower(_ count: Int, using random: inout SeededGenerator, _ counts: inout Counts) async throws {
    var disk = try RecordedDisk(record: recordPath, base: basePath)
    let first = disk.operations(at: start)
    // At any write; before a flush, when most is at risk; or when a response was read, when most is promised.
    let flushes = disk.flushes(from: first)
    var cuts = (0..<count).map { _ in
      switch Int.random(in: 0..<3, using: &random) {
      case 0 where !marks.isEmpty: disk.operations(at: marks[Int.random(in: marks.indices, using: &random)].record)
      case 1 where !flushes.isEmpty: flushes[Int.random(in: flushes.indices, using: &random)]
      default: Int.random(in: first...disk.operationCount, using: &random)
      }
    }
    cuts.sort()
    counts.sessions += 1
    counts.operations += disk.operationCount - disk.flushCount
    counts.flushes += disk.flushCount
    counts.acknowledged += marks.count
    var known = 0
    var states: [State] = []
    for (number, cut) in cuts.enumerated() {
      while known < marks.count, marks[known].record <= disk.recordByteCount(after: cut) {
        expected.acknowledge(marks[known].offset, marks[known].payload)
        known += 1
      }
      let image = scratch.newPath("state")
      let atom = RecordedDisk.Atom.allCases.randomElement(using: &random) ?? .page
      let risk = try await disk.makeState(at: image, cut: cut, tearing: atom, in: scratch, using: &random)
      counts.atRisk += risk.atRisk > 0 ? 1 : 0
      counts.torn += risk.lostSectors > 0 ? 1 : 0
      states.append(
        State(
          image: image, expected: expected, atom: atom, readsFirst: Bool.random(using: &random),
          comment: "\(fileSystem.rawValue), cut after operation \(cut) of \(disk.operationCount), \(known) events "
            + "acknowledged, \(risk.atRisk) writes at risk, \(risk.lostSectors) sectors lost by the \(atom)"))
      // A few at a time, since each takes its room.
      if states.count == 8 || number == cuts.count - 1 {
        let lost = Atomic(0)
        try await inParallel(states, width: fileSystem.mountsAtATime) { [fileSystem] state in
          if !(try await Self.check(state, fileSystem)) { lost.add(1, ordering: .relaxed) }
        }
        counts.lostFileSystems += lost.load(ordering: .relaxed)
        counts.states += states.count - lost.load(ordering: .relaxed)
        states = []
      }
    }
  }

  /// Returns false if the file system itself was lost with sectors of its own. LogStore can't prevent that: ext4 needs the
  /// two sectors of its superblock written together, btrfs the eight of its own, XFS those of a block, as disks with pages
  /// of 4,096 bytes do.
  private static func check(_ state: State, _ fileSystem: FileSystem) async throws -> Bool {
    let scratch = try TemporaryDirectory(isInMemory: true)
    defer { try? FileManager.default.removeItem(atPath: state.image) }
    do {
      try await Mount.with(image: state.image, fileSystem, in: scratch) { mount in
        let store = StoreUnderTest(mount.path + "/store", in: scratch)
        try await state.expected.expect(store, readsFirst: state.readsFirst, Comment(rawValue: state.comment))
      }
    } catch is Mount.Refused where state.atom == .sector {
      return false
    }
    return true
  }
}
