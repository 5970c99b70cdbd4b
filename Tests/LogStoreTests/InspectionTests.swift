import Foundation
import Testing

@testable import LogStore

@Suite("A look at a store without a lock and without a write")
struct InspectionTests {
  private func contents(_ directory: TemporaryDirectory) throws -> [String: Data] {
    let names = try FileManager.default.contentsOfDirectory(atPath: directory.path)
    return Dictionary(
      uniqueKeysWithValues: try names.map { ($0, try Data(contentsOf: URL(fileURLWithPath: directory.file($0)))) })
  }

  private func fill(_ store: LogStore, _ count: Int) async throws {
    for number in 0..<count {
      try await store.append(Append(event("s\(number % 7)", String(repeating: "x", count: 500))))
    }
  }

  @Test("it tells the end, the id, the segments and the last event's time: of a closed store, and beside its writer")
  func sound() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await fill(store, 300)
    var beside = try LogInspection.look(at: directory.path)
    // The writer tells other processes a moment after it has acknowledged an append.
    for _ in 0..<10_000 where beside.endOffset < 300 { beside = try LogInspection.look(at: directory.path) }
    #expect(beside.hasWriter && beside.wasClosedCleanly && beside.endOffset == 300)
    #expect(beside.storeID == store.reader.storeID)
    #expect(beside.lastTimestampMicroseconds == store.lastTimestampMicroseconds)
    let statistics = try store.reader.statistics()
    #expect(beside.segmentCount == statistics.segments && beside.segmentCount > 2)
    #expect(beside.logBytes == statistics.logBytes)
    try await store.close()
    let files = try contents(directory)
    let closed = try LogInspection.look(at: directory.path)
    #expect(!closed.hasWriter && closed.wasClosedCleanly && closed.endOffset == 300 && closed.damagedFiles.isEmpty)
    #expect(try contents(directory) == files)
  }

  @Test("it tells the first event's type, however many segments and cursors there are, and which cursors exist")
  func firstTypeAndCursors() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    #expect(try LogInspection.look(at: directory.path).firstType == nil)
    for number in 0..<5 {
      try await store.append(Append([], cursors: [CursorCommit(name: "c\(number)", checkpoint: 0)]))
    }
    try await store.append(
      Append([NewEvent(stream: "a", type: "First", payload: []), NewEvent(stream: "a", type: "Second", payload: [])]))
    try await fill(store, 300)
    try await store.append(Append([], cursors: [.deleting("c1")]))
    for closes in [false, true] {
      if closes { try await store.close() }
      var look = try LogInspection.look(at: directory.path)
      // The writer tells other processes a moment after it has acknowledged an append.
      for _ in 0..<10_000 where look.hasCursor("c1") { look = try LogInspection.look(at: directory.path) }
      #expect(look.firstType == "First" && look.segmentCount > 2)
      #expect(look.hasCursor("c0") && look.hasCursor("c4") && !look.hasCursor("c1") && !look.hasCursor("d"))
    }
  }

  @Test("it looks at a backup: the end, the log's id, and files that are missing or of another length")
  func backup() async throws {
    let directory = TemporaryDirectory()
    let target = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await fill(store, 300)
    try await store.close()
    #expect(throws: LogStoreError.self) { try BackupInspection.look(at: target.path) }
    _ = try LogStore.backup(directory.path, to: .directory(target.path))
    let look = try BackupInspection.look(at: target.path)
    #expect(look.endOffset == 300 && look.storeID == store.reader.storeID && look.damagedFiles.isEmpty)
    let names = try FileManager.default.contentsOfDirectory(atPath: target.path).filter { $0.hasSuffix(".segment") }
      .sorted()
    try #require(names.count >= 3)
    try FileManager.default.removeItem(atPath: target.file(names[0]))
    try Data().write(to: URL(fileURLWithPath: target.file(names[1])))
    let size = try Data(contentsOf: URL(fileURLWithPath: target.file(names[2]))).count
    try Data(count: size).write(to: URL(fileURLWithPath: target.file(names[2])))
    #expect(
      try BackupInspection.look(at: target.path).damagedFiles.map(\.file) == names.prefix(3).map { target.file($0) })
  }

  @Test("it keeps no writer out, changes nothing of a store that was not closed, and writes nothing again")
  func crashed() async throws {
    let directory = TemporaryDirectory()
    let copy = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await fill(store, 10)
    // As a crash leaves it.
    try copyStore(directory.path, to: copy.path)
    try await store.close()
    let files = try contents(copy)
    func times() throws -> [Date?] {
      try files.keys.sorted().map {
        try FileManager.default.attributesOfItem(atPath: copy.file($0))[.modificationDate] as? Date
      }
    }
    let before = try times()
    let look = try LogInspection.look(at: copy.path)
    #expect(!look.hasWriter && !look.wasClosedCleanly && look.endOffset == 10)
    #expect(try contents(copy) == files)
    #expect(try times() == before)
    let again = try LogStore.open(copy.path, options: smallSegments())
    #expect(again.reader.endOffset == 10)
    try await again.close()
  }

  @Test("looks while a writer appends, ends and begins again: each sees one state of the log")
  func race() async throws {
    let directory = TemporaryDirectory()
    try await LogStore.open(directory.path, options: smallSegments()).close()
    let looks = Task.detached { () -> [LogInspection] in
      var looks: [LogInspection] = []
      while !Task.isCancelled {
        // Without it, the writer's tasks would have to do without this thread, and it may be the only one.
        await Task.yield()
        do {
          looks.append(try LogInspection.look(at: directory.path))
        } catch LogStoreError.locked {
          continue
        }
      }
      return looks
    }
    for _ in 0..<20 {
      let store = try LogStore.open(directory.path, options: smallSegments())
      try await fill(store, 30)
      try await store.close()
    }
    looks.cancel()
    let ends = try await looks.value.map(\.endOffset)
    #expect(!ends.isEmpty && ends == ends.sorted() && ends.last ?? 0 <= 600)
  }

  @Test("a finished segment that is cut or gone is listed; damage at the end, and no store, are errors")
  func damaged() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await fill(store, 300)
    try await store.close()
    let names = directory.names(".log")
    let first = try FileHandle(forWritingTo: URL(fileURLWithPath: directory.file(names[0])))
    try first.truncate(atOffset: 8_192)
    try first.close()
    let look = try LogInspection.look(at: directory.path)
    #expect(look.damagedFiles.map(\.file) == [directory.file(names[0])] && look.endOffset == 300)
    let last = try FileHandle(forUpdating: URL(fileURLWithPath: directory.file(names[names.count - 1])))
    try last.seek(toOffset: 5_000)
    try last.write(contentsOf: Data(repeating: 0xFF, count: 64))
    try last.close()
    await expectThrows({ if case .damaged = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try LogInspection.look(at: directory.path)
    }
    await expectThrows({ if case .notAStore = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try LogInspection.look(at: directory.path + "/none")
    }
  }
}
