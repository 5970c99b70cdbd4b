import Foundation
import Testing

@testable import LogStore

/// A store that is backed up, and the backup.
private final class Scene: Sendable {
  let directory = TemporaryDirectory()
  let store: String
  let backup: String

  init() throws {
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
    store = directory.file("store")
    backup = directory.file("backup")
  }

  /// Appends events of 200 bytes, `batch` at a time, with a cursor now and then, and closes or lets go.
  func append(_ count: Int, batch: Int = 1, closed: Bool = true) async throws {
    let log = try LogStore.open(store, options: smallSegments())
    for number in 0..<count {
      let end = log.reader.endOffset
      let events = (0..<batch).map { event("s\(number % 5)", "\(end)-\($0)" + String(repeating: "p", count: 200)) }
      let cursors = number % 50 == 0 ? [CursorCommit(name: "reader", checkpoint: end)] : []
      _ = try await log.append(Append(events, cursors: cursors))
    }
    if closed {
      try await log.close()
    } else {
      log.abandon()
      while (try RealDisk().lock(store + "/lock", exclusive: true)) == nil { await Task.yield() }
    }
  }

  @discardableResult
  func backUp() throws -> BackupReport { try LogStore.backup(store, to: .directory(backup)) }

  @discardableResult
  func restore(_ name: String, until: UInt64? = nil) throws -> RestoreReport {
    try LogStore.restore(from: .directory(backup), to: directory.file(name), until: until)
  }

  func events(_ name: String = "store") throws -> [Event] { try scan(directory.file(name)).events }

  var backupNames: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: backup)) ?? []).sorted() }
  var parts: [String] { backupNames.filter { $0.hasSuffix(".segment") } }
  func backupFile(_ name: String) -> String { backup + "/" + name }

  /// What every file of the backup holds, but for when it was made.
  func backupContent() throws -> [String: [UInt8]] {
    var content: [String: [UInt8]] = [:]
    for name in backupNames where name != "lock" {
      content[name] = [UInt8](try Data(contentsOf: URL(fileURLWithPath: backupFile(name))))
    }
    return content
  }
}

/// All that a reader sees.
private func scan(_ path: String) throws -> (events: [Event], cursors: [String: UInt64]) {
  let reader = try LogReader.open(path)
  defer { reader.close() }
  let cursors = try reader.cursors().map { ($0.name, $0.checkpoint) }
  return (try reader.events(from: 0, limit: .max), Dictionary(uniqueKeysWithValues: cursors))
}

@Suite struct BackupTests {
  @Test(
    "what was backed up is restored: events, ids, times and cursors; and the log goes on", arguments: [true, false])
  func roundTrip(closed: Bool) async throws {
    let scene = try Scene()
    try await scene.append(700, closed: closed)
    let report = try scene.backUp()
    #expect(report.endOffset == 700 && report.segments > 2 && report.segmentsKept == 0)
    #expect(try scene.restore("restored").endOffset == 700)
    let (original, copy) = (try scan(scene.store), try scan(scene.directory.file("restored")))
    #expect(copy.events == original.events)
    #expect(copy.cursors == original.cursors && !copy.cursors.isEmpty)
    #expect(try LogStore.verify(scene.directory.file("restored")).findings == [])
    let log = try LogStore.open(scene.directory.file("restored"), options: smallSegments())
    #expect(log.recovery.wasClosedCleanly && log.recovery.tornTail == nil)
    for number in 0..<300 {
      #expect(try await log.append(Append(event("new", "\(number)"))).offsets.lowerBound == 700 + UInt64(number))
    }
    #expect(try log.reader.streamVersion("s0") == 140)
    try await log.close()
    #expect(try LogStore.verify(scene.directory.file("restored")).findings == [])
  }

  @Test("an empty store is backed up and restored")
  func empty() async throws {
    let scene = try Scene()
    try await scene.append(0)
    #expect(try scene.backUp().endOffset == 0)
    #expect(try scene.restore("restored").endOffset == 0)
    #expect(try scene.events("restored").isEmpty)
    try await scene.append(5)
    #expect(try scene.backUp().endOffset == 5)
  }

  @Test("only what is new is copied, and what no manifest lists is removed")
  func incremental() async throws {
    let scene = try Scene()
    try await scene.append(700)
    let first = try scene.backUp()
    let finished = Set(scene.parts.dropLast())
    // A file that no backup wrote, and one that a killed run left.
    try Data("x".utf8).write(to: URL(fileURLWithPath: scene.backupFile("my.segment")))
    try Data("x".utf8).write(to: URL(fileURLWithPath: scene.backupFile("00000000000000000099-0123abcd.segment.tmp")))
    let unchanged = try scene.backUp()
    #expect(unchanged.segmentsKept == first.segments && unchanged.bytesCopied == 0)
    try await scene.append(300)
    let times = finished.map { modified(scene.backupFile($0)) }
    let second = try scene.backUp()
    #expect(second.segmentsKept == first.segments - 1)
    #expect(second.bytesCopied < UInt64(second.segments - first.segments + 2) * 65536)
    #expect(finished.map { modified(scene.backupFile($0)) } == times, "a finished segment was written again")
    #expect(
      scene.backupNames.count == second.segments + 3 && scene.parts.contains("my.segment"), "\(scene.backupNames)")
    try scene.restore("restored")
    #expect(try scene.events("restored") == scene.events())
  }

  private func modified(_ path: String) -> Date? {
    (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
  }

  @Test("frames with cursors alone are new, too")
  func cursorsAlone() async throws {
    let scene = try Scene()
    try await scene.append(10)
    try scene.backUp()
    let log = try LogStore.open(scene.store, options: smallSegments())
    _ = try await log.append(Append([], cursors: [CursorCommit(name: "late", checkpoint: 7)]))
    try await log.close()
    try scene.backUp()
    try scene.restore("restored")
    #expect(try scan(scene.directory.file("restored")).cursors["late"] == 7)
  }

  @Test("a copy that has gone bad in the backup is copied again from the store, whichever byte it is")
  func bitRot() async throws {
    let scene = try Scene()
    try await scene.append(700)
    let segments = try scene.backUp().segments
    let sound = try scene.backupContent()
    var generator = SeededGenerator.printed()
    for part in scene.parts {
      try edit(scene.backupFile(part)) { $0[Int.random(in: $0.indices, using: &generator)] ^= 1 }
      let report = try scene.backUp()
      #expect(report.segmentsKept == segments - 1)
      #expect(try content(scene.backupFile(part)) == sound[part])
    }
    try edit(scene.backupFile(scene.parts[0])) { $0.append(0) }
    #expect(try scene.backUp().segmentsKept == segments - 1)
    try FileManager.default.removeItem(atPath: scene.backupFile(scene.parts[1]))
    #expect(try scene.backUp().segmentsKept == segments - 1)
  }

  @Test("damage in what is to be copied ends the backup with file and byte, and it stays as it was")
  func damagedSource() async throws {
    let scene = try Scene()
    try await scene.append(500)
    try scene.backUp()
    let before = try scene.backupContent()
    let listed = scene.parts.count
    try await scene.append(500)
    let segments = try FileManager.default.contentsOfDirectory(atPath: scene.store).filter { $0.hasSuffix(".log") }
      .sorted()
    let damaged = scene.store + "/" + segments[listed]
    try edit(damaged) { $0[20_000] ^= 4 }
    await expectThrows {
      guard case .damaged(let damage) = $0 else { return false }
      return damage.file == damaged && (16_000...20_000).contains(damage.position)
    } _: { () throws(LogStoreError) in
      try LogStore.backup(scene.store, to: .directory(scene.backup))
    }
    #expect(try scene.backupContent().filter { before[$0.key] != nil } == before)
    #expect(try scene.restore("restored").endOffset == 500)
    // Once it is repaired, the backup works again.
    try edit(damaged) { $0[20_000] ^= 4 }
    #expect(try scene.backUp().endOffset == 1000)
  }

  // MARK: - Refusals

  private func expectRefused(
    _ scene: Scene, from store: String? = nil, to location: BackupLocation? = nil, saying text: String,
    sourceLocation: SourceLocation = #_sourceLocation
  ) async {
    await expectThrows(
      {
        guard case .backupRefused(_, let reason) = $0 else { return false }
        return reason.contains(text)
      }, sourceLocation: sourceLocation
    ) { () throws(LogStoreError) in
      try LogStore.backup(store ?? scene.store, to: location ?? .directory(scene.backup))
    }
  }

  @Test("the backup of another store, a shorter log and a log with other events are refused, and it stays as it was")
  func otherLogs() async throws {
    let scene = try Scene()
    try await scene.append(300)
    try scene.backUp()
    // Two diverged copies of one store: the copy continues with other events than the original.
    try scene.restore("copy")
    try await scene.append(400)
    try scene.backUp()
    let before = try scene.backupContent()
    let copy = directoryOf("copy", scene)
    await expectRefused(scene, from: copy, saying: "ends with offset 300, but was backed up to 700")
    let log = try LogStore.open(copy, options: smallSegments())
    for number in 0..<410 {
      _ = try await log.append(Append(event("other", String(repeating: "\(number)", count: 80))))
    }
    try await log.close()
    await expectRefused(scene, from: copy, saying: "two copies of it were written to")
    let other = try Scene()
    try await other.append(900)
    await expectRefused(scene, from: other.store, saying: "the backup of another store")
    #expect(try scene.backupContent() == before)
  }

  @Test("a backup in a file is replaced by one that continues it, and a better one only on request")
  func betterFile() async throws {
    let directory = TemporaryDirectory()
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
    let (store, older, file) = (directory.file("store"), directory.file("older"), directory.file("backup"))
    func append(_ path: String, _ text: String, _ count: Int) async throws {
      let log = try LogStore.open(path, options: smallSegments())
      for number in 0..<count { _ = try await log.append(Append(event("s", "\(text) \(number)"))) }
      try await log.close()
    }
    func backup(_ path: String, replaces: Bool = false) throws(LogStoreError) -> UInt64 {
      try LogStore.backup(path, to: .file(file), replaces: replaces).endOffset
    }
    func refused(_ path: String, _ reason: String) async throws {
      let before = try Data(contentsOf: URL(fileURLWithPath: file))
      await expectThrows({
        if case .backupRefused(let at, let text) = $0 { at == file && text.contains(reason) } else { false }
      }) { () throws(LogStoreError) in try backup(path) }
      #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == before)
    }
    try await append(store, "same", 400)
    try copyStore(store, to: older)
    #expect(try backup(store) == 400)
    try await append(store, "new", 400)
    #expect(try backup(store) == 800)
    #expect(try backup(store) == 800)
    try await refused(older, "was backed up to 800")
    try await append(older, "other", 600)
    try await refused(older, "does not go on from what was backed up")
    #expect(try backup(older, replaces: true) == 1000)
    try await refused(store, "was backed up to 1000")
    // A damaged backup may hold events that exist nowhere else.
    var bytes = try Data(contentsOf: URL(fileURLWithPath: file))
    bytes[bytes.count / 2] ^= 1
    try bytes.write(to: URL(fileURLWithPath: file))
    try await refused(older, "damaged")
    #expect(try backup(older, replaces: true) == 1000)
    #expect(try LogStore.restore(from: .file(file), to: directory.file("restored")).endOffset == 1000)
  }

  private func directoryOf(_ name: String, _ scene: Scene) -> String { scene.directory.file(name) }

  @Test("a log that differs within the segment that was open is refused")
  func otherEventsInTheOpenSegment() async throws {
    let scene = try Scene()
    try await scene.append(20)
    try scene.backUp()
    try scene.restore("copy", until: 10)
    let log = try LogStore.open(directoryOf("copy", scene), options: smallSegments())
    for number in 10..<40 { _ = try await log.append(Append(event("s", "other \(number)"))) }
    try await log.close()
    await expectRefused(scene, from: directoryOf("copy", scene), saying: "does not go on from what was backed up")
  }

  @Test("a target inside the store, with other files, or that is no file or directory is refused and left alone")
  func targets() async throws {
    let scene = try Scene()
    try await scene.append(20)
    await expectRefused(scene, to: .directory(scene.store), saying: "inside the store")
    await expectRefused(scene, to: .directory(scene.store + "/x/y"), saying: "inside the store")
    await expectRefused(scene, to: .file(scene.store + "/x"), saying: "inside the store")
    let link = scene.directory.file("link")
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: scene.store)
    await expectRefused(scene, to: .file(link + "/x"), saying: "inside the store")
    #expect(try !FileManager.default.contentsOfDirectory(atPath: scene.store).contains("x"))
    await expectRefused(scene, to: .directory(scene.directory.path), saying: "and no backup")
    let file = scene.directory.file("notes")
    try Data("important, and longer than the header of a stream, so that all of it is there to be looked at".utf8)
      .write(to: URL(fileURLWithPath: file))
    await expectRefused(scene, to: .file(file), saying: "no backup is there")
    await expectRefused(scene, to: .directory(file), saying: "no directory")
    await expectRefused(scene, to: .file("/dev/null"), saying: "no ordinary file")
    #expect(try content(file).starts(with: bytes("important")))
    for target in ["elsewhere", "nowhere"] {
      let link = scene.directory.file("link to \(target)")
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: scene.directory.file(target))
      if target == "elsewhere" { _ = try LogStore.backup(scene.store, to: .file(scene.directory.file(target))) }
      await expectRefused(scene, to: .file(link), saying: "symbolic link")
      #expect(try FileManager.default.destinationOfSymbolicLink(atPath: link).hasSuffix(target))
    }
  }

  @Test("a store is not restored into its backup")
  func restoredOutside() async throws {
    let scene = try Scene()
    try await scene.append(20)
    try scene.backUp()
    let names = try FileManager.default.subpathsOfDirectory(atPath: scene.backup)
    #expect {
      try LogStore.restore(from: .directory(scene.backup), to: scene.backup + "/a/b")
    } throws: {
      "\($0)".contains("inside the backup")
    }
    #expect(try FileManager.default.subpathsOfDirectory(atPath: scene.backup) == names)
  }

  @Test("a second backup to the same destination is refused while one runs")
  func busy() async throws {
    let scene = try Scene()
    try await scene.append(20)
    try scene.backUp()
    let lock = try RealDisk().lock(scene.backupFile("lock"), exclusive: true)
    await expectRefused(scene, saying: "another backup")
    lock?.release()
    try scene.backUp()
  }

  @Test("a damaged or newer manifest is refused by backup and restore, whichever byte it is")
  func manifestBytes() async throws {
    let scene = try Scene()
    try await scene.append(300)
    try scene.backUp()
    let path = scene.backupFile("manifest")
    let sound = try content(path)
    for position in sound.indices {
      try edit(path) { $0[position] ^= 0x10 }
      let matches = { (error: LogStoreError) in
        switch error {
        case .backupDamaged(let damage): damage.file == path
        default: false
        }
      }
      await expectThrows(matches) { () throws(LogStoreError) in
        try LogStore.restore(from: .directory(scene.backup), to: scene.directory.file("r"))
      }
      await expectThrows(matches) { () throws(LogStoreError) in
        try LogStore.backup(scene.store, to: .directory(scene.backup))
      }
      try edit(path) { $0 = sound }
    }
    for count in [0, 63, 67, sound.count - 1] {
      try edit(path) { $0.removeLast($0.count - count) }
      await expectThrows({ if case .backupDamaged = $0 { true } else { false } }) { () throws(LogStoreError) in
        try LogStore.restore(from: .directory(scene.backup), to: scene.directory.file("r"))
      }
      try edit(path) { $0 = sound }
    }
    #expect(try scene.restore("r").endOffset == 300)
  }
}
