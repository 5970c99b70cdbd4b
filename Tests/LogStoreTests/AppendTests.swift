import Testing

@testable import LogStore

@Suite struct AppendTests {
  let directory = TemporaryDirectory()

  @Test("offsets are dense from 0, versions dense from 1 in each stream")
  func denseOffsetsAndVersions() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for index in 0..<50 {
      let done = try await store.append(Append(event("s\(index % 3)", "\(index)")))
      #expect(done.offsets == UInt64(index)..<UInt64(index + 1))
      #expect(done.versions == [UInt64(index / 3 + 1)])
      #expect(!done.isRepeat)
    }
    let events = try store.reader.events(from: 0, limit: 100)
    #expect(events.map(\.offset) == Array(0..<50))
    #expect(events.map { String(decoding: $0.payload, as: UTF8.self) } == (0..<50).map(String.init))
    #expect(zip(events, events.dropFirst()).allSatisfy { $0.timestampMicroseconds <= $1.timestampMicroseconds })
    #expect(try store.reader.stream("s1").map(\.version) == Array(1...17))
    #expect(try store.reader.stream("s1", from: 16).map(\.version) == [16, 17])
    #expect(try store.reader.stream("nobody").isEmpty)
    try await store.close()
  }

  @Test("appends that come at once share syncs, fewer still when syncs wait for more")
  func syncs() async throws {
    for gather: UInt32 in [0, 5] {
      var options = smallSegments()
      options.gatherMilliseconds = gather
      let store = try LogStore.open(directory.path + "/\(gather)", options: options)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for writer in 0..<64 {
          group.addTask {
            for number in 0..<10 { _ = try await store.append(Append(event("w\(writer)", "\(number)"))) }
          }
        }
        try await group.waitForAll()
      }
      #expect(store.reader.endOffset == 640)
      #expect(store.syncCount < 640)
      // Ten rounds of all, and a few groups more at the beginning and the end.
      if gather > 0 { #expect(store.syncCount < 100) }
      let before = store.syncCount
      _ = try await store.append(Append(event("alone", "x")))
      #expect(store.syncCount == before + 1)
      try await store.close()
    }
  }

  @Test("everything is there after closing and opening, over many segments")
  func reopening() async throws {
    let count = 3000
    var store = try LogStore.open(directory.path, options: smallSegments())
    for start in stride(from: 0, to: count, by: 50) {
      _ = try await store.append(
        Append((start..<start + 50).map { event("stream-\($0 % 100)", String(repeating: "x", count: 100) + "\($0)") }))
    }
    try await store.close()
    #expect(directory.names(".log").count > 5)
    #expect(directory.isIndexed)

    for _ in 0..<2 {
      store = try LogStore.open(directory.path, options: smallSegments())
      #expect(store.recovery.wasClosedCleanly)
      #expect(store.reader.endOffset == UInt64(count))
      let events = try store.reader.events(from: 0, limit: .max)
      #expect(events.map(\.offset) == Array(0..<UInt64(count)))
      #expect(try store.reader.events(from: 1234, limit: 2).map(\.offset) == [1234, 1235])
      for stream in 0..<100 {
        let events = try store.reader.stream("stream-\(stream)")
        #expect(events.map(\.version) == Array(1...UInt64(count / 100)))
        #expect(events.map(\.offset) == stride(from: UInt64(stream), to: UInt64(count), by: 100).map { $0 })
        #expect(events.allSatisfy { $0.timestampMicroseconds > 1_600_000_000_000_000 })
      }
      try await store.close()
    }
  }

  @Test("a long stream is read whole and in parts, over pages and segments")
  func longStream() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for start in stride(from: 0, to: 5000, by: 100) {
      _ = try await store.append(Append((start..<start + 100).flatMap { [event("long", "\($0)"), event("o\($0)")] }))
    }
    #expect(try store.reader.stream("long").map(\.version) == Array(1...5000))
    #expect(try store.reader.stream("long", from: 1025, limit: 2048).map(\.version) == Array(1025...3072))
    #expect(try store.reader.stream("long", from: 4999, limit: 9).map(\.version) == [4999, 5000])
    #expect(try store.reader.stream("long", from: 5001).isEmpty)
    #expect(try store.reader.stream("long", limit: 1).map { String(decoding: $0.payload, as: UTF8.self) } == ["0"])
    try await store.close()
  }

  @Test("a failed condition writes nothing and reports stream, expected and actual")
  func conditions() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("a"), expecting: .noStream))
    _ = try await store.append(Append(event("a"), expecting: .streamExists))
    _ = try await store.append(Append(event("a"), expecting: .version(2)))
    for (condition, stream, actual) in [
      (StreamCondition.noStream, "a", UInt64(3)), (.version(2), "a", 3), (.version(4), "a", 3), (.version(0), "a", 3),
      (.streamExists, "b", 0), (.version(1), "b", 0),
    ] {
      await expectThrows({ $0 == .conflict(stream: stream, expected: condition, actual: actual) }) {
        () async throws(LogStoreError) in
        try await store.append(Append(event(stream), expecting: condition))
      }
    }
    // One of several streams is enough.
    await expectThrows({ $0 == .conflict(stream: "a", expected: .version(7), actual: 3) }) {
      () async throws(LogStoreError) in
      try await store.append(Append([event("c"), event("d")], conditions: ["a": .version(7), "c": .noStream]))
    }
    #expect(store.reader.endOffset == 3)
    try await store.close()
  }

  @Test("of writers that race for one version exactly one wins, in one group or in several")
  func racing() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for version in 0..<20 {
      let wins = await withTaskGroup(of: Bool.self) { group in
        for _ in 0..<16 {
          group.addTask {
            do throws(LogStoreError) {
              _ = try await store.append(Append(event("contended"), expecting: .version(UInt64(version))))
              return true
            } catch {
              return false
            }
          }
        }
        return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
      }
      #expect(wins == 1)
    }
    #expect(try store.reader.streamVersion("contended") == 20)
    try await store.close()
  }

  @Test("the same append sent again returns the original's offsets and versions", arguments: [false, true])
  func repeats(acrossSegments: Bool) async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    let ids = (0..<3).map { _ in EventID.random() }
    let versioned = Append(
      [event("a", id: ids[0]), event("b", id: ids[1]), event("a", id: ids[2])],
      conditions: ["a": .noStream, "b": .version(0)])
    let unconditional = Append(event("c", id: .random()))
    let first = try await store.append(versioned)
    let firstUnconditional = try await store.append(unconditional)
    if acrossSegments {
      for _ in 0..<30 { _ = try await store.append(Append(event("filler", String(repeating: "f", count: 9000)))) }
      try await store.close()
      store = try LogStore.open(directory.path, options: smallSegments())
    }
    let end = store.reader.endOffset
    for _ in 0..<2 {
      let again = try await store.append(versioned)
      #expect(again.offsets == first.offsets && again.versions == first.versions && again.isRepeat)
      let unconditionalAgain = try await store.append(unconditional)
      #expect(unconditionalAgain.offsets == firstUnconditional.offsets && unconditionalAgain.isRepeat)
    }
    #expect(store.reader.endOffset == end)
    // The same ids in another append are neither a repeat nor a silent second copy.
    await expectThrows({ if case .eventIDReused = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append([event("c", id: unconditional.events[0].id), event("c", id: .random())]))
    }
    await expectThrows({ if case .conflict = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("a", id: .random()), expecting: .noStream))
    }
    try await store.close()
  }

  @Test("repeats that arrive together with the first are recognised too")
  func concurrentRepeats() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for round in 0..<20 {
      let append = Append(event("s\(round)", id: .random()), expecting: round % 2 == 0 ? .noStream : .any)
      let results = await withTaskGroup(of: Result<Appended, LogStoreError>.self) { group in
        for _ in 0..<8 {
          group.addTask {
            do throws(LogStoreError) { return .success(try await store.append(append)) } catch {
              return .failure(error)
            }
          }
        }
        return await group.reduce(into: []) { $0.append($1) }
      }
      let offsets = Set(results.compactMap { try? $0.get().offsets })
      #expect(offsets == [UInt64(round)..<UInt64(round + 1)])
      #expect(results.filter { (try? $0.get().isRepeat) == false }.count == 1)
    }
    try await store.close()
  }

  @Test("what is over a limit is refused before anything is written")
  func limits() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let long = String(repeating: "n", count: 256)
    for bad in [event(""), event("s", type: ""), event(long), event("s", type: long)] {
      await expectThrows({ error in
        switch error {
        case .invalidArgument, .limitExceeded: true
        default: false
        }
      }) { () async throws(LogStoreError) in try await store.append(Append(bad)) }
    }
    let tooLarge = NewEvent(stream: "s", type: "t", payload: [UInt8](repeating: 0, count: Limits.eventBytes + 1))
    await expectThrows({ if case .limitExceeded = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(tooLarge))
    }
    await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append([]))
    }
    #expect(store.reader.endOffset == 0)
    // The largest event goes through, in a segment of its own size.
    let largest = NewEvent(stream: "s", type: "t", payload: [UInt8](repeating: 7, count: Limits.eventBytes))
    _ = try await store.append(Append(largest))
    _ = try await store.append(Append(event("after")))
    #expect(try store.reader.stream("s").first?.payload == largest.payload)
    try await store.close()
    let reopened = try LogStore.open(directory.path, options: smallSegments())
    #expect(reopened.reader.endOffset == 2)
    try await reopened.close()
  }

  @Test("any UTF-8 is a name, any bytes are a payload, and equal strings of different bytes are different streams")
  func anyBytes() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let names = ["tab\tnew\nline", "\0", "é", "e\u{301}", "\u{10FFFF}", String(repeating: "ü", count: 127)]
    for name in names {
      let payload = (0..<256).map(UInt8.init)
      let done = try await store.append(
        Append(
          NewEvent(stream: name, type: name, payload: payload, metadata: Array(payload.reversed())),
          expecting: .noStream))
      let read = try #require(try store.reader.events(from: done.offsets.lowerBound, limit: 1).first)
      #expect(Array(read.stream.utf8) == Array(name.utf8) && Array(read.type.utf8) == Array(name.utf8))
      #expect(read.payload == payload && read.metadata == payload.reversed())
      #expect(try store.reader.streamVersion(name) == 1)
    }
    try await store.close()
  }

  @Test("buffered appends are seen after the flush and not before")
  func buffered() async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    for index in 0..<500 {
      _ = try await store.appendBuffered(Append((0..<10).map { event("s\($0)", "\(index)") }))
    }
    try await store.flush()
    #expect(store.reader.endOffset == 5000)
    _ = try await store.appendBuffered(Append(event("s0")))
    #expect(store.reader.endOffset == 5000)
    #expect(try store.reader.streamVersion("s0") == 500)
    // A durable append behind it makes it durable too.
    _ = try await store.append(Append(event("s0"), expecting: .version(501)))
    #expect(store.reader.endOffset == 5002)
    _ = try await store.appendBuffered(Append(event("s0")))
    try await store.close()
    store = try LogStore.open(directory.path, options: smallSegments())
    #expect(store.reader.endOffset == 5003)
    try await store.close()
  }

  @Test("cursors move forward only, unless reset, and survive segments and reopening")
  func cursors() async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append([event("a"), event("a")], cursors: [CursorCommit(name: "c", checkpoint: 2)]))
    #expect(try store.reader.cursor("c") == 2)
    _ = try await store.append(Append([], cursors: [CursorCommit(name: "c", checkpoint: 1, mayLag: true)]))
    #expect(try store.reader.cursor("c") == 2)
    await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append([], cursors: [CursorCommit(name: "c", checkpoint: 3)]))
    }
    _ = try await store.append(Append([], cursors: [CursorCommit(name: "c", checkpoint: 0, isReset: true)]))
    #expect(try store.reader.cursor("c") == 0)
    for index in 0..<40 {
      _ = try await store.append(
        Append(
          [event("a", String(repeating: "y", count: 9000))],
          cursors: [CursorCommit(name: "d", checkpoint: UInt64(index))]))
    }
    #expect(try store.reader.cursor("nobody") == nil)
    try await store.close()
    store = try LogStore.open(directory.path, options: smallSegments())
    #expect(try store.reader.cursors().map(\.name) == ["c", "d"])
    #expect(try store.reader.cursors().map(\.checkpoint) == [0, 39])
    try await store.close()
  }

  @Test("a segment that holds only cursors is replaced by the next, and nothing is lost")
  func cursorsOnly() async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    for round in 0..<3 {
      for _ in 0..<700 {
        _ = try await store.append(
          Append([], cursors: [CursorCommit(name: "walker", checkpoint: UInt64(round), isReset: true)]))
      }
      _ = try await store.append(Append(event("a", "\(round)")))
    }
    #expect(try store.reader.cursor("walker") == 2)
    #expect(try store.reader.stream("a").count == 3)
    try await store.close()
    store = try LogStore.open(directory.path, options: smallSegments())
    #expect(try store.reader.cursor("walker") == 2)
    #expect(try store.reader.events(from: 0, limit: 9).map(\.version) == [1, 2, 3])
    try await store.close()
  }

  @Test("a closed store leaves no preallocated file")
  func nothingLeftBehind() async throws {
    for _ in 0..<10 {
      let store = try LogStore.open(directory.path, options: smallSegments())
      // More than half a segment, so that the next one is being prepared when the store is closed.
      for _ in 0..<9 { _ = try await store.append(Append(event("s", String(repeating: "x", count: 5000)))) }
      try await store.close()
      #expect(directory.names(".tmp") == [])
    }
  }

  @Test("after closing, everything says that it is closed")
  func closed() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await store.close()
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in try await store.append(Append(event("a")))
    }
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in try store.reader.events(from: 0, limit: 1)
    }
  }

  @Test("a second writer's error names who holds the store")
  func oneWriter() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    await expectThrows({ error in
      if case .locked(_, let holder) = error { holder.contains("process") } else { false }
    }) { () async throws(LogStoreError) in try LogStore.open(directory.path) }
    try await store.close()
    try await LogStore.open(directory.path).close()
  }

  @Test("two names that Unicode calls equal are two streams, in conditions too")
  func namesAreBytes() async throws {
    let (composed, decomposed) = ("caf\u{E9}", "cafe\u{301}")
    #expect(composed == decomposed)
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event(composed)))
    // If both were one key, the second condition would replace the first.
    var conditions: StreamConditions = [composed: .version(1), decomposed: .noStream]
    #expect(conditions.count == 2 && conditions[composed] == .version(1))
    let appended = try await store.append(
      Append([event(decomposed), event(composed)], conditions: conditions))
    #expect(appended.versions == [1, 2])
    conditions = [composed: .version(2), decomposed: .noStream]
    await expectThrows({
      if case .conflict(_, .noStream, 1) = $0 { true } else { false }
    }) { () async throws(LogStoreError) in
      try await store.append(Append([event(composed), event(decomposed)], conditions: conditions))
    }
    try await store.close()
  }
}
