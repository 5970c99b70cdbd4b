import CAllocationCount
import Foundation
import LogStore
import Testing

/// How often the hot paths take memory: counted, not timed, so that a machine's mood doesn't decide.
///
/// Reading happens on the thread that asks, and is counted there. Appending and following involve others, so they are
/// counted over all threads, in a process of their own where nothing else runs.
@Suite(.enabled(if: callocation_counts() != 0, "a sanitizer stands in front of the allocator")) struct AllocationTests {
  @Test("the count sees an allocation, on its thread and among all")
  func counting() {
    let all = callocation_count()
    let onThread = callocation_thread_count()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 100, alignment: 16)
    let allAfter = callocation_count()
    let onThreadAfter = callocation_thread_count()
    memory.deallocate()
    #expect(allAfter > all && onThreadAfter == onThread + 1)
  }

  @Test("a scan allocates the same for a thousand events as for ten thousand, by cursor and by closure")
  func scanning() async throws {
    let directory = Directory()
    let store = try LogStore.open(directory.path)
    for start in stride(from: 0, to: 10_000, by: 500) {
      _ = try await store.append(Append((start..<start + 500).map { Self.event($0) }))
    }
    let counts = try Self.scans(store.reader)
    #expect(counts.cursor.few == counts.cursor.many)
    #expect(counts.closure.few == counts.closure.many)
    #expect(counts.cursor.many <= 8 && counts.closure.many <= 8, "\(counts)")
    try await store.close()
  }

  /// On one thread: there is no suspension in here.
  private static func scans(
    _ reader: LogReader
  ) throws -> (cursor: (few: UInt64, many: UInt64), closure: (few: UInt64, many: UInt64)) {
    func byCursor(_ count: Int) throws -> UInt64 {
      let before = callocation_thread_count()
      var cursor = reader.cursor(from: 0)
      var seen = 0
      var byteCount = 0
      while seen < count, let event = try cursor.next() {
        seen += 1
        byteCount += event.payload.byteCount + event.stream.byteCount + event.type.byteCount
      }
      let allocations = callocation_thread_count() - before
      #expect(seen == count && byteCount > 256 * count)
      return allocations
    }
    func byClosure(_ count: Int) throws -> UInt64 {
      let before = callocation_thread_count()
      var seen = 0
      try reader.forEach(from: 0) { event in
        seen += event.payload.byteCount == 256 ? 1 : 0
        return seen < count
      }
      let allocations = callocation_thread_count() - before
      #expect(seen == count)
      return allocations
    }
    _ = try (byCursor(10), byClosure(10))
    return try ((byCursor(1000), byCursor(10_000)), (byClosure(1000), byClosure(10_000)))
  }

  @Test("a load of a stream of five allocates a few times, whatever the log holds")
  func loading() async throws {
    let directory = Directory()
    let store = try LogStore.open(directory.path)
    for version in 0..<5 {
      _ = try await store.append(Append((0..<1000).map { Self.event(version * 1000 + $0, stream: $0) }))
    }
    let count = try Self.loads(store.reader, 100)
    print("a load of five events: \(count) allocations")
    #expect(count <= Self.allocationsALoad, "\(count) allocations a load")
    try await store.close()
    // Segments so small that the events are in finished ones, where the third load finds them in memory.
    let cached = Directory()
    var options = LogStore.Options()
    options.segmentBytes = 1 << 20
    let small = try LogStore.open(cached.path, options: options)
    for version in 0..<10 {
      _ = try await small.append(
        Append((0..<1000).map { Self.event(version * 1000 + $0, stream: $0 + version / 5 * 1000) }))
    }
    try await small.waitUntilIndexed()
    for _ in 0..<2 { _ = try Self.loads(small.reader, 100) }
    let countInMemory = try Self.loads(small.reader, 100)
    print("a load of five events in memory: \(countInMemory) allocations")
    #expect(countInMemory <= Self.allocationsALoad, "\(countInMemory) allocations a load in memory")
    try await small.close()
  }

  private static func loads(_ reader: LogReader, _ count: Int) throws -> Double {
    let names = (0..<count + 1).map { "stream-\($0)-with-a-name" }
    var seen = 0
    var before: UInt64 = 0
    for (index, name) in names.enumerated() {
      if index == 1 { before = callocation_thread_count() }
      try reader.forEach(inStream: name) { _ in seen += 1 }
    }
    #expect(seen == 5 * names.count)
    return Double(callocation_thread_count() - before) / Double(count)
  }

  @Test("an append allocates a few times, on all threads together")
  func appending() async {
    await #expect(processExitsWith: .success) {
      let directory = Directory()
      let store = try LogStore.open(directory.path)
      let append = Append(AllocationTests.event(0))
      let count = try await AllocationTests.allocations(each: 2000) { _ in _ = try await store.append(append) }
      print("an append of one event: \(count) allocations")
      #expect(count <= AllocationTests.allocationsAnAppend, "\(count) allocations an append")
      try await store.close()
      directory.remove()
    }
  }

  @Test("reading each event as it comes allocates nothing beyond its append, and waiting for it a few times a wait")
  func following() async {
    await #expect(processExitsWith: .success) {
      let directory = Directory()
      let store = try LogStore.open(directory.path)
      // Ten events each, so that one allocation an event counts ten times. One look for more may cost two, unoptimised.
      let ten = Append((0..<10).map { AllocationTests.event($0) })
      let alone = try await AllocationTests.allocations(each: 1000) { _ in _ = try await store.append(ten) }
      var cursor = store.reader.cursor(from: 0)
      var byteCount = 0
      let read = try await AllocationTests.allocations(each: 1000) { _ in
        _ = try await store.append(ten)
        while let event = try cursor.next() { byteCount += event.payload.byteCount }
      }
      #expect(byteCount == 256 * Int(store.reader.endOffset))
      #expect(read - alone < 3, "\(alone) allocations an append of ten, \(read) with reading them")
      let append = Append(AllocationTests.event(0))
      let one = try await AllocationTests.allocations(each: 1000) { _ in _ = try await store.append(append) }
      let followed = try await AllocationTests.followed(store, append, count: 2000)
      #expect(
        followed - one < AllocationTests.allocationsAWait,
        "\(one) allocations an append, \(followed) with someone who waits for each")
      try await store.close()
      directory.remove()
    }
  }

  /// Allocations of all threads an append, when each is seen by a task that waits for it.
  static func followed(_ store: LogStore, _ append: Append, count: Int) async throws -> Double {
    let start = store.reader.endOffset
    let warm = 200
    let follower = Task {
      var cursor = store.reader.cursor(from: start)
      var before: UInt64 = 0
      var events = 0
      repeat {
        while let event = try cursor.next() {
          events += event.payload.byteCount == 256 ? 1 : 0
          if events == warm { before = callocation_count() }
          if events == warm + count { return Double(callocation_count() - before) / Double(count) }
        }
      } while try await cursor.waitForMore()
      return .infinity
    }
    for _ in 0..<warm + count { _ = try await store.append(append) }
    return try await follower.value
  }

  /// Allocations of all threads each time, after some turns to warm up.
  static func allocations(each count: Int, _ body: (Int) async throws -> Void) async throws -> Double {
    for turn in 0..<200 { try await body(turn) }
    let before = callocation_count()
    for turn in 0..<count { try await body(turn) }
    return Double(callocation_count() - before) / Double(count)
  }

  // As counted without optimisation, as tests are built, and a little more; a release build has two thirds of that.

  /// Of an append of one event for one stream: encoding in the caller's task 8, the rest in the commit thread and in what
  /// Swift takes to suspend a task and to resume it.
  static let allocationsAnAppend = 23.0
  /// Of a wait that ends with an event: all in Swift's runtime.
  static let allocationsAWait = 8.0
  /// Of a load of five events that lie in one segment.
  static let allocationsALoad = 40.0

  static func event(_ number: Int, stream: Int? = nil) -> NewEvent {
    NewEvent(
      stream: "stream-\(stream ?? number % 100)-with-a-name", type: "Measured",
      payload: [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 256))
  }
}

/// A directory of a test's own, removed at its end.
private final class Directory: Sendable {
  let path = FileManager.default.temporaryDirectory.appendingPathComponent("logstore-\(UUID().uuidString)").path

  func remove() { try? FileManager.default.removeItem(atPath: path) }
  deinit { remove() }
}
