import Foundation
import LogStore
import Testing

@testable import RegisPay

@Suite("What the data directory remembers of the payments log")
struct KnownLogTests {
  private func fill(_ store: LogStore, _ count: Int) async throws {
    for number in 0..<count {
      _ = try await store.append(Append([NewEvent(stream: "s\(number)", type: "Happened", payload: [])]))
    }
  }

  /// Runs a keeper as a start and a clean stop do: its task is cancelled, and its last write is done.
  private func stop(_ keeper: KnownLogKeeper) async {
    let task = Task { await keeper.run() }
    task.cancel()
    await task.value
  }

  @Test("at a clean stop the file has the log's end and id, and says that an empty log is empty")
  func atStop() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let keeper = KnownLogKeeper(folder, store.reader, psp: "simulator", logger: silent)
      try keeper.recordPSP()
      await stop(keeper)
      #expect(KnownLog(in: folder) == KnownLog(storeID: store.reader.storeID, events: 0, psp: "simulator"))
      for end in [3, 7] {
        try await fill(store, end - Int(store.reader.endOffset))
        await stop(keeper)
        #expect(KnownLog(in: folder) == KnownLog(storeID: store.reader.storeID, events: UInt64(end), psp: "simulator"))
      }
      #expect(keeper.warnings.isEmpty)
      try await store.close()
    }
  }

  @Test("the PSP is in the file before the first call, and a new one replaces it; the same one costs nothing")
  func psp() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      for psp in ["simulator", "http://psp.example"] {
        let keeper = KnownLogKeeper(folder, store.reader, psp: psp, logger: silent)
        try keeper.recordPSP()
        #expect(KnownLog(in: folder) == KnownLog(storeID: store.reader.storeID, events: 0, psp: psp))
        try FileManager.default.removeItem(atPath: KnownLog.path(in: folder))
        try keeper.recordPSP()
        #expect(KnownLog(in: folder) == nil)
      }
      let file = folder + "/file"
      try Data().write(to: URL(fileURLWithPath: file))
      let keeper = KnownLogKeeper(file, store.reader, psp: "simulator", logger: silent)
      #expect(throws: SmallFile.Failure.self) { try keeper.recordPSP() }
      try await store.close()
    }
  }

  @Test("while the server runs, the file follows the log, so that a kill loses little of it")
  func follows() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let keeper = KnownLogKeeper(folder, store.reader, psp: "simulator", logger: silent, interval: .milliseconds(1))
      let task = Task { await keeper.run() }
      for end in [1, 2] as [UInt64] {
        try await fill(store, 1)
        try await eventually("the file has \(end) events") { KnownLog(in: folder)?.events == end }
      }
      task.cancel()
      await task.value
      try await store.close()
    }
  }

  @Test("a log shorter than it was is warned of at each start, also when it has grown past, until the file is removed")
  func shorter() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      try await fill(store, 5)
      try KnownLog(storeID: store.reader.storeID, events: 8).write(in: folder)
      let collector = LineCollector()
      for _ in 1...3 {
        let keeper = KnownLogKeeper(folder, store.reader, psp: "simulator", logger: collector.logger)
        #expect(keeper.warnings.count == 1)
        #expect(keeper.warnings.first?.contains("the offsets 5..7 are gone") == true, "\(keeper.warnings)")
        await stop(keeper)
        try await fill(store, 4)
      }
      #expect(collector.text.split(separator: "\n").count == 3, "one line at each start: \(collector.text)")
      let keeper = KnownLogKeeper(folder, store.reader, psp: "simulator", logger: silent, interval: .milliseconds(1))
      let task = Task { await keeper.run() }
      try await eventually("the file has the end") { KnownLog(in: folder)?.events == store.reader.endOffset }
      #expect(!keeper.warnings.isEmpty)
      try FileManager.default.removeItem(atPath: KnownLog.path(in: folder))
      try await eventually("the warning ends") { keeper.warnings.isEmpty }
      try await eventually("the file is written again") { KnownLog(in: folder)?.missing.isEmpty == true }
      task.cancel()
      await task.value
      #expect(KnownLogKeeper(folder, store.reader, psp: "simulator", logger: silent).warnings.isEmpty)
      try await store.close()
    }
  }

  @Test("several losses are kept, and their number is bounded without forgetting an offset")
  func ranges() async throws {
    try await withTemporaryFolder { folder in
      var known = KnownLog(storeID: "a", events: 10)
      known.noteEnd(8)
      #expect(known.warning(in: folder)?.contains("offsets 8..9 are") == true)
      known.events = 20
      known.noteEnd(15)
      #expect(known.warning(in: folder)?.contains("offsets 8..9, 15..19 are") == true)
      try known.write(in: folder)
      #expect(KnownLog(in: folder) == known)
      known.noteEnd(9)
      #expect(known.warning(in: folder)?.contains("offsets 8..19 are") == true)
      for end in 1...40 as ClosedRange<UInt64> {
        known.events = end * 100
        known.noteEnd(end * 100 - 1)
        #expect(known.missing.ranges.count <= KnownLog.rangeLimit)
      }
      #expect(known.missing.contains(8) && known.missing.contains(3_999))
      #expect(!known.missing.contains(4_000))
    }
  }

  @Test(
    "a file that can't be read proves that there were events, and nothing else",
    arguments: ["", "{", "{}", #"{"events":-1}"#, #"{"events":"7","missing":[{"first":4,"last":3},{}]}"#])
  func torn(_ content: String) async throws {
    try await withTemporaryFolder { folder in
      try Data(content.utf8).write(to: URL(fileURLWithPath: KnownLog.path(in: folder)))
      let known = try #require(KnownLog(in: folder))
      #expect(known.events == 1 && known.storeID == nil && known.missing.isEmpty && known.fault != nil)
      let store = try openStore(folder)
      let collector = LineCollector()
      _ = KnownLogKeeper(folder, store.reader, psp: "simulator", logger: collector.logger)
      #expect(collector.text.contains("payments.known can't be read, and is replaced"), "\(collector.text)")
      try await store.close()
    }
  }
}
