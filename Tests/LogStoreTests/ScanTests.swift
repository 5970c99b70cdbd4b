import CChecksum
import Foundation
import Testing

@testable import LogStore

/// Sequential reading: what it finds wrong, and that it skips and repeats nothing else.
@Suite struct ScanTests {
  let directory = TemporaryDirectory()

  /// Events of many sizes for a few streams.
  func randomEvent(_ number: Int, _ generator: inout SeededGenerator) -> NewEvent {
    let sizes = [0, 1, 50, 90, 127, 128, 200, 256, 700, 3000]
    return NewEvent(
      stream: "stream-\(number % 7)", type: number % 3 == 0 ? "A" : "Another",
      payload: (0..<(sizes.randomElement(using: &generator) ?? 0)).map { UInt8(truncatingIfNeeded: $0 &+ number) },
      metadata: number % 5 == 0 ? bytes("meta \(number)") : [], id: number % 4 == 0 ? .random() : nil)
  }

  /// Appends this many events, in appends of these sizes, some with a cursor. Returns the events in the order in which they
  /// should be read.
  func fill(_ store: LogStore, _ sizes: [Int], _ generator: inout SeededGenerator) async throws -> [NewEvent] {
    var model: [NewEvent] = []
    for size in sizes {
      let events = (0..<size).map { randomEvent(model.count + $0, &generator) }
      let cursors = Bool.random(using: &generator) ? [CursorCommit(name: "c", checkpoint: UInt64(model.count))] : []
      _ = try await store.append(Append(events, cursors: cursors))
      model += events
    }
    return model
  }

  func isSame(_ event: borrowing EventView, _ model: NewEvent, at offset: Int) -> Bool {
    let copy = event.copy()
    let counts = [
      event.stream.byteCount, event.type.byteCount, event.metadata.byteCount, event.payload.byteCount,
    ]
    return copy.stream == model.stream && copy.type == model.type && copy.payload == model.payload
      && copy.metadata == model.metadata && (model.id == nil || copy.id == model.id)
      && copy.offset == UInt64(offset)
      && counts == [
        model.stream.utf8.count, model.type.utf8.count, model.metadata.count, model.payload.count,
      ]
  }

  @Test(
    "frames of any number of events are read from any offset, by every way to take a checksum",
    arguments: [CCHECKSUM_FOLDING, CCHECKSUM_INSTRUCTION, CCHECKSUM_TABLE])
  func everyOffset(way: cchecksum_way) async throws {
    cchecksum_use_at_most(way)
    defer { cchecksum_use_at_most(CCHECKSUM_FOLDING) }
    var generator = SeededGenerator.printed()
    let store = try LogStore.open(directory.path, options: smallSegments(256 << 10))
    let sizes = [1, 2, 3, 4, 5, 63, 64, 65, 1000, 1, 1, 1].shuffled(using: &generator)
    let model = try await fill(store, sizes, &generator)
    let other = try LogReader.open(directory.path)
    for reader in [store.reader, other] {
      for _ in 0..<60 {
        let start = Int.random(in: 0...model.count + 1, using: &generator)
        let limit = Int.random(in: 1...200, using: &generator)
        var seen = start
        let next = try reader.forEach(from: UInt64(start)) { event in
          let isRight = isSame(event, model[seen], at: seen)
          #expect(isRight)
          seen += 1
          return seen < start + limit
        }
        #expect(next == UInt64(seen) && seen == max(start, min(model.count, start + limit)))
      }
      var cursor = reader.cursor(from: 0)
      var count = 0
      while let event = try cursor.next() {
        let isRight = isSame(event, model[count], at: count)
        #expect(isRight)
        count += 1
      }
      #expect(count == model.count && cursor.offset == UInt64(count))
    }
    other.close()
    try await store.close()
  }

  @Test("cursors that catch up and then follow, from any moment on, give every event once, over segments")
  func following() async throws {
    var generator = SeededGenerator.printed()
    let store = try LogStore.open(directory.path, options: smallSegments())
    let other = try LogReader.open(directory.path)
    let total = 4000
    let starts = (0..<8).map { _ in (at: Int.random(in: 0..<total, using: &generator), turn: generator.next()) }
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (number, start) in starts.enumerated() {
        let reader = number % 2 == 0 ? store.reader : other
        group.addTask {
          _ = try await reader.waitForEvents(at: UInt64(start.at) / 2)
          var generator = SeededGenerator(start.turn)
          var cursor = reader.cursor(from: UInt64(start.at) / 3)
          var expected = UInt64(start.at) / 3
          repeat {
            while let event = try cursor.next() {
              let offset = event.offset
              #expect(offset == expected)
              expected += 1
              // At a random moment, not only at the end, it changes from catching up to waiting.
              if UInt8.random(in: 0...20, using: &generator) == 0 { break }
            }
            #expect(cursor.offset == expected)
            if expected == total { break }
          } while try await cursor.waitForMore()
          #expect(expected == total)
        }
      }
      let seed = generator.next()
      group.addTask {
        var generator = SeededGenerator(seed)
        var done = 0
        while done < total {
          let count = min(Int.random(in: 1...30, using: &generator), total - done)
          _ = try await store.append(
            Append(
              (0..<count).map { event("s\($0 % 3)", String(repeating: "f", count: 100 + $0)) },
              cursors: [CursorCommit(name: "c", checkpoint: UInt64(done))]))
          done += count
        }
      }
      try await group.waitForAll()
    }
    #expect(directory.names(".log").count > 5)
    other.close()
    try await store.close()
  }

  @Test("a cursor continues in a segment that replaces one full of cursors only")
  func replacedSegment() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    var cursor = store.reader.cursor(from: 0)
    #expect(try take(&cursor) == [])
    for round in 1...3 {
      for number in 0..<1500 {
        _ = try await store.append(
          Append([], cursors: [CursorCommit(name: "c", checkpoint: UInt64(number % round), isReset: true)]))
      }
      _ = try await store.append(Append([event("s", "\(round)")]))
      #expect(try await cursor.waitForMore())
      #expect(try take(&cursor) == ["\(round)"])
    }
    try await store.close()
    #expect(try take(&cursor) == [])
  }

  /// The payloads of all events that the cursor has.
  func take(_ cursor: inout EventCursor) throws(LogStoreError) -> [String] {
    var payloads: [String] = []
    while let event = try cursor.next() { payloads.append(String(decoding: event.copy().payload, as: UTF8.self)) }
    return payloads
  }

  @Test("an event's id is the stored one, or derived from its offset")
  func eventIDs() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let id = EventID.random()
    _ = try await store.append(Append([event("s", id: id), event("s")]))
    var cursor = store.reader.cursor(from: 0)
    var ids: [EventID] = []
    var versions: [UInt64] = []
    while let event = try cursor.next() {
      ids.append(event.id)
      versions.append(event.version)
    }
    let derived = EventID(high: store.reader.commitPoint.segments.storeID.first.byteSwapped, low: 1)
    #expect(ids == [id, derived] && versions == [1, 2])
    #expect(try store.reader.events(from: 0, limit: 2).map(\.id) == ids)
    try await store.close()
  }
}
