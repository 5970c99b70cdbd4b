import Foundation
import Testing

@testable import LogStore

@Suite struct RestoreTests {
  let directory: TemporaryDirectory
  var store: String { directory.file("store") }
  var backup: String { directory.file("backup") }
  var restored: String { directory.file("restored") }

  init() throws {
    directory = TemporaryDirectory()
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
  }

  /// Fills a store with appends of three events and cursors between them, over several segments, and backs it up.
  func backUp(_ appends: Int, to location: BackupLocation? = nil) async throws {
    let log = try LogStore.open(store, options: smallSegments())
    for number in 0..<appends {
      let events = (0..<3).map { event("s\($0)", "\(number)/\($0) " + String(repeating: "p", count: 200)) }
      let cursors = number % 7 == 0 ? [CursorCommit(name: "reader", checkpoint: UInt64(3 * number))] : []
      _ = try await log.append(Append(events, cursors: cursors))
    }
    try await log.close()
    _ = try LogStore.backup(store, to: location ?? .directory(backup))
  }

  private func events(_ path: String) throws -> [Event] {
    let reader = try LogReader.open(path)
    defer { reader.close() }
    return try reader.events(from: 0, limit: .max)
  }

  private func remove(_ path: String) throws { try FileManager.default.removeItem(atPath: path) }

  private func expectDamaged(_ path: String, _ sourceLocation: SourceLocation = #_sourceLocation) async {
    await expectThrows(
      { if case .backupDamaged(let damage) = $0 { damage.file == path } else { false } },
      sourceLocation: sourceLocation
    ) { () throws(LogStoreError) in
      try LogStore.restore(from: .directory(backup), to: restored)
    }
    #expect(!FileManager.default.fileExists(atPath: restored), sourceLocation: sourceLocation)
    #expect(!FileManager.default.fileExists(atPath: restored + ".restoring"), sourceLocation: sourceLocation)
  }

  /// What `until` leaves of cursors, by reading the log's own records.
  private func checkpoints(before offset: UInt64) throws -> [String: UInt64] {
    // An append of three events, and every seventh with a cursor behind them.
    let appends = offset / 3
    return appends == 0 ? [:] : ["reader": (appends - 1) / 7 * 21]
  }

  @Test("the log is restored to any offset, with the cursors as they were, and goes on from there")
  func until() async throws {
    try await backUp(300)
    let all = try events(store)
    let bases = try FileManager.default.contentsOfDirectory(atPath: store)
      .compactMap { FileName.baseOffset($0, suffix: ".log") }
    #expect(bases.count > 3)
    // Where segments begin, and around; the beginning, the end, and some between, inside appends too.
    let offsets = Set(bases.flatMap { [$0, $0 + 1, $0 + 3] } + [1, 2, 3, 4, 450, 451, 452, 897, 899, 900])
    for offset in offsets.sorted() {
      let report = try LogStore.restore(from: .directory(backup), to: restored, until: offset)
      #expect(report.endOffset == offset)
      #expect(try events(restored) == Array(all[..<Int(offset)]), "until \(offset)")
      #expect(try LogStore.verify(restored).findings == [])
      let log = try LogStore.open(restored, options: smallSegments())
      #expect(log.recovery.wasClosedCleanly)
      let cursors = Dictionary(uniqueKeysWithValues: try log.reader.cursors().map { ($0.name, $0.checkpoint) })
      #expect(try cursors == checkpoints(before: offset), "until \(offset)")
      #expect(try await log.append(Append(event("s0", "other"))).offsets == offset..<offset + 1)
      #expect(try log.reader.streamVersion("s0") == (offset + 2) / 3 + 1)
      try await log.close()
      #expect(try LogStore.verify(restored).findings == [])
      try remove(restored)
    }
    await expectThrows({
      guard case .backupRefused(_, let reason) = $0 else { return false }
      return reason.contains("ends with offset 900")
    }) { () throws(LogStoreError) in try LogStore.restore(from: .directory(backup), to: restored, until: 901) }
  }

  @Test("of appends that were written as one, those before the offset are restored, with their cursors")
  func untilInsideFrame() async throws {
    let log = try LogStore.open(store, options: smallSegments())
    // Gathered in the writer's buffer: all of them are one frame.
    for number in 0..<20 {
      let cursors = [CursorCommit(name: "reader", checkpoint: UInt64(number))]
      _ = try await log.appendBuffered(Append([event("s", "a\(number)"), event("t", "b\(number)")], cursors: cursors))
    }
    try await log.flush()
    try await log.close()
    _ = try LogStore.backup(store, to: .directory(backup))
    let all = try events(store)
    for offset in 0...40 {
      _ = try LogStore.restore(from: .directory(backup), to: restored, until: UInt64(offset))
      #expect(try events(restored) == Array(all[..<offset]))
      let log = try LogStore.open(restored, options: smallSegments())
      #expect(try log.reader.cursor("reader") == (offset < 2 ? nil : UInt64(offset / 2 - 1)), "until \(offset)")
      _ = try await log.append(Append(event("s", "other")))
      try await log.close()
      #expect(try LogStore.verify(restored).findings == [])
      try remove(restored)
    }
  }

  @Test("a flipped bit in any byte of a segment in the backup is found, and nothing is restored")
  func everyByte() async throws {
    try await backUp(2)
    let name = try #require(
      try FileManager.default.contentsOfDirectory(atPath: backup).first { $0.hasSuffix(".segment") })
    let path = backup + "/" + name
    let sound = try content(path)
    // Every byte of the header and frames; the header page's zeros now and then.
    for position in sound.indices where position < 80 || position >= 4088 || position % 97 == 0 {
      try edit(path) { $0[position] ^= 0x20 }
      await expectDamaged(path)
      try edit(path) { $0 = sound }
    }
    for change in [-1, 1] {
      try edit(path) { if change > 0 { $0.append(0) } else { $0.removeLast() } }
      await expectDamaged(path)
      try edit(path) { $0 = sound }
    }
    try remove(path)
    await expectDamaged(path)
    try edit(store + "/" + FileName.segment(0)) { try? Data($0[..<sound.count]).write(to: URL(fileURLWithPath: path)) }
    #expect(try LogStore.restore(from: .directory(backup), to: restored).endOffset == 6)
  }

  @Test("damage in a segment that a forged manifest has the right checksum for is found in the store")
  func forgedChecksums() async throws {
    try await backUp(200)
    let backupDirectory = BackupDirectory(backup, disk: RealDisk())
    var manifest = try #require(try backupDirectory.manifest())
    for (number, part) in manifest.parts.enumerated() {
      var bytes = try content(backupDirectory.path(of: part))
      bytes[6000] ^= 1
      var forged = manifest
      forged.parts[number].checksum = bytes.withUnsafeBytes(checksum)
      let path = backupDirectory.path(of: forged.parts[number])
      try Data(bytes).write(to: URL(fileURLWithPath: path))
      try Data(forged.encoded()).write(to: URL(fileURLWithPath: backup + "/manifest"))
      await expectDamaged(path)
    }
    // A chain value or an end that isn't the log's.
    manifest.parts[manifest.parts.count - 1].chain ^= 1
    try Data(manifest.encoded()).write(to: URL(fileURLWithPath: backup + "/manifest"))
    await expectThrows({ if case .backupDamaged = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.restore(from: .directory(backup), to: restored)
    }
  }

  @Test("a stream that is cut, goes on behind its end or has a flipped bit anywhere is refused; whole, it is restored")
  func stream() async throws {
    let file = directory.file("stream")
    try await backUp(60, to: .file(file))
    let sound = try content(file)
    let expected = try events(store)
    func expectRefused(_ comment: Comment) async {
      await expectThrows({
        switch $0 {
        case .backupDamaged(let damage): damage.file == file && damage.position <= UInt64(sound.count)
        default: false
        }
      }) { () throws(LogStoreError) in try LogStore.restore(from: .file(file), to: restored) }
      #expect(!FileManager.default.fileExists(atPath: restored), comment)
    }
    var generator = SeededGenerator.printed()
    let headers = Array(0..<192) + Array(sound.count - 200..<sound.count)
    for position in headers + (0..<200).map({ _ in Int.random(in: sound.indices, using: &generator) }) {
      try edit(file) { $0[position] ^= 2 }
      await expectRefused("byte \(position)")
      try edit(file) { $0 = sound }
    }
    for count in [0, 1, 63, 64, 100, 128, 4000, sound.count / 2, sound.count - 101, sound.count - 1] {
      try edit(file) { $0.removeLast($0.count - count) }
      await expectRefused("cut to \(count)")
      try edit(file) { $0 = sound }
    }
    try edit(file) { $0.append(0) }
    await expectRefused("one byte more")
    try edit(file) { $0 = sound }
    #expect(try LogStore.restore(from: .file(file), to: restored, until: 99).endOffset == 99)
    #expect(try events(restored) == Array(expected[..<99]))
    try remove(restored)
    #expect(try LogStore.restore(from: .file(file), to: restored).endOffset == 180)
    #expect(try events(restored) == expected)
    // The next backup replaces it; another store's doesn't.
    _ = try LogStore.backup(store, to: .file(file))
    let other = try LogStore.open(directory.file("other"), options: smallSegments())
    try await other.close()
    await expectThrows({ if case .backupRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.backup(directory.file("other"), to: .file(file))
    }
  }

  @Test(
    "nothing is written into a directory, or removed from it, that has the name of an unfinished store and is another's",
    arguments: ["notes", "a store", "a store's lock", "a project"])
  func foreignAside(_ kind: String) async throws {
    try await backUp(60)
    for suffix in [".restoring", ".repairing"] {
      let aside = restored + suffix
      switch kind {
      case "a store": try copyStore(store, to: aside)
      case "a store's lock":
        // A copy of a store without what its writer needs, and a file of the lock's name.
        try copyStore(store, to: aside)
        for name in [FileName.lock, FileName.tail] { try remove(aside + "/" + name) }
        for name in try FileManager.default.contentsOfDirectory(atPath: aside) where name.hasSuffix(".idx") {
          try remove(aside + "/" + name)
        }
        try Data("an hour's work".utf8).write(to: URL(fileURLWithPath: aside + "/restore.tmp"))
      default:
        try FileManager.default.createDirectory(atPath: aside, withIntermediateDirectories: false)
        try Data("an hour's work".utf8)
          .write(to: URL(fileURLWithPath: aside + "/" + (kind == "notes" ? "README" : FileName.segment(0))))
      }
      let before = DamageableStore.contents(aside)
      await expectThrows({
        switch $0 {
        case .backupRefused(let path, _), .repairRefused(let path, _): path == aside
        default: false
        }
      }) { () throws(LogStoreError) in
        if suffix == ".restoring" {
          _ = try LogStore.restore(from: .directory(backup), to: restored)
        } else {
          _ = try LogStore.repair(store, to: restored)
        }
      }
      #expect(DamageableStore.contents(aside) == before)
      try FileManager.default.removeItem(atPath: aside)
    }
    // Nor into one that has a file of a backup's name.
    let project = directory.file("project")
    try FileManager.default.createDirectory(atPath: project, withIntermediateDirectories: false)
    try Data("an hour's work".utf8).write(to: URL(fileURLWithPath: project + "/manifest"))
    let before = DamageableStore.contents(project)
    await expectThrows({ if case .backupDamaged = $0 { true } else { false } }) { () throws(LogStoreError) in
      _ = try LogStore.backup(store, to: .directory(project))
    }
    #expect(DamageableStore.contents(project) == before)
  }

  @Test(
    "a directory with other files is refused and left alone; an empty one is accepted, and so are leftovers of a killed run"
  )
  func targets() async throws {
    try await backUp(60)
    func expectRefused(_ path: String, saying text: String) async {
      await expectThrows({
        guard case .backupRefused(_, let reason) = $0 else { return false }
        return reason.contains(text)
      }) { () throws(LogStoreError) in try LogStore.restore(from: .directory(backup), to: path) }
    }
    await expectRefused(store, saying: "empty or not there")
    try FileManager.default.createDirectory(atPath: restored, withIntermediateDirectories: false)
    try Data("x".utf8).write(to: URL(fileURLWithPath: restored + "/note"))
    await expectRefused(restored, saying: "the directory holds note")
    #expect(try content(restored + "/note") == bytes("x"))
    await expectRefused(restored + "/note", saying: "no directory")
    try remove(restored + "/note")
    // A killed run's half, and a file that is not one of its own.
    let aside = restored + ".restoring"
    try FileManager.default.createDirectory(atPath: aside, withIntermediateDirectories: false)
    try Data().write(to: URL(fileURLWithPath: aside + "/restore.tmp"))
    try Data("half".utf8).write(to: URL(fileURLWithPath: aside + "/" + FileName.segment(77)))
    try Data("mine".utf8).write(to: URL(fileURLWithPath: aside + "/mine"))
    await expectRefused(restored, saying: "holds mine")
    try remove(aside + "/mine")
    #expect(try LogStore.restore(from: .directory(backup), to: restored + "/").endOffset == 180)
    #expect(!FileManager.default.fileExists(atPath: aside))
    #expect(try !FileManager.default.contentsOfDirectory(atPath: restored).contains { $0.hasSuffix(".tmp") })
    await expectThrows({ if case .backupRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.restore(from: .file("/dev/null"), to: directory.file("d"))
    }
    // Missing directories above are made.
    #expect(try LogStore.restore(from: .directory(backup), to: directory.file("a/b/c")).endOffset == 180)
    await expectThrows({ if case .backupRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.restore(from: .directory(directory.file("a")), to: directory.file("d"))
    }
  }
}
