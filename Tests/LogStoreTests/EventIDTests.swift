import Foundation
import Testing

@testable import LogStore

@Suite("Event ids: one names one event, in one place")
struct EventIDTests {
  private let directory = TemporaryDirectory()
  private static let id = EventID(high: 1, low: 2)

  /// The log has version 1 of "a" without an id, version 2 with the id, and version 3 without.
  private func withKnown(isOld: Bool, _ body: (LogStore) async throws -> Void) async throws {
    var store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("a", "first")))
    _ = try await store.append(Append(event("a", "second", id: Self.id), expecting: .version(1)))
    _ = try await store.append(Append(event("a", "third")))
    if isOld {
      for _ in 0..<30 { _ = try await store.append(Append(event("filler", String(repeating: "f", count: 9000)))) }
      try await store.close()
      store = try LogStore.open(directory.path, options: smallSegments())
    }
    let end = store.reader.endOffset
    try await body(store)
    #expect(store.reader.endOffset == end)
    try await store.close()
  }

  @Test(
    "the same event at the same offset and version is the original, whatever its metadata", arguments: [false, true])
  func same(isOld: Bool) async throws {
    try await withKnown(isOld: isOld) { store in
      var other = event("a", "second", id: Self.id)
      other.metadata = bytes("another trace")
      for condition in [.any, .streamExists, .version(1)] as [StreamCondition] {
        let done = try await store.append(Append(other, expecting: condition))
        #expect(done == Appended(offsets: 1..<2, versions: [2], isRepeat: true))
      }
    }
  }

  @Test(
    "another stream, version, type or payload is refused, and the error says what the log has",
    arguments: [false, true])
  func different(isOld: Bool) async throws {
    try await withKnown(isOld: isOld) { store in
      let same = event("a", "second", id: Self.id)
      let cases: [(NewEvent, StreamCondition, EventIDReuse.Difference)] = [
        (event("b", "second", id: Self.id), .any, .stream("b")),
        (event("b", "second", id: Self.id), .noStream, .stream("b")),
        // Its condition holds: the log would otherwise have the event twice.
        (same, .version(3), .version(4)),
        (same, .noStream, .version(1)),
        (same, .version(2), .version(3)),
        (same, .version(.max), .version(0)),
        (event("a", "second", type: "Other", id: Self.id), .any, .type("Other")),
        (event("a", "second", type: "Other", id: Self.id), .version(1), .type("Other")),
        (
          event("a", "secret", id: Self.id), .version(1),
          .payload(byteCount: 6, knownByteCount: 6, firstDifference: 3)
        ),
        (event("a", "", id: Self.id), .any, .payload(byteCount: 0, knownByteCount: 6, firstDifference: 0)),
        (event("a", "seconds", id: Self.id), .any, .payload(byteCount: 7, knownByteCount: 6, firstDifference: 6)),
      ]
      for (event, condition, difference) in cases {
        let known = EventIDReuse(
          id: Self.id, event: 0, offset: 1, stream: "a", version: 2, type: "Happened", difference: difference)
        await expectThrows({ $0 == .eventIDReused(known) }) { () async throws(LogStoreError) in
          try await store.append(Append(event, expecting: condition))
        }
      }
    }
  }

  @Test("the message names the event that has the id, and what the append has otherwise")
  func message() {
    let known = EventIDReuse(
      id: Self.id, event: 0, offset: 7, stream: "a", version: 2, type: "T", difference: .stream("b"))
    #expect(
      "\(LogStoreError.eventIDReused(known))"
        == "event id 00000000-0000-0001-0000-000000000002 is used already, by version 2 of stream a, of type T, at offset 7;"
        + " this append has it for stream b; nothing was written, a new event needs an id of its own")
  }

  @Test("some known ids among new ones, or in another order, are refused: an append is known as a whole")
  func batches() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let all = (0..<4).map { event("s\($0 % 2)", "\($0)", id: EventID(high: 7, low: UInt64($0))) }
    _ = try await store.append(Append(Array(all[0..<2])))
    _ = try await store.append(Append(Array(all[2..<4])))
    let new = event("s0", "new", id: EventID(high: 7, low: 9))
    func refuses(_ events: [NewEvent], known: Int, missing: Int) async {
      await expectThrows({
        guard case .eventIDReused(let reuse) = $0 else { return false }
        return reuse.event == known && reuse.difference == .append(event: missing)
      }) { () async throws(LogStoreError) in try await store.append(Append(events)) }
    }
    await refuses([all[0], new], known: 0, missing: 1)
    await refuses([new, all[0]], known: 1, missing: 0)
    await refuses([all[1], all[0]], known: 0, missing: 1)
    await refuses([all[0], all[2]], known: 0, missing: 1)
    await refuses([all[0], event("s1", "1")], known: 0, missing: 1)
    #expect(store.reader.endOffset == 4)
    // What counts is the log: that it took two appends is not to be seen there.
    for range in [0..<1, 0..<2, 1..<3, 0..<4] {
      let done = try await store.append(Append(Array(all[range])))
      #expect(done.offsets == UInt64(range.lowerBound)..<UInt64(range.upperBound) && done.isRepeat)
    }
    try await store.close()
  }

  @Test("versions that a condition names are counted on through an append")
  func countedVersions() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let events = (0..<3).map { event($0 == 1 ? "b" : "a", "\($0)", id: EventID(high: 8, low: UInt64($0))) }
    let append = Append(events, conditions: ["a": .noStream, "b": .noStream])
    _ = try await store.append(append)
    let again = try await store.append(append)
    #expect(again.isRepeat && again.versions == [1, 1, 2])
    await expectThrows({
      if case .eventIDReused(let reuse) = $0 { reuse.event == 0 && reuse.difference == .version(3) } else { false }
    }) { () async throws(LogStoreError) in
      try await store.append(Append(events, conditions: ["a": .version(2)]))
    }
    #expect(store.reader.endOffset == 3)
    try await store.close()
  }

  @Test("two events of one append can't have one id")
  func twiceInOne() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    await expectThrows({
      if case .invalidArgument(let reason) = $0 { reason.contains("events 0 and 2") } else { false }
    }) { () async throws(LogStoreError) in
      try await store.append(Append([event("a", id: Self.id), event("a"), event("b", id: Self.id)]))
    }
    #expect(store.reader.endOffset == 0)
    try await store.close()
  }

  @Test(
    "of different appends with one id at the same time, one is written and the others are refused", arguments: 0..<10)
  func atOnce(round: Int) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let results = await withTaskGroup(of: Result<Appended, LogStoreError>.self) { group in
      for number in 0..<16 {
        group.addTask {
          let append = Append(event("s\(number % 4)", "\(number)", id: Self.id))
          do throws(LogStoreError) {
            return .success(try await number % 2 == 0 ? store.append(append) : store.appendBuffered(append))
          } catch {
            return .failure(error)
          }
        }
      }
      return await group.reduce(into: []) { $0.append($1) }
    }
    let refused = results.filter { if case .failure(.eventIDReused) = $0 { true } else { false } }
    #expect(refused.count == 15, "round \(round)")
    try await store.flush()
    #expect(store.reader.endOffset == 1)
    try await store.close()
  }
}
