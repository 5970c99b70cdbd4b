import Foundation
import Testing

/// A call of the command on a store that was made ready for it, and what must hold afterwards, whatever happened to it
/// on the way: the tests that fail each of its calls and those that kill it before each are the same but for that.
struct Operation: Sendable, CustomTestStringConvertible {
  /// What is there before.
  enum Start: Sendable {
    case nothing
    /// Closed cleanly; index files that are about to be merged.
    case clean
    /// The writer was killed, and what it wrote last is proven by nothing.
    case dead
  }

  enum Kind: Sendable, Equatable {
    /// Lines from standard input, a number of them per atomic append.
    case append(lines: Int, batch: Int)
    case read
    case follow
    case followCursor
    case reindex
    /// To a directory, a file or standard output.
    case backup(to: String)
    case restore(from: String)
  }

  var name: String
  var start: Start
  var kind: Kind
  /// Behind `--dir`, for those whose kind doesn't say all.
  var arguments: [String] = []
  /// There is a backup of an older state already.
  var hasOlderBackup = false

  var testDescription: String { name }

  static let all = [
    Operation(name: "append to nothing", start: .nothing, kind: .append(lines: 12, batch: 3)),
    Operation(name: "append over segments", start: .clean, kind: .append(lines: 1200, batch: 2)),
    Operation(name: "append after a crash", start: .dead, kind: .append(lines: 20, batch: 1)),
    Operation(name: "dump", start: .clean, kind: .read, arguments: ["dump"]),
    Operation(name: "dump after a crash", start: .dead, kind: .read, arguments: ["dump"]),
    Operation(name: "dump of a stream", start: .clean, kind: .read, arguments: ["dump", "--stream", "s3"]),
    Operation(name: "verify", start: .clean, kind: .read, arguments: ["verify"]),
    Operation(name: "verify after a crash", start: .dead, kind: .read, arguments: ["verify"]),
    Operation(name: "stat", start: .clean, kind: .read, arguments: ["stat", "--json"]),
    Operation(name: "tail", start: .dead, kind: .follow),
    Operation(name: "tail with a cursor", start: .dead, kind: .followCursor),
    Operation(name: "reindex", start: .clean, kind: .reindex),
    Operation(name: "backup to a directory", start: .clean, kind: .backup(to: "directory")),
    Operation(
      name: "backup to a directory that has an older one", start: .clean, kind: .backup(to: "directory"),
      hasOlderBackup: true),
    Operation(
      name: "backup to a file that has an older one", start: .clean, kind: .backup(to: "file"), hasOlderBackup: true),
    Operation(name: "backup to standard output", start: .dead, kind: .backup(to: "output")),
    Operation(name: "restore from a directory", start: .clean, kind: .restore(from: "directory")),
    Operation(name: "restore from a file", start: .clean, kind: .restore(from: "file")),
  ]
}

/// The stores that operations begin with, made once.
struct Templates: Sendable {
  let scratch: TemporaryDirectory
  let clean: [DumpedEvent]
  let dead: [DumpedEvent]
  /// Events in the older backups.
  static let olderCount = 1500

  static let shared = Task { try await Templates() }

  private init() async throws {
    scratch = try TemporaryDirectory(isInMemory: true)
    let clean = StoreUnderTest(scratch.path + "/clean", in: scratch)
    try await clean.fill(Self.olderCount)
    let target = scratch.path + "/older"
    try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: false)
    for name in ["directory/", "file"] {
      try #require(try await clean.run("backup", "--to", "\(target)/\(name)").exitCode == 0)
    }
    // Together 8 segments with an index file each and a ninth that is full soon: the next to be sealed is merged.
    try await clean.fill(300, from: Self.olderCount)
    while try clean.segments().count < 9 { try await clean.fill(100, from: try await clean.dump().count) }
    self.clean = try await clean.dump()
    let newer = scratch.path + "/newer"
    try FileManager.default.createDirectory(atPath: newer, withIntermediateDirectories: false)
    for name in ["directory/", "file"] {
      try #require(try await clean.run("backup", "--to", "\(newer)/\(name)").exitCode == 0)
    }
    let dead = StoreUnderTest(scratch.path + "/dead", in: scratch)
    try await dead.fill(400)
    let tail = try dead.start("tail", "--cursor", "c")
    for _ in 0..<400 { _ = try await tail.line() }
    tail.signal(SIGTERM)
    try #require(try await tail.endByItself().exitCode == 0)
    try await dead.fillAndKill(30, from: 400)
    // Reading the store would prove its end, so a copy is read.
    let copy = StoreUnderTest(scratch.path + "/looked-at", in: scratch)
    try FileManager.default.copyItem(atPath: dead.path, toPath: copy.path)
    self.dead = try await copy.dump()
    try #require(self.dead.count == 430)
  }
}

/// One run of an operation in a directory of its own.
struct OperationRun {
  let operation: Operation
  let store: StoreUnderTest
  /// What the store holds before.
  let known: [DumpedEvent]
  private let input: [UInt8]
  private let payloads: [[UInt8]]

  private var target: String { store.scratch.path + "/target" }
  private var restored: StoreUnderTest { StoreUnderTest(store.scratch.path + "/restored", in: store.scratch) }
  /// Appended by another process while a tail follows.
  private static let followed = 5

  init(_ operation: Operation) async throws {
    self.operation = operation
    let templates = try await Templates.shared.value
    store = try StoreUnderTest(isInMemory: true)
    let files = FileManager.default
    let from: String?
    switch operation.start {
    case .nothing: (from, known) = (nil, [])
    case .clean: (from, known) = ("clean", templates.clean)
    case .dead: (from, known) = ("dead", templates.dead)
    }
    if let from { try files.copyItem(atPath: "\(templates.scratch.path)/\(from)", toPath: store.path) }
    let backups =
      switch operation.kind {
      case .restore: "newer"
      default: operation.hasOlderBackup ? "older" : nil as String?
      }
    if let backups {
      try files.copyItem(atPath: "\(templates.scratch.path)/\(backups)", toPath: store.scratch.path + "/target")
    } else {
      try files.createDirectory(atPath: store.scratch.path + "/target", withIntermediateDirectories: false)
    }
    guard case .append(let lines, _) = operation.kind else {
      (input, payloads) = ([], [])
      return
    }
    input = StoreUnderTest.lines(lines, 180, from: known.count)
    payloads = input.split(separator: UInt8(ascii: "\n")).map {
      Array($0[($0.lastIndex(of: 9) ?? 0).advanced(by: 1)...])
    }
  }

  // MARK: - Running

  /// The operation, under a tracer; what follows the log is interrupted when it has printed all that there is.
  func run(under tracer: [String]) async throws -> Finished {
    switch operation.kind {
    case .append(_, let batch):
      let arguments = ["append", "--segment-size", "64KiB", "--batch", "\(batch)"]
      return try await store.run(arguments, input: input, under: tracer)
    case .read: return try await store.run(operation.arguments, under: tracer)
    case .reindex: return try await store.run(["reindex"], under: tracer)
    case .backup(let to):
      if to == "output" {
        let finished = try await store.run(["backup", "--to", "-"], under: tracer)
        try Data(finished.output).write(to: URL(fileURLWithPath: target + "/output"))
        return finished
      }
      return try await store.run(["backup", "--to", backupPath(to)], under: tracer)
    case .restore(let from):
      return try await restored.run(["restore", "--from", backupPath(from)], under: tracer)
    case .follow, .followCursor: return try await follow(under: tracer)
    }
  }

  private func backupPath(_ kind: String) -> String { "\(target)/\(kind)" + (kind == "directory" ? "/" : "") }

  private func follow(under tracer: [String]) async throws -> Finished {
    let isCursor = operation.kind == .followCursor
    let process =
      isCursor
      ? try store.start("tail", "--cursor", "c", under: tracer) : try store.start("tail", under: tracer)
    let first = isCursor ? 400 : 0
    var lines: [String] = []
    func take(_ count: Int) async throws {
      while lines.count < count, let line = try await process.line() { lines.append(line) }
    }
    // One who may not write gets the last one only when a writer has proven it.
    try await take(known.count - first - (isCursor ? 0 : 1))
    if !isCursor {
      let more = StoreUnderTest.lines(Self.followed, 60, from: known.count)
      let appended = try await store.run(["append", "--segment-size", "64KiB"], input: more)
      #expect(appended.exitCode == 0, "\(operation.name): appending beside it failed: \(appended.errors)")
      try await take(known.count + Self.followed)
    }
    // To the group: strace would only let go of it.
    process.signalAll(SIGTERM)
    var finished = try await process.endByItself(within: .seconds(20))
    finished.output = Array((lines.map { $0 + "\n" }.joined()).utf8) + finished.output
    return finished
  }

  // MARK: - What must hold

  /// Everything that was requested was done.
  func isComplete(_ finished: Finished) throws -> Bool {
    let lines = finished.lines
    switch operation.kind {
    case .append(let count, _):
      return lines == (0..<count).map { "ok \(known.count + $0)" }
    case .read where operation.arguments.first == "dump":
      let stream = operation.arguments.count > 1 ? Array(operation.arguments[2].utf8) : nil
      return try finished.outputLines.map(DumpedEvent.init(line:))
        == known.filter { stream == nil || $0.stream == stream }
    case .read where operation.arguments == ["verify"]:
      return lines.count == 1 && lines[0].hasPrefix("sound: \(known.count) events")
    case .read: return lines.count == 1 && lines[0].contains(#""events":\#(known.count)"#)
    case .follow: return lines.count == known.count + Self.followed
    case .followCursor: return lines.count == known.count - 400
    case .reindex: return true
    case .backup(let to):
      return to == "output" || (lines.count == 1 && lines[0].hasPrefix("backed up events 0..<\(known.count),"))
    case .restore: return lines.count == 1 && lines[0].hasPrefix("restored events 0..<\(known.count),")
    }
  }

  /// Nothing acknowledged is lost, nothing is there that was never requested, no half batch, and everything continues to
  /// work.
  func expectWhole(_ finished: Finished, _ comment: Comment) async throws {
    switch operation.kind {
    case .restore(let from): try await expectRestored(from, finished, comment)
    case .backup(let to): try await expectBackups(to, finished, comment)
    default: break
    }
    let printed = finished.lines
    if operation.start == .nothing, !FileManager.default.fileExists(atPath: store.file("store")) {
      #expect(!printed.contains { $0.hasPrefix("ok ") }, "the store is gone: \(comment)")
    } else {
      try await expectEvents(printed, comment)
    }
    let count = FileManager.default.fileExists(atPath: store.file("store")) ? try await store.dump().count : 0
    let again = try await store.run("append", input: "s\tT\tagain\n")
    #expect(again.text == "ok \(count)\n", "\(comment): appending again gives \(again.text) \(again.errors)")
    try await store.expectSound(comment)
  }

  private func expectEvents(_ printed: [String], _ comment: Comment) async throws {
    let events = try await store.dump()
    #expect(events.starts(with: known), "what was there has changed: \(comment)")
    #expect(events.indices.allSatisfy { events[$0].offset == UInt64($0) }, "offsets have gaps: \(comment)")
    switch operation.kind {
    case .append(_, let batch):
      let acknowledged = printed.prefix { $0.hasPrefix("ok ") }
      #expect(
        acknowledged == (0..<acknowledged.count).map { "ok \(known.count + $0)" }[...],
        "answers out of order: \(comment)")
      #expect(!printed.dropFirst(acknowledged.count).contains { $0.hasPrefix("ok ") }, "ok after err: \(comment)")
      let new = events.dropFirst(known.count).map(\.payload)
      #expect(new.count >= acknowledged.count, "an ok is lost: \(comment)")
      #expect(payloads.starts(with: new), "events that were never appended, or not in this order: \(comment)")
      #expect(new.count % batch == 0 || new.count == payloads.count, "half a batch: \(comment)")
    case .read where operation.arguments.first == "dump", .follow, .followCursor:
      // What was printed is there, in order, and nothing else was printed.
      let stream = operation.arguments.count > 1 ? Array(operation.arguments[2].utf8) : nil
      let first = operation.kind == .followCursor ? 400 : 0
      let shown = try printed.map { try DumpedEvent(line: Array($0.utf8)[...]) }
      let expected = events.dropFirst(first).filter { stream == nil || $0.stream == stream }
      #expect(expected.starts(with: shown), "printed what is not there: \(comment)")
    default: #expect(events.count == known.count, "events that were never appended: \(comment)")
    }
  }

  /// What the backup holds by now is a store of its own; and the next one works.
  private func expectBackups(_ to: String, _ finished: Finished, _ comment: Comment) async throws {
    if to == "output" {
      guard finished.exitCode == 0 else { return }
      // Without permission to write, a backup can't make the last event of a dead writer certain: it leaves the event out,
      // and says so.
      let isToldShort = finished.errors.contains("nothing proves that they are on disk")
      try await expectRestorable(to, atLeast: known.count - (isToldShort ? 1 : 0), comment)
      return
    }
    if operation.hasOlderBackup {
      try await expectRestorable(to, atLeast: finished.exitCode == 0 ? known.count : Templates.olderCount, comment)
    }
    let again = try await store.run("backup", "--to", backupPath(to))
    #expect(again.exitCode == 0, "\(comment): the next backup failed: \(again.errors)")
    try await expectRestorable(to, atLeast: known.count, comment)
  }

  private func expectRestorable(_ from: String, atLeast count: Int, _ comment: Comment) async throws {
    let copy = StoreUnderTest(store.scratch.newPath("copy"), in: store.scratch)
    let result = try await copy.run(["restore", "--from", backupPath(from)])
    #expect(result.exitCode == 0, "\(comment): restoring failed: \(result.errors)")
    guard result.exitCode == 0 else { return }
    let events = try await copy.dump()
    #expect(events.count >= count && known.starts(with: events), "\(comment): restored \(events.count) events")
  }

  /// It is all there under its name, or not at all; and the next run makes it.
  private func expectRestored(_ from: String, _ finished: Finished, _ comment: Comment) async throws {
    if !FileManager.default.fileExists(atPath: restored.path) {
      #expect(finished.exitCode != 0, "\(comment): nothing was restored")
      let again = try await restored.run(["restore", "--from", backupPath(from)])
      #expect(again.exitCode == 0, "\(comment): restoring again failed: \(again.errors)")
    }
    #expect(try await restored.dump() == known, "\(comment): restored other events")
    try await restored.expectSound(comment)
  }
}

/// Runs bodies, two at a time: these tests wait for processes more than they work.
func inParallel<Element: Sendable>(
  _ elements: [Element], width: Int = 3, _ body: @escaping @Sendable (Element) async throws -> Void
) async throws {
  try await withThrowingTaskGroup(of: Void.self) { group in
    for (index, element) in elements.enumerated() {
      if index >= width { try await group.next() }
      group.addTask { try await body(element) }
    }
    try await group.waitForAll()
  }
}
