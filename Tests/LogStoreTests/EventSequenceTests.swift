import Foundation
import Testing

@testable import LogStore

/// Copied events as an `AsyncSequence`.
@Suite struct EventSequenceTests {
  @Test("a loop catches up, follows the log, and begins where it is told to")
  func followsTheLog() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    for number in 0..<3 { try await store.append(Append(event("s", "\(number)"))) }
    let seen = Task {
      var payloads: [String] = []
      for try await event in store.reader.events(from: 1) {
        payloads.append(String(decoding: event.payload, as: UTF8.self))
        if payloads.count == 4 { break }
      }
      return payloads
    }
    for number in 3..<5 { try await store.append(Append(event("s", "\(number)"))) }
    #expect(try await seen.value == ["1", "2", "3", "4"])
    try await store.close()
  }

  @Test("each loop over a sequence begins at its first offset")
  func independentLoops() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    for number in 0..<3 { try await store.append(Append(event("s", "\(number)"))) }
    let events = store.reader.events(from: 0)
    for _ in 0..<2 {
      var offsets: [UInt64] = []
      for try await event in events {
        offsets.append(event.offset)
        if offsets.count == 3 { break }
      }
      #expect(offsets == [0, 1, 2])
    }
    try await store.close()
  }

  @Test(
    "a loop ends without an error when its task is cancelled and when the store is closed", arguments: [true, false])
  func ends(isCancelled: Bool) async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    try await store.append(Append(event("s", "0")))
    let (seen, seenOne) = AsyncStream<Void>.makeStream()
    let loop = Task {
      var count = 0
      for try await _ in store.reader.events(from: 0) {
        count += 1
        seenOne.yield()
      }
      return count
    }
    for await _ in seen { break }
    if isCancelled { loop.cancel() } else { try await store.close() }
    #expect(try await loop.value == 1)
    if isCancelled { try await store.close() }
  }

  @Test("damage ends a loop, behind the sound events, with the error that names file and byte")
  func damage() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments(64 << 10))
    let payload = String(repeating: "x", count: 10_000)
    for _ in 0..<20 { try await store.append(Append(event("s", payload))) }
    try await store.close()
    let path = directory.path + "/" + FileName.segment(0)
    var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    // In the second event's payload.
    bytes[SegmentHeader.byteCount + 15_000] ^= 1
    try Data(bytes).write(to: URL(fileURLWithPath: path))
    let reader = try LogReader.open(directory.path)
    var offsets: [UInt64] = []
    do throws(LogStoreError) {
      for try await event in reader.events(from: 0) { offsets.append(event.offset) }
      Issue.record("the loop ended without an error")
    } catch {
      guard case .damaged(let damage) = error else { throw error }
      #expect(damage.file == path && damage.position >= UInt64(SegmentHeader.byteCount + 10_000))
    }
    #expect(offsets == [0])
    reader.close()
  }
}
