import Foundation
import Testing

@testable import LogStore

/// Checkpoints of consumers: which way they move, and how they are deleted.
@Suite struct CursorTests {
  let directory = TemporaryDirectory()

  func open() throws(LogStoreError) -> LogStore { try LogStore.open(directory.path, options: smallSegments()) }

  /// A store that was let go of is released in the background.
  private func openWhenReleased() async throws -> LogStore {
    while true {
      switch Result(catching: { () throws(LogStoreError) in try open() }) {
      case .success(let store): return store
      case .failure(.locked): await Task.yield()
      case .failure(let error): throw error
      }
    }
  }

  static func commit(_ name: String, _ checkpoint: UInt64, isReset: Bool = false, mayLag: Bool = false) -> Append {
    Append([], cursors: [CursorCommit(name: name, checkpoint: checkpoint, isReset: isReset, mayLag: mayLag)])
  }

  @Test("a cursor that would go back is refused with its append, unless it is reset or may lag")
  func backwards() async throws {
    let store = try open()
    _ = try await store.append(
      Append((0..<5).map { _ in event("s") }, cursors: [CursorCommit(name: "c", checkpoint: 4)]))
    let back = Append([event("s")], cursors: [CursorCommit(name: "c", checkpoint: 3)])
    let error = LogStoreError.cursorBehind(name: "c", checkpoint: 3, present: 4)
    await expectThrows({ $0 == error }) { () async throws(LogStoreError) in try await store.append(back) }
    await expectThrows({ $0 == error }) { () async throws(LogStoreError) in try await store.appendBuffered(back) }
    #expect(store.reader.endOffset == 5)
    // The present checkpoint may be committed again.
    _ = try await store.append(Self.commit("c", 4))
    _ = try await store.append(Self.commit("c", 2, mayLag: true))
    #expect(try store.reader.cursor("c") == 4)
    _ = try await store.append(Self.commit("c", 2, isReset: true))
    #expect(try store.reader.cursor("c") == 2)
    // Checkpoints that are not durable yet count too.
    _ = try await store.appendBuffered(Self.commit("c", 5))
    await expectThrows({ $0 == .cursorBehind(name: "c", checkpoint: 3, present: 5) }) {
      () async throws(LogStoreError) in
      try await store.append(Self.commit("c", 3))
    }
    try await store.close()
  }

  @Test("a repeated append returns the original's result, whatever its cursor's checkpoint is by now")
  func repeated() async throws {
    let store = try open()
    let first = Append([event("s", id: .random())], cursors: [CursorCommit(name: "c", checkpoint: 1)])
    let done = try await store.append(first)
    _ = try await store.append(Append([event("s")], cursors: [CursorCommit(name: "c", checkpoint: 2)]))
    let again = try await store.append(first)
    #expect(again.isRepeat && again.offsets == done.offsets)
    #expect(try store.reader.cursor("c") == 2)
    try await store.close()
  }

  @Test("several commits of one append count in their order")
  func severalInOne() async throws {
    let store = try open()
    _ = try await store.append(
      Append((0..<5).map { _ in event("s") }, cursors: [CursorCommit(name: "c", checkpoint: 4)]))
    let back = [CursorCommit(name: "d", checkpoint: 3), CursorCommit(name: "d", checkpoint: 2)]
    await expectThrows({ $0 == .cursorBehind(name: "d", checkpoint: 2, present: 3) }) {
      () async throws(LogStoreError) in
      try await store.append(Append([], cursors: back))
    }
    #expect(try store.reader.cursor("d") == nil)
    _ = try await store.append(Append([], cursors: [.deleting("c"), CursorCommit(name: "c", checkpoint: 1)]))
    #expect(try store.reader.cursor("c") == 1)
    _ = try await store.append(Append([], cursors: [CursorCommit(name: "c", checkpoint: 2), .deleting("c")]))
    #expect(try store.reader.cursors().isEmpty)
    try await store.close()
  }

  @Test("there is room for a fixed number of names, and for others once they are deleted")
  func limit() async throws {
    let store = try open()
    let names = (0..<Limits.cursors).map { "c\($0)" }
    _ = try await store.append(Append([], cursors: names.dropLast().map { CursorCommit(name: $0, checkpoint: 0) }))
    let isFull = { (error: LogStoreError) -> Bool in
      error
        == .limitExceeded(
          what: "the number of cursors", actual: UInt64(Limits.cursors) + 1, limit: UInt64(Limits.cursors))
    }
    // Both in one append are one too many.
    await expectThrows(isFull) { () async throws(LogStoreError) in
      try await store.append(
        Append([], cursors: [CursorCommit(name: "x", checkpoint: 0), CursorCommit(name: "y", checkpoint: 0)]))
    }
    _ = try await store.append(Self.commit(names[names.count - 1], 0))
    await expectThrows(isFull) { () async throws(LogStoreError) in try await store.append(Self.commit("x", 0)) }
    _ = try await store.append(Append([], cursors: [.deleting("c7"), CursorCommit(name: "x", checkpoint: 0)]))
    _ = try await store.append(Append([], cursors: [.deleting("c8")]))
    _ = try await store.append(Self.commit("y", 0))
    await expectThrows(isFull) { () async throws(LogStoreError) in try await store.append(Self.commit("c7", 0)) }
    #expect(try store.reader.cursors().count == Limits.cursors)
    #expect(try store.reader.cursor("c7") == nil && store.reader.cursor("x") == 0)
    try await store.close()
  }

  enum After: CaseIterable { case nothing, close, crash, otherSegments }

  @Test("a deleted cursor stays deleted, and its name begins anywhere", arguments: After.allCases)
  func deleted(_ after: After) async throws {
    var store = try open()
    let other = try LogReader.open(directory.path)
    _ = try await store.append(Append([event("s"), event("s")], cursors: [CursorCommit(name: "gone", checkpoint: 2)]))
    _ = try await store.append(Self.commit("kept", 1))
    _ = try await store.append(Append([event("s")], cursors: [.deleting("gone"), .deleting("never was")]))
    switch after {
    case .nothing: break
    case .otherSegments:
      for _ in 0..<40 { _ = try await store.append(Append(event("s", String(repeating: "x", count: 5000)))) }
    case .close:
      try await store.close()
      store = try open()
    case .crash:
      store.abandon()
      store = try await openWhenReleased()
    }
    let end = store.reader.endOffset
    #expect(try store.reader.cursor("gone") == nil)
    #expect(try store.reader.cursors().map(\.name) == ["kept"])
    _ = try await store.append(Append([event("s")], cursors: [CursorCommit(name: "kept", checkpoint: 2)]))
    #expect(try await other.waitForEvents(at: end))
    #expect(try other.cursors().map(\.name) == ["kept"])
    #expect(try other.statistics().cursors.map(\.name) == ["kept"])
    _ = try await store.append(Append([event("s")], cursors: [CursorCommit(name: "gone", checkpoint: 1)]))
    #expect(try store.reader.cursor("gone") == 1)
    #expect(try await other.waitForEvents(at: end + 1))
    #expect(try other.cursor("gone") == 1)
    other.close()
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }

  @Test("a deletion is in a backup and in what a repair makes")
  func copied() async throws {
    let store = try open()
    _ = try await store.append(Append([event("s")], cursors: [CursorCommit(name: "gone", checkpoint: 1)]))
    _ = try await store.append(
      Append([event("s")], cursors: [.deleting("gone"), CursorCommit(name: "kept", checkpoint: 1)]))
    try await store.close()
    let (backup, restored, repaired) = (TemporaryDirectory(), TemporaryDirectory(), TemporaryDirectory())
    _ = try LogStore.backup(directory.path, to: .directory(backup.path))
    _ = try LogStore.restore(from: .directory(backup.path), to: restored.path)
    _ = try LogStore.repair(directory.path, to: repaired.path)
    for path in [restored.path, repaired.path] {
      let reader = try LogReader.open(path)
      #expect(try reader.cursors().map(\.name) == ["kept"])
      reader.close()
    }
    #expect(try DamagedLog(directory.path).statistics().statistics.cursors.map(\.name) == ["kept"])
  }

  @Test(
    "to a program that knows no deletion, a deleted cursor is ahead of everything, and comes back where it is committed"
  )
  func olderPrograms() async throws {
    let store = try open()
    _ = try await store.append(
      Append([event("s"), event("s")], cursors: [CursorCommit(name: "its-name", checkpoint: 1)]))
    _ = try await store.append(Self.commit("its-name", 2))
    _ = try await store.append(Append([], cursors: [.deleting("its-name")]))
    _ = try await store.append(Self.commit("its-name", 1))
    try await store.close()
    let file = Array(try Data(contentsOf: URL(fileURLWithPath: directory.file(FileName.segment(0)))))
    let name = bytes("its-name")
    var found: [(kind: UInt8, checkpoint: UInt64)] = []
    for start in 0..<file.count - name.count where file[start..<start + name.count].elementsEqual(name) {
      let record = start - Record.byteCount
      let checkpoint = file[record + 16..<record + 24].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      found.append((file[record + 8], checkpoint))
    }
    // 2 moves forward, 3 sets.
    #expect(found.map(\.kind) == [3, 2, 3, 3])
    #expect(found.map(\.checkpoint) == [1, 2, .max, 1])
  }

  @Test("a checkpoint that no log reaches is no deletion by accident")
  func farCheckpoint() async throws {
    let store = try open()
    for isReset in [false, true] {
      await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
        try await store.append(Self.commit("c", .max, isReset: isReset))
      }
    }
    try await store.close()
  }
}
