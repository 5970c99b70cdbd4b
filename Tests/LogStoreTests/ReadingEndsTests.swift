import Foundation
import Testing

@testable import LogStore

/// How reading ends: for a cancelled task, a closed reader, a closed store and a released one alike.
@Suite struct ReadingEndsTests {
  let directory = TemporaryDirectory()

  /// A store with events of one stream, in a few segments.
  func store(events: Int) async throws -> LogStore {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for start in stride(from: 0, to: events, by: 100) {
      let batch = (start..<min(start + 100, events)).map { event("s", String(repeating: "e", count: 100) + "\($0)") }
      _ = try await store.append(Append(batch))
    }
    return store
  }

  enum Way: CaseIterable { case cursor, forEach, passingOver, stream }

  enum End: CaseIterable {
    case cancelled, readerClosed, storesReaderClosed

    var error: LogStoreError { self == .cancelled ? .cancelled : .closed }
  }

  /// Reads all events; `visit` is called for each. Returns how many were given, and what was thrown.
  func read(
    _ reader: LogReader, _ way: Way, endsWithTask: Bool = true, _ visit: (UInt64) -> Void
  ) async -> (count: UInt64, error: LogStoreError?) {
    var count: UInt64 = 0
    do throws(LogStoreError) {
      switch way {
      case .cursor:
        var cursor = reader.cursor(from: 0, endsWithTask: endsWithTask)
        let end = reader.endOffset
        repeat {
          while let event = try cursor.next() {
            count += 1
            visit(event.offset)
          }
          if cursor.offset == end { break }
        } while try await cursor.waitForMore()
        #expect(cursor.offset == count)
      case .forEach:
        try reader.forEach(from: 0, endsWithTask: endsWithTask) {
          count += 1
          visit($0.offset)
          return true
        }
      case .passingOver:
        try reader.forEach(from: 0, endsWithTask: endsWithTask, passingOver: { _ in }) {
          count += 1
          visit($0.offset)
          return true
        }
      case .stream:
        try reader.forEach(inStream: "s", endsWithTask: endsWithTask) {
          count += 1
          visit($0.offset)
        }
      }
      return (count, nil)
    } catch {
      return (count, error)
    }
  }

  @Test("a loop that is behind gets no further event once it is over", arguments: Way.allCases, End.allCases)
  func behind(_ way: Way, _ end: End) async throws {
    let store = try await store(events: 3000)
    let reader = end == .storesReaderClosed ? store.reader : try LogReader.open(directory.path)
    // Twice: the second time the stream is in the cache, and all is mapped.
    for _ in 0..<2 where end == .cancelled || !reader.commitPoint.isClosed {
      let reading = Task {
        await read(reader, way) { offset in
          guard offset == 10 else { return }
          switch end {
          case .cancelled: withUnsafeCurrentTask { $0?.cancel() }
          case .readerClosed, .storesReaderClosed: reader.close()
          }
        }
      }
      let (count, error) = await reading.value
      #expect(count == 11)
      // A loop ends, and a call that would have returned all of it says that it has not.
      #expect(error == (way == .cursor ? nil : end.error))
    }
    reader.close()
    try await store.close()
  }

  @Test("a loop that has taken events fast for long gets at most 64 more", arguments: Way.allCases)
  func fast(_ way: Way) async throws {
    let store = try await store(events: 20_000)
    let reading = Task {
      await read(store.reader, way) { if $0 == 10_000 { withUnsafeCurrentTask { $0?.cancel() } } }
    }
    let (count, error) = await reading.value
    #expect((10_001...10_065).contains(count))
    #expect(error == (way == .cursor ? nil : .cancelled))
    try await store.close()
  }

  @Test("in a cancelled task no reading call returns anything, unless it is asked to", arguments: Way.allCases)
  func cancelledBefore(_ way: Way) async throws {
    let store = try await store(events: 200)
    let reader = store.reader
    let reading = Task { () async throws -> Void in
      withUnsafeCurrentTask { $0?.cancel() }
      let ended = await read(reader, way) { _ in }
      #expect(ended.count == 0)
      #expect(ended.error == (way == .cursor ? nil : .cancelled))
      let whole = await read(reader, way, endsWithTask: false) { _ in }
      #expect(whole.count == 200 && whole.error == nil)
      #expect(throws: LogStoreError.cancelled) { try reader.events(from: 0, limit: 1) }
      // Nothing to read is no reason to go on either: this may be a loop.
      #expect(throws: LogStoreError.cancelled) { try reader.events(from: 200, limit: 1) }
      #expect(throws: LogStoreError.cancelled) { try reader.stream("none") }
      #expect(try reader.events(from: 0, limit: 1, endsWithTask: false).count == 1)
      #expect(try reader.stream("s", endsWithTask: false).count == 200)
      #expect(try reader.streamVersion("s") == 200)
      #expect(try await reader.waitForEvents(at: 0) == false)
      #expect(try await reader.waitForEvents(at: 0, endsWithTask: false))
    }
    try await reading.value
    try await store.close()
  }

  @Test("a wait that nobody's cancellation ends is ended by the close")
  func uncancelledWait() async throws {
    let store = try await store(events: 1)
    let reader = store.reader
    let waiting = Task { try await reader.waitForEvents(at: 1, endsWithTask: false) }
    waiting.cancel()
    _ = try await store.append(Append(event("s")))
    #expect(try await waiting.value)
    let next = Task { try await reader.waitForEvents(at: 2, endsWithTask: false) }
    next.cancel()
    try await store.close()
    #expect(try await next.value == false)
  }

  @Test("on a closed reader a cursor is at its end, whatever it had left, and calls that return something say closed")
  func closedReader() async throws {
    let store = try await store(events: 200)
    var cursor = store.reader.cursor(from: 0)
    #expect(try cursor.next() != nil)
    try await store.close()
    #expect(try cursor.next() == nil)
    #expect(try await cursor.waitForMore() == false)
    #expect(try await store.reader.waitForEvents(at: 0) == false)
    #expect(cursor.offset == 1)
    let reader = store.reader
    #expect(throws: LogStoreError.closed) { try reader.forEach(from: 0) { _ in true } }
    #expect(throws: LogStoreError.closed) { try reader.events(from: 0, limit: 1) }
    #expect(throws: LogStoreError.closed) { try reader.stream("s") }
    #expect(throws: LogStoreError.closed) { try reader.streamVersion("s") }
    #expect(throws: LogStoreError.closed) { try reader.cursors() }
    #expect(throws: LogStoreError.closed) { try reader.statistics() }
  }

  @Test("a store is closed as often as anyone likes, at once or one after the other")
  func closedAgain() async throws {
    let store = try await store(events: 200)
    let closings = (0..<8).map { _ in Task { try await store.close() } }
    for closing in closings { try await closing.value }
    try await store.close()
    let again = try LogStore.open(directory.path, options: smallSegments())
    #expect(again.recovery.wasClosedCleanly)
    try await again.close()
  }

  @Test("a store that has stopped says so each time that it is closed")
  func closedAfterFailure() async throws {
    let store = try await store(events: 1)
    try FileManager.default.removeItem(atPath: directory.path)
    // Its end can't be recorded where there is no directory.
    let closings = (0..<3).map { _ in Task { try await store.close() } }
    for closing in closings { #expect(await isFailure(closing)) }
    #expect(await isFailure(Task { try await store.close() }))
  }

  private func isFailure(_ task: Task<Void, any Error>) async -> Bool {
    if case .failure = await task.result { true } else { false }
  }

  @Test("closing a store's reader closes the store: nothing is appended any more, and its end is recorded")
  func storesReader() async throws {
    let store = try await store(events: 200)
    store.reader.close()
    store.reader.close()
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in try await store.append(Append(event("s")))
    }
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in try await store.flush() }
    try await store.close()
    let again = try LogStore.open(directory.path, options: smallSegments())
    #expect(again.recovery.wasClosedCleanly && again.reader.endOffset == 200)
    try await again.close()
  }

  @Test("the reader of a store that was released has ended, and so have the waits in it")
  func released() async throws {
    var store: LogStore? = try await store(events: 200)
    let reader = try #require(store?.reader)
    let waiting = Task { try await reader.waitForEvents(at: 200) }
    var cursor = reader.cursor(from: 0)
    #expect(try cursor.next() != nil)
    store = nil
    #expect(try await waiting.value == false)
    #expect(try cursor.next() == nil)
    #expect(try await cursor.waitForMore() == false)
    #expect(throws: LogStoreError.closed) { try reader.stream("s") }
  }
}
