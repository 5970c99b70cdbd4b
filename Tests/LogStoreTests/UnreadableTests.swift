import Foundation
import Glibc
import Synchronization
import Testing

@testable import LogStore

/// A file that loses its end while it is mapped. A touch of the lost pages is like an unreadable disk (SIGBUS), and they
/// are readable again when the end is back.
private final class CutFile {
  private let path: String
  private let position: Int
  private let rest: [UInt8]

  init(_ path: String, at position: Int) throws {
    self.path = path
    self.position = position
    rest = Array(try content(path)[position...])
    try #require(truncate(path, off_t(position)) == 0)
  }

  func undo() throws {
    let file = try RealDisk().open(path, .readWrite)
    try file.write(rest, at: UInt64(position))
  }
}

/// Ends the test's process with SIGBUS if the handler does not know a mapping.
@Suite struct UnreadableMappingTests {
  let directory = TemporaryDirectory()

  func makeFile(pages: Int, _ name: String = "file") throws -> String {
    try FileManager.default.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
    let bytes = (0..<pages * pageByteCount).map { UInt8(truncatingIfNeeded: $0 / pageByteCount + 1) }
    try Data(bytes).write(to: URL(fileURLWithPath: directory.file(name)))
    return directory.file(name)
  }

  func map(_ path: String, pages: Int) throws -> Mapping {
    try RealDisk().open(path, .read).map(byteCount: pages * pageByteCount)
  }

  @Test("a page that can't be read is zeros, and the mapping knows which and why")
  func zeros() throws {
    let path = try makeFile(pages: 4)
    let mapping = try map(path, pages: 4)
    let before = faultCount()
    #expect(mapping.bytes[3 * pageByteCount] == 4 && mapping.faultCount == 0)
    #expect(mapping.unreadablePosition(in: 0..<mapping.bytes.count) == nil)
    let cut = try CutFile(path, at: 2 * pageByteCount)
    #expect(mapping.bytes[pageByteCount] == 2)
    #expect(mapping.bytes[3 * pageByteCount + 7] == 0)
    // Counted before the zeros are there, and again when they are.
    #expect(mapping.faultCount == 2 && faultCount() > before + 1)
    #expect(mapping.unreadablePosition(in: 0..<mapping.bytes.count) == 3 * pageByteCount)
    #expect(mapping.unreadablePosition(in: 0..<3 * pageByteCount) == nil)
    #expect(mapping.wasTouched(since: 0, 3 * pageByteCount..<3 * pageByteCount + 1))
    #expect(mapping.wasTouched(since: 1, 0..<mapping.bytes.count))
    #expect(!mapping.wasTouched(since: 2, 0..<mapping.bytes.count))
    #expect(mapping.reason(at: 3 * pageByteCount).contains("cut to \(2 * pageByteCount) bytes"))
    try cut.undo()
    #expect(mapping.reason(at: 3 * pageByteCount).contains("now can be"))
    #expect(mapping.heal())
    #expect(mapping.bytes[3 * pageByteCount + 7] == 4)
    #expect(mapping.unreadablePosition(in: 0..<mapping.bytes.count) == nil)
    // The mapping still knows that the page could not be read.
    #expect(mapping.wasTouched(since: 0, 3 * pageByteCount..<4 * pageByteCount))
  }

  @Test("of a mapping with more unreadable pages than are listed all is unreadable, until the disk is well")
  func all() throws {
    let pages = 100
    let path = try makeFile(pages: pages)
    let mapping = try map(path, pages: pages)
    let cut = try CutFile(path, at: pageByteCount)
    for page in 1..<pages { #expect(mapping.bytes[page * pageByteCount] == 0) }
    #expect(mapping.bytes[0] == 0)
    #expect(mapping.unreadablePosition(in: 0..<1) == 0)
    #expect(mapping.wasTouched(since: 0, 0..<1))
    try cut.undo()
    #expect(mapping.heal())
    for page in 0..<pages { #expect(mapping.bytes[page * pageByteCount] == UInt8(page + 1)) }
    #expect(mapping.unreadablePosition(in: 0..<mapping.bytes.count) == nil)
  }

  @Test("a file that was replaced is not mapped instead of the one that was cut")
  func replaced() throws {
    let path = try makeFile(pages: 2)
    let mapping = try map(path, pages: 2)
    _ = try CutFile(path, at: pageByteCount)
    #expect(mapping.bytes[pageByteCount] == 0)
    try #require(Glibc.rename(try makeFile(pages: 2, "other"), path) == 0)
    #expect(!mapping.heal())
    #expect(mapping.bytes[pageByteCount] == 0)
    #expect(mapping.reason(at: pageByteCount).contains("replaced"))
  }

  @Test("many threads touch unreadable pages of many mappings at once, while others come and go")
  func manyThreads() throws {
    let pages = 20
    let path = try makeFile(pages: pages)
    let mappings = try (0..<64).map { _ in try map(path, pages: pages) }
    let cut = try CutFile(path, at: pageByteCount)
    let wrong = Atomic(0)
    DispatchQueue.concurrentPerform(iterations: 512) { number in
      // Tasks that run at the same time use the same mapping, and different pages of it.
      let mapping = mappings[number / 8]
      for page in number % 2 == 0 ? Array(1..<pages) : (1..<pages).reversed()
      where mapping.bytes[page * pageByteCount + number] != 0 {
        wrong.add(1, ordering: .relaxed)
      }
      if mapping.bytes[number] != 1 { wrong.add(1, ordering: .relaxed) }
      // At the address of a mapping that is gone, whose unreadable pages were others.
      let start = (1 + number % (pages - 1)) * pageByteCount
      // A failed mapping is as wrong as one that does not know what it can't read.
      guard let own = try? map(path, pages: pages), own.bytes[start] == 0, own.faultCount == 2,
        own.unreadablePosition(in: 0..<own.bytes.count) == start
      else {
        wrong.add(1, ordering: .relaxed)
        return
      }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
    for mapping in mappings { #expect(mapping.unreadablePosition(in: 0..<mapping.bytes.count) == pageByteCount) }
    try cut.undo()
    for mapping in mappings {
      #expect(mapping.heal())
      for page in 0..<pages { #expect(mapping.bytes[page * pageByteCount] == UInt8(page + 1)) }
    }
  }
}

@Suite struct UnreadableStoreTests {
  let directory = TemporaryDirectory()

  /// A closed store with the events of one stream in each segment, and of one stream with a long name in the last.
  func makeStore() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for number in 0..<1000 {
      _ = try await store.append(Append(event("s\(number / 200)", String(repeating: "p", count: 200) + "\(number)")))
    }
    try await store.waitUntilIndexed()
    try await store.close()
  }

  var segments: [String] { directory.names(".log").map(directory.file) }

  func unreadable(_ error: LogStoreError) -> Damage? {
    if case .unreadable(let damage) = error { damage } else { nil }
  }

  /// Reads again until it works, as a caller that waits for a disk does.
  func eventually<Value>(_ body: () throws(LogStoreError) -> Value) throws(LogStoreError) -> Value {
    let deadline = ContinuousClock.now + .seconds(20)
    while true {
      do throws(LogStoreError) {
        return try body()
      } catch {
        guard unreadable(error) != nil, ContinuousClock.now < deadline else { throw error }
        sched_yield()
      }
    }
  }

  @Test("a reader refuses what can't be read with file and byte, serves the rest, and all of it when the disk is well")
  func reader() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path, streamCacheBytes: 0)
    defer { reader.close() }
    let all = try reader.events(from: 0, limit: .max)
    // Mapped for queries too, in another mapping.
    #expect(try reader.stream("s1").count == 200)
    let segment = try #require(segments.dropFirst().first)
    let cut = try CutFile(segment, at: 16 << 10)
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in
      try reader.events(from: 0, limit: .max)
    }
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in try reader.stream("s1") }
    #expect(try reader.stream("s0").count == 200)
    #expect(try reader.stream("s4").count == 200)
    #expect(try reader.streamVersion("s4") == 200)
    try cut.undo()
    #expect(try eventually { () throws(LogStoreError) in try reader.events(from: 0, limit: .max) } == all)
    #expect(try eventually { () throws(LogStoreError) in try reader.stream("s1").count } == 200)
  }

  @Test("a cursor continues where it was when the disk is readable again, and returns every event once")
  func cursor() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path)
    defer { reader.close() }
    let segment = try #require(segments.dropFirst(2).first)
    // Mapped before the cut: otherwise its length would be found wrong.
    #expect(try reader.events(from: 0, limit: .max).count == 1000)
    var offsets: [UInt64] = []
    var cursor = reader.cursor(from: 0)
    let broken = try CutFile(segment, at: 32 << 10)
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in
      while let event = try cursor.next() { offsets.append(event.offset) }
    }
    #expect(offsets.count == Int(cursor.offset))
    try broken.undo()
    try eventually { () throws(LogStoreError) in
      while let event = try cursor.next() { offsets.append(event.offset) }
    }
    #expect(offsets == (0..<1000).map { UInt64($0) })
  }

  @Test("bytes that became zeros while they were lent are an error of the visit, not an event")
  func lent() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path)
    defer { reader.close() }
    let segment = try #require(segments.first)
    var cut: CutFile?
    var seen: [Event] = []
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in
      try reader.forEach(from: 100) { event in
        // Behind the header, in the middle of a run that was checked.
        if event.offset == 110 { cut = try? CutFile(segment, at: 4096) }
        seen.append(event.copy())
        return event.offset < 300
      }
    }
    #expect(seen.last?.offset == 0 || seen.last?.payload.allSatisfy { $0 == 0 } == true || seen.last?.offset == 110)
    #expect(seen.count <= 12)
    try cut?.undo()
    let again = try eventually { () throws(LogStoreError) in try reader.events(from: 100, limit: 50) }
    #expect(again.map(\.offset) == (100..<150).map { UInt64($0) } && again.allSatisfy { $0.payload.count > 200 })
    var cursor = reader.cursor(from: 100)
    if let event = try cursor.next() {
      cut = try CutFile(segment, at: 4096)
      #expect(event.copy().payload.allSatisfy { $0 == 0 })
    }
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in
      _ = try cursor.next()?.offset
    }
    // The cursor returns it again, since the caller got nothing.
    #expect(cursor.offset == 100)
    try cut?.undo()
    let next = try eventually { () throws(LogStoreError) in try cursor.next()?.copy() }
    #expect(next == again.first)
  }

  @Test("a subscription takes no event whose bytes became zeros meanwhile, and gives it when the disk is well")
  func subscription() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path)
    defer { reader.close() }
    let segment = try #require(segments.first)
    let subscription = Subscription(reader, from: 100)
    var cut: CutFile?
    let portion = try subscription.read { event -> Subscription.Choice<Event> in
      if event.offset == 110 { cut = try? CutFile(segment, at: 4096) }
      return .take(event.copy())
    }
    #expect(portion.items.map(\.offset) == Array(100..<110) && portion.offsets == 100..<110)
    #expect(subscription.readOffset == 110 && subscription.unfinishedCount == 10)
    try cut?.undo()
    let rest = try eventually { () throws(LogStoreError) in
      try subscription.read { event -> Subscription.Choice<Event> in .take(event.copy()) }
    }
    #expect(
      rest.items.map(\.item.offset) == Array(110..<1_000) && rest.items.allSatisfy { $0.item.payload.count > 200 })
  }

  @Test("reading works around an unreadable index file, and the next writer rebuilds it")
  func index() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path, streamCacheBytes: 0)
    let name = try #require(directory.names(".idx").first)
    #expect(try reader.stream("s0").count == 200)
    _ = try CutFile(directory.file(name), at: 0)
    for stream in 0..<5 {
      #expect(try reader.stream("s\(stream)").count == 200)
      #expect(try reader.streamVersion("s\(stream)") == 200)
    }
    #expect(try reader.stream("none").isEmpty)
    reader.close()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await store.waitUntilIndexed()
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  @Test("verify lists every segment that is cut, once each, until it has its end again")
  func verify() async throws {
    try await makeStore()
    let cuts = try segments[1...2].map { try CutFile($0, at: 24 << 10) }
    #expect(try LogStore.verify(directory.path).findings.map(\.file) == Array(segments[1...2]))
    for cut in cuts { try cut.undo() }
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  @Test(
    "the last segment loses its end and the log goes on: what is in it is refused, all else served, also when reopened",
    arguments: [4096, 16 << 10], [true, false])
  func lastSegment(position: Int, isTouched: Bool) async throws {
    var options = smallSegments()
    options.servesDamaged = true
    let text = String(repeating: "p", count: 200)
    var store = try LogStore.open(directory.path, options: options)
    var sound = 0
    while segments.count < 2 {
      _ = try await store.append(Append(event("s\(sound)", text, id: EventID(high: 1, low: UInt64(sound)))))
      sound += 1
    }
    // The last one may be in the second segment.
    sound -= 1
    try await store.waitUntilIndexed()
    let path = try #require(segments.last)
    let hit = (0..<100).map { event("h\($0)", text, id: EventID(high: 2, low: UInt64($0))) }
    for event in hit { _ = try await store.append(Append(event)) }
    let segment = store.reader.commitPoint.segments.open.segment
    try #require(truncate(path, off_t(position)) == 0)
    if isTouched { #expect(segment.bytes[position] == 0 && segment.mapping.faultCount > 0) }
    // A stream whose last event is sound and whose first is not.
    _ = try await store.append(Append(event("h99", text)))
    var later = 0
    while segments.count < 3 {
      _ = try await store.append(Append(event("l\(later)", text)))
      later += 1
    }
    try await store.waitUntilIndexed()

    for isReopened in [false, true] {
      if isReopened {
        try await store.close()
        store = try LogStore.open(directory.path, options: options)
      }
      for stream in 0..<sound { #expect(try store.reader.stream("s\(stream)").count == 1) }
      var refused: [Int] = []
      for stream in 0..<hit.count {
        do throws(LogStoreError) {
          #expect(try store.reader.stream("h\(stream)").first?.payload == hit[stream].payload)
        } catch {
          #expect(error.finding?.file == path, "\(error)")
          refused.append(stream)
        }
      }
      #expect(position == 4096 ? refused.count == hit.count : refused.count > 10 && refused.count < hit.count)
      #expect(refused == Array((hit.count - refused.count)..<hit.count))
      let new = try await store.append(Append(event("new \(isReopened)"), expecting: .noStream))
      #expect(new.versions == [1])
      let first = try await store.append(Append(event("s0", text, id: EventID(high: 1, low: 0))))
      #expect(first.isRepeat)
      // A repeat is found by its id although the record is lost: it is refused, and not taken for a new append.
      for stream in ["h98", "h99"] {
        let number = stream == "h98" ? 98 : 99
        await expectThrows({ $0.finding?.file == path }) { () async throws(LogStoreError) in
          try await store.append(Append(event(stream, text, id: hit[number].id)))
        }
      }
    }
    try await store.close()
  }

  @Test("a long name that can't be compared refuses the append that needs it, and not the others")
  func longName() async throws {
    let name = String(repeating: "n", count: 100)
    var store = try LogStore.open(directory.path, options: smallSegments())
    for _ in 0..<3 { _ = try await store.append(Append(event(name))) }
    try await store.close()
    store = try LogStore.open(directory.path, options: smallSegments())
    let segment = try #require(segments.first)
    let cut = try CutFile(segment, at: 4096)
    let mapping = store.reader.commitPoint.segments.open.segment.mapping
    #expect(mapping.bytes[4096] == 0)
    await expectThrows({ unreadable($0)?.file == segment }) { () async throws(LogStoreError) in
      try await store.append(Append(event(name)))
    }
    await expectThrows({ unreadable($0)?.file == segment }) { () throws(LogStoreError) in
      try store.reader.streamVersion(name)
    }
    try cut.undo()
    #expect(try eventually { () throws(LogStoreError) in try store.reader.streamVersion(name) } == 3)
    let appended = try await store.append(Append(event(name)))
    #expect(appended.versions == [4])
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
  }
}
