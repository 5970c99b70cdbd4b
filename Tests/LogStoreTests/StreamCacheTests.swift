import Foundation
import Glibc
import Testing

@testable import LogStore

/// Streams that are cached because they are read often.
@Suite struct StreamCacheTests {
  private static func key(_ name: String) -> StreamKey { StreamKey(bytes(name)) }

  /// The events of one append as records in a segment of their own, grouped by stream.
  private static func packed(_ events: [NewEvent]) async throws -> [String: PackedRecords] {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments(32 << 20))
    try await store.append(Append(events))
    var records: [String: PackedRecords] = [:]
    let segment = store.reader.commitPoint.segments.open.segment
    var next = segment.start
    // The first frame holds the cursors.
    next.advance(past: try segment.checkFrame(next) { _ in })
    let header = try segment.checkFrame(next) { record in
      let stream = String(decoding: record.name(in: segment.bytes), as: UTF8.self)
      records[stream, default: PackedRecords()]
        .add(record, in: segment.bytes, baseOffset: segment.baseOffset, timestamp: 7)
    }
    #expect(header.eventCount == events.count)
    try await store.close()
    return records
  }

  /// The records of one stream.
  private static func packed(one events: [NewEvent]) async throws -> PackedRecords {
    try #require(try await packed(events)[events[0].stream])
  }

  // MARK: - The records

  @Test("records that were taken out of a segment are what they were")
  func records() async throws {
    let events = (0..<20).map {
      event("s", String(repeating: "x", count: $0 * 3), type: "T\($0)", id: $0 % 2 == 0 ? EventID.random() : nil)
    }
    let records = try await Self.packed(one: events)
    #expect(records.count == 20 && records.lastOffset == 19 && records.isSound)
    #expect(records.isNamed(bytes("s")) && !records.isNamed(bytes("t")) && !records.isNamed(bytes("ss")))
    for (first, limit) in [(0, Int.max), (0, 20), (3, 5), (19, 1), (19, 9), (0, 1)] {
      var seen: [NewEvent] = []
      records.forEach(from: first, limit: limit) { record, baseOffset, timestamp in
        #expect(baseOffset == 0 && timestamp == 7 && record.version == UInt64(first + seen.count + 1))
        seen.append(
          NewEvent(
            stream: String(decoding: record.name, as: UTF8.self), type: String(decoding: record.type, as: UTF8.self),
            payload: Array(record.payload), metadata: Array(record.metadata), id: record.id))
      }
      #expect(seen == Array(events.dropFirst(first).prefix(limit)))
    }
  }

  @Test("a bit that changes in memory is noticed, wherever it is")
  func changedBit() async throws {
    let records = try await Self.packed(one: [event("s", "first"), event("s", "second")])
    for position in records.bytes.indices {
      var changed = records
      changed.bytes[position] ^= 1 << UInt8(position % 8)
      #expect(!changed.isSound, "byte \(position)")
    }
  }

  // MARK: - Which streams are kept

  @Test("a stream is admitted when it is read the second time, and known once it is cached")
  func admission() async throws {
    let cache = StreamCache(byteCount: 1 << 20)
    let entry = StreamCache.Entry(records: try await Self.packed(one: [event("a")]), coveredEnd: 10)
    guard case .unknown = cache.find(Self.key("a")), case .unknown = cache.find(Self.key("b")),
      case .wanted = cache.find(Self.key("a"))
    else { return #expect(Bool(false)) }
    cache.insert(entry, of: Self.key("a"))
    func coveredEnd() -> UInt64? {
      if case .known(let entry) = cache.find(Self.key("a")) { entry.coveredEnd } else { nil }
    }
    #expect(coveredEnd() == 10)
    // An entry that covers less, from a load that began earlier, does not replace it.
    cache.insert(StreamCache.Entry(records: entry.records, coveredEnd: 5), of: Self.key("a"))
    #expect(coveredEnd() == 10)
    cache.insert(StreamCache.Entry(records: entry.records, coveredEnd: 20), of: Self.key("a"))
    #expect(coveredEnd() == 20)
    let byteCount = cache.byteCount
    cache.forget(Self.key("a"))
    #expect(coveredEnd() == nil && byteCount > 0 && cache.byteCount == 0)
  }

  @Test("memory is bounded, and what is read stays while what isn't goes")
  func eviction() async throws {
    let cache = StreamCache(byteCount: 1 << 20)
    let hot = (0..<50).map { "hot-\($0)" }
    let cold = (0..<5000).map { "cold-\($0)" }
    let records = try await Self.packed((hot + cold).map { event($0, String(repeating: "x", count: 2000)) })
    func keep(_ name: String) throws {
      cache.insert(StreamCache.Entry(records: try #require(records[name]), coveredEnd: 1), of: Self.key(name))
    }
    func isKnown(_ name: String) -> Bool { if case .known = cache.find(Self.key(name)) { true } else { false } }
    for name in hot { try keep(name) }
    for (number, name) in cold.enumerated() {
      try keep(name)
      #expect(cache.byteCount <= 1 << 20)
      if number % 20 == 0 { #expect(hot.allSatisfy(isKnown), "after \(number)") }
    }
    // Full, except for less than an entry in each shard.
    let least = try #require(records[cold[0]]).byteCount
    let entryByteCount = least..<least + 200
    #expect(cache.byteCount > 1 << 20 - 8 * entryByteCount.upperBound)
    let known = cold.count(where: isKnown) + hot.count
    #expect((known - 8) * entryByteCount.lowerBound < 1 << 20 && (known + 8) * entryByteCount.upperBound > 1 << 20)
  }

  @Test("sizes that can't be are refused")
  func sizes() async throws {
    let directory = TemporaryDirectory()
    for byteCount in [-1, 1, 1 << 20 - 1] {
      var options = LogStore.Options()
      options.streamCacheBytes = byteCount
      await expectThrows({
        $0
          == .invalidArgument("a stream cache of \(byteCount) bytes; it must be 0, for none, or 1048576 to 68719476736")
      }) { () throws(LogStoreError) in _ = try LogStore.open(directory.path, options: options) }
    }
    #expect(!FileManager.default.fileExists(atPath: directory.path))
    try await LogStore.open(directory.path).close()
    await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () throws(LogStoreError) in
      _ = try LogReader.open(directory.path, streamCacheBytes: 5)
    }
  }

  // MARK: - In a store

  private static func isKnown(_ stream: String, _ reader: LogReader) -> Bool {
    if case .known = reader.commitPoint.segments.cache?.find(key(stream)) { true } else { false }
  }

  @Test("streams that are read again and again are always what was appended, as the log grows and is merged")
  func growing() async throws {
    let directory = TemporaryDirectory()
    var generator = SeededGenerator.printed()
    let store = try LogStore.open(directory.path, options: smallSegments())
    let other = try LogReader.open(directory.path)
    var model: [String: [String]] = [:]
    let names = (0..<12).map { "stream-\($0)" }
    var hits = 0
    for round in 0..<900 {
      let events = (0..<Int.random(in: 1...4, using: &generator)).map { number in
        let size = Int.random(in: 0...2000, using: &generator)
        return event(
          names[Int.random(in: 0..<12, using: &generator)], "\(round).\(number) " + String(repeating: "x", count: size))
      }
      try await store.append(Append(events))
      for event in events { model[event.stream, default: []].append(String(decoding: event.payload, as: UTF8.self)) }
      if round % 100 == 99 { try await store.waitUntilIndexed() }
      for _ in 0..<3 {
        let name = names[Int.random(in: 0..<12, using: &generator)]
        let all = model[name] ?? []
        let first = Bool.random(using: &generator) ? 1 : Int.random(in: 1...all.count + 2, using: &generator)
        let limit = Bool.random(using: &generator) ? Int.max : Int.random(in: 0...all.count + 2, using: &generator)
        if Self.isKnown(name, store.reader) { hits += 1 }
        let found = try store.reader.stream(name, from: UInt64(first), limit: limit)
        #expect(
          found.map { String(decoding: $0.payload, as: UTF8.self) } == Array(all.dropFirst(first - 1).prefix(limit)))
        #expect(found.map(\.version) == found.indices.map { UInt64(first + $0) })
        #expect(found.allSatisfy { $0.stream == name && $0.type == "Happened" })
        // What another process's reader returns is a prefix that only grows.
        let there = try other.stream(name).map { String(decoding: $0.payload, as: UTF8.self) }
        #expect(there == Array(all.prefix(there.count)))
      }
    }
    #expect(hits > 1000, "\(hits) of 2,700 loads found something in memory")
    #expect(store.reader.commitPoint.segments.bases.count > 20)
    // Each event as a reader without a cache returns it: offset, id, time and all.
    let plain = try LogReader.open(directory.path, streamCacheBytes: 0)
    for name in names { #expect(try store.reader.stream(name) == plain.stream(name), "\(name)") }
    try await store.close()
  }

  @Test("an event appended after its stream was cached is seen at once, in whichever segment it is")
  func appendAfter() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    func fillSegment() async throws {
      let base = store.reader.commitPoint.segments.open.segment.baseOffset
      while store.reader.commitPoint.segments.open.segment.baseOffset == base {
        try await store.append(Append(event("filler", String(repeating: "x", count: 10_000))))
      }
      try await store.waitUntilIndexed()
    }
    for version in 1...12 {
      try await store.append(Append(event("s", "\(version)"), expecting: .version(UInt64(version - 1))))
      // Every second one is in the same segment as the one before.
      if version % 2 == 0 { try await fillSegment() }
      for _ in 0..<3 { #expect(try store.reader.stream("s").count == version) }
      #expect(Self.isKnown("s", store.reader) == (version >= 2))
      #expect(
        try store.reader.stream("s", from: UInt64(version)).map { String(decoding: $0.payload, as: UTF8.self) } == [
          "\(version)"
        ])
      #expect(try store.reader.streamVersion("s") == UInt64(version))
    }
    try await store.close()
  }

  /// Appends until the open segment is finished and indexed.
  private static func finishSegment(of store: LogStore) async throws {
    let base = store.reader.commitPoint.segments.open.segment.baseOffset
    while store.reader.commitPoint.segments.open.segment.baseOffset == base {
      try await store.append(Append(event("filler", String(repeating: "x", count: 10_000))))
    }
    try await store.waitUntilIndexed()
  }

  /// A mapped page that can't be read.
  private static func unreadablePage(in directory: TemporaryDirectory) throws -> Mapping {
    let path = directory.file("cut")
    try Data(repeating: 1, count: 2 * pageByteCount).write(to: URL(fileURLWithPath: path))
    let mapping = try RealDisk().open(path, .read).map(byteCount: 2 * pageByteCount)
    try #require(truncate(path, off_t(pageByteCount)) == 0)
    return mapping
  }

  /// What waits for a task must not do so on one of the tasks' threads: a machine with one core has one of them.
  private static func onTestThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws
    -> Value
  {
    try await withCheckedThrowingContinuation { continuation in
      startTestThread("query") { continuation.resume(with: Result(catching: body)) }
    }
  }

  @Test(
    "a stream that is read in two snapshots, since a page somewhere became unreadable, is cached with all of its events"
  )
  func continued() async throws {
    let (directory, files) = (TemporaryDirectory(), TemporaryDirectory())
    try FileManager.default.createDirectory(atPath: files.path, withIntermediateDirectories: true)
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await store.append(Append(event("s", "1")))
    try await Self.finishSegment(of: store)
    for _ in 0..<3 { _ = try store.reader.stream("s") }
    #expect(Self.isKnown("s", store.reader))
    try await store.append(Append(event("s", "2")))
    let page = try Self.unreadablePage(in: files)
    let versions = try await Self.onTestThread { () -> [UInt64] in
      var versions: [UInt64] = []
      try store.reader.commitPoint.segments.forEachEvent(of: Self.key("s"), from: 1, limit: .max) { found in
        versions.append(found.record.version)
        guard found.record.version == 2 else { return }
        // When the query goes on, the segment with this event is finished.
        let isFinished = DispatchSemaphore(value: 0)
        Task.detached {
          defer { isFinished.signal() }
          try await Self.finishSegment(of: store)
        }
        isFinished.wait()
        _ = page.bytes[pageByteCount]
      }
      return versions
    }
    #expect(versions == [1, 2])
    try await store.append(Append(event("s", "3")))
    for _ in 0..<3 { #expect(try store.reader.stream("s").map(\.version) == [1, 2, 3]) }
    try await store.close()
  }

  @Test("a stream that changed in memory is read from the log again")
  func changedInMemory() async throws {
    let (directory, store) = try await Self.storeWithFinishedSegment()
    let segments = store.reader.commitPoint.segments
    for _ in 0..<2 { _ = try store.reader.stream("a") }
    guard case .known(var entry) = segments.cache?.find(Self.key("a")) else { return #expect(Bool(false)) }
    let sound = try store.reader.stream("a")
    let whole = entry.records.bytes
    // At any position, including the stream's name and lengths.
    for position in whole.indices {
      for bit: UInt8 in [0, 7] {
        entry.records.bytes[position] = whole[position] ^ 1 << bit
        segments.cache?.forget(Self.key("a"))
        segments.cache?.insert(entry, of: Self.key("a"))
        #expect(try store.reader.streamVersion("a") == 5)
        #expect(try store.reader.stream("a") == sound, "bit \(bit) of byte \(position)")
      }
      entry.records.bytes[position] = whole[position]
    }
    entry.records.bytes[whole.count - 1] ^= 1
    segments.cache?.forget(Self.key("a"))
    segments.cache?.insert(entry, of: Self.key("a"))
    #expect(try store.reader.stream("a") == sound)
    // Then the stream is cached again, as it is.
    guard case .known(let again) = segments.cache?.find(Self.key("a")) else { return #expect(Bool(false)) }
    #expect(again.records.isSound)
    try await store.close()
    _ = directory
  }

  @Test("two streams with one hash are not taken for each other")
  func sharedHash() async throws {
    let (directory, store) = try await Self.storeWithFinishedSegment()
    for _ in 0..<3 { _ = try store.reader.stream("a") }
    #expect(Self.isKnown("a", store.reader))
    // As if the name had the same hash: the log has no such stream.
    var seen = 0
    try store.reader.commitPoint.segments.forEachEvent(
      of: StreamKey(bytes("b"), hash: Self.key("a").hash), from: 1, limit: .max
    ) { _ in seen += 1 }
    #expect(seen == 0)
    let other = StreamKey(bytes("b"), hash: Self.key("a").hash)
    #expect(try store.reader.commitPoint.segments.lastVersion(of: other) == 0)
    #expect(store.reader.commitPoint.segments.cache?.peek(other) == nil)
    try await store.close()
    _ = directory
  }

  @Test("conditions are decided by what is known in memory, and by what came since")
  func conditions() async throws {
    let (directory, store) = try await Self.storeWithFinishedSegment()
    for _ in 0..<3 { _ = try store.reader.stream("a") }
    #expect(Self.isKnown("a", store.reader) && store.reader.commitPoint.segments.cache?.peek(Self.key("filler")) == nil)
    func conflict(_ version: UInt64, actual: UInt64) async {
      await expectThrows({ $0 == .conflict(stream: "a", expected: .version(version), actual: actual) }) {
        () throws(LogStoreError) in
        try await store.append(Append(event("a"), expecting: .version(version)))
      }
    }
    for version: UInt64 in 5...8 {
      #expect(try store.reader.streamVersion("a") == version)
      await conflict(version - 1, actual: version)
      await conflict(version + 1, actual: version)
      try await store.append(Append(event("a"), expecting: .version(version)))
      // Out of the segments whose tables the writer has in memory, and out of the open one.
      for _ in 0..<20 { try await store.append(Append(event("filler", String(repeating: "x", count: 10_000)))) }
      if version % 2 == 0 { try await store.waitUntilIndexed() }
    }
    try await store.close()
    _ = directory
  }

  @Test("without a cache nothing is cached, and everything is read")
  func none() async throws {
    let (directory, store) = try await Self.storeWithFinishedSegment(streamCacheBytes: 0)
    for _ in 0..<3 { #expect(try store.reader.stream("a").count == 5) }
    #expect(store.reader.commitPoint.segments.cache == nil)
    try await store.close()
    _ = directory
  }

  @Test("a stream longer than the limit is read from the log each time")
  func longStream() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments(1 << 20))
    for _ in 0..<200 { try await store.append(Append(event("long", String(repeating: "x", count: 6000)))) }
    try await store.waitUntilIndexed()
    #expect(store.reader.commitPoint.segments.bases.count > 1)
    for _ in 0..<4 { #expect(try store.reader.stream("long").count == 200) }
    #expect(!Self.isKnown("long", store.reader))
    try await store.close()
  }

  @Test("many tasks read and append at once")
  func atOnce() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<4 {
        group.addTask {
          for version in 0..<150 {
            try await store.append(
              Append(event("s-\(writer)", String(repeating: "x", count: 900)), expecting: .version(UInt64(version))))
          }
        }
      }
      for reader in 0..<4 {
        group.addTask {
          var least = [Int](repeating: 0, count: 4)
          for round in 0..<400 {
            let stream = (round + reader) % 4
            let versions = try store.reader.stream("s-\(stream)").map(\.version)
            #expect(versions == versions.indices.map { UInt64($0 + 1) } && versions.count >= least[stream])
            least[stream] = versions.count
            await Task.yield()
          }
        }
      }
      try await group.waitForAll()
    }
    for writer in 0..<4 { #expect(try store.reader.stream("s-\(writer)").count == 150) }
    try await store.close()
  }

  /// Five events of the stream a in a finished segment.
  private static func storeWithFinishedSegment(
    streamCacheBytes: Int = StreamCache.defaultByteCount
  ) async throws -> (TemporaryDirectory, LogStore) {
    let directory = TemporaryDirectory()
    var options = smallSegments()
    options.streamCacheBytes = streamCacheBytes
    let store = try LogStore.open(directory.path, options: options)
    for number in 0..<5 { try await store.append(Append(event("a", "\(number)"))) }
    for _ in 0..<20 { try await store.append(Append(event("filler", String(repeating: "x", count: 10_000)))) }
    try await store.waitUntilIndexed()
    return (directory, store)
  }
}
