import Foundation
import Synchronization
import Testing

@testable import LogStore

/// Reading during writing: in this process, and as another process does.
@Suite struct FollowTests {
  let directory = TemporaryDirectory()

  /// Reads on from an offset until it has `count` events.
  func tail(_ reader: LogReader, from offset: UInt64, count: Int) async throws -> [UInt64] {
    var offsets: [UInt64] = []
    var next = offset
    while offsets.count < count, try await reader.waitForEvents(at: next) {
      next = try reader.forEach(from: next) { event in
        offsets.append(event.offset)
        return true
      }
    }
    return offsets
  }

  @Test(
    "readers that begin at any moment see every event once and in order, across segments", arguments: [false, true])
  func following(asOtherProcess: Bool) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let count = 3000
    try await withThrowingTaskGroup(of: Void.self) { group in
      let path = directory.path
      for reader in 0..<6 {
        group.addTask {
          // Each reader at another moment of the load.
          _ = try await store.reader.waitForEvents(at: UInt64(reader * 400))
          let other = asOtherProcess ? try LogReader.open(path) : store.reader
          let start = UInt64(reader * 300)
          let seen = try await tail(other, from: start, count: count - Int(start))
          #expect(seen == Array(start..<UInt64(count)))
          if asOtherProcess { other.close() }
        }
      }
      for writer in 0..<3 {
        group.addTask {
          for index in 0..<count / 3 {
            _ = try await store.append(Append(event("w\(writer)", String(repeating: "z", count: 150) + "\(index)")))
          }
        }
      }
      try await group.waitForAll()
    }
    #expect(directory.names(".log").count > 5)
    try await store.close()
  }

  @Test("another process's reader never sees what is not synced")
  func nothingBeforeTheSync() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s", "durable")))
    _ = try await store.appendBuffered(Append(event("s", "written")))
    let other = try LogReader.open(directory.path)
    #expect(other.endOffset == 1)
    #expect(try other.events(from: 0, limit: 9).count == 1)
    #expect(try other.stream("s").count == 1)
    #expect(try store.reader.stream("s").count == 1)
    try await store.flush()
    #expect(try await other.waitForEvents(at: 1))
    #expect(try other.stream("s").map { String(decoding: $0.payload, as: UTF8.self) } == ["durable", "written"])
    other.close()
    try await store.close()
  }

  @Test("a reader that began without a writer goes on with the next, and the one after")
  func writersComeAndGo() async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    try await store.close()
    let other = try LogReader.open(directory.path)
    for round in 1...3 {
      store = try LogStore.open(directory.path, options: smallSegments())
      for _ in 0..<200 { _ = try await store.append(Append(event("s", String(repeating: "r", count: 300)))) }
      #expect(try await other.waitForEvents(at: UInt64(round * 200)))
      #expect(other.endOffset == UInt64(round * 200 + 1))
      #expect(try other.stream("s").count == round * 200 + 1)
      if round == 2 {
        store.abandon()
        while (try? RealDisk().lock(directory.file("lock"), exclusive: true)) == nil { await Task.yield() }
      } else {
        try await store.close()
      }
    }
    #expect(try other.events(from: 0, limit: .max).map(\.offset) == Array(0...600))
    other.close()
  }

  @Test("cursors reach other readers too")
  func cursors() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let other = try LogReader.open(directory.path)
    _ = try await store.append(Append(event("s"), cursors: [CursorCommit(name: "c", checkpoint: 1)]))
    #expect(try await other.waitForEvents(at: 0))
    #expect(try other.cursor("c") == 1)
    // A segment full of cursors only is replaced while it is read.
    for number in 0..<1500 {
      _ = try await store.append(
        Append([], cursors: [CursorCommit(name: "c", checkpoint: UInt64(number % 2), isReset: true)]))
    }
    _ = try await store.append(Append(event("s")))
    #expect(try await other.waitForEvents(at: 1))
    #expect(try other.cursor("c") == 1)
    #expect(try other.events(from: 0, limit: 9).count == 2)
    other.close()
    try await store.close()
  }

  @Test("waiting ends with the task's cancellation, and with the reader's or the store's close")
  func waitingEnds() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let cancelled = Task { try await store.reader.waitForEvents(at: 5) }
    cancelled.cancel()
    #expect(try await cancelled.value == false)
    let other = try LogReader.open(directory.path)
    let closed = Task { try await other.waitForEvents(at: 5) }
    other.close()
    #expect(try await closed.value == false)
    let storeClosed = Task { try await store.reader.waitForEvents(at: 5) }
    try await store.close()
    #expect(try await storeClosed.value == false)
  }

  @Test("a notice that goes back to an earlier segment is damage, and is not followed")
  func noticeOfThePast() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for index in 0..<400 {
      _ = try await store.append(Append(event("s", String(repeating: "p", count: 500) + "\(index)")))
    }
    #expect(directory.names(".log").count > 3)
    let other = try LogReader.open(directory.path)
    let waiting = Task { () -> LogStoreError? in
      do throws(LogStoreError) {
        _ = try await other.waitForEvents(at: 1_000_000)
        return nil
      } catch {
        return error
      }
    }
    // It has read the last notice, which is now overwritten.
    #expect(try await other.waitForEvents(at: 399))
    let first = try store.reader.commitPoint.segments.segment(0)
    let notice = TailNotice(
      end: DurableEnd(offset: 0, baseOffset: 0, position: first.start.position), writer: 7,
      segment: first.headerChecksum, state: .open)
    let file = try RealDisk().open(directory.file("tail"), .readWrite)
    try file.write(notice.encoded())
    let error = await waiting.value
    guard case .damaged(let damage)? = error else {
      Issue.record("\(error?.description ?? "nothing was thrown")")
      return
    }
    #expect(damage.file == directory.file("tail") && damage.position == 16)
    #expect(other.endOffset == 400)
    other.close()
    try await store.close()
  }

  @Test("a directory without a store differs from an empty log, and reading creates nothing")
  func nothingThere() async throws {
    await expectThrows({ $0 == .notAStore(directory: directory.path) }) { () async throws(LogStoreError) in
      try LogReader.open(directory.path)
    }
    var options = LogStore.Options()
    options.createIfMissing = false
    await expectThrows({ $0 == .notAStore(directory: directory.path) }) { () async throws(LogStoreError) in
      try LogStore.open(directory.path, options: options)
    }
    #expect(!FileManager.default.fileExists(atPath: directory.path))
    try await LogStore.open(directory.path, options: smallSegments()).close()
    let names = try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted()
    let reader = try LogReader.open(directory.path)
    #expect(reader.endOffset == 0)
    #expect(try reader.events(from: 0, limit: 1).isEmpty)
    #expect(try reader.events(from: 77, limit: 1).isEmpty)
    reader.close()
    #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == names)
  }
}
