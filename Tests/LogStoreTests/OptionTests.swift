import Foundation
import Synchronization
import Testing

@testable import LogStore

/// Invalid options are refused and leave nothing behind; a scrub ends when it is released.
@Suite struct OptionTests {
  let directory = TemporaryDirectory()

  static let refused: [(String, @Sendable (inout LogStore.Options) -> Void)] = [
    ("segment .max", { $0.segmentBytes = .max }), ("segment .min", { $0.segmentBytes = .min }),
    ("segment 0", { $0.segmentBytes = 0 }), ("segment -1", { $0.segmentBytes = -1 }),
    ("segment too small", { $0.segmentBytes = 65535 }), ("segment too large", { $0.segmentBytes = 1 << 30 + 1 }),
    ("cache .max", { $0.streamCacheBytes = .max }), ("cache 2^62", { $0.streamCacheBytes = 1 << 62 }),
    ("cache .min", { $0.streamCacheBytes = .min }), ("cache -1", { $0.streamCacheBytes = -1 }),
    ("cache 1", { $0.streamCacheBytes = 1 }), ("cache too large", { $0.streamCacheBytes = 64 << 30 + 1 }),
    ("gather .max", { $0.gatherMilliseconds = .max }), ("gather 2^31/1000", { $0.gatherMilliseconds = 2_147_484 }),
    ("gather 1001", { $0.gatherMilliseconds = 1001 }),
  ]

  @Test("an option out of its range is refused before anything is created", arguments: refused.indices)
  func refusedOptions(_ index: Int) async throws {
    var options = LogStore.Options()
    Self.refused[index].1(&options)
    await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try LogStore.open(directory.path, options: options)
    }
    #expect(!FileManager.default.fileExists(atPath: directory.path), "\(Self.refused[index].0)")
  }

  @Test("a reader's stream cache is held to the same range", arguments: [Int.max, 1 << 62, -1, .min, 1])
  func readersCache(_ byteCount: Int) async throws {
    try await LogStore.open(directory.path, options: smallSegments()).close()
    await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try LogReader.open(directory.path, streamCacheBytes: byteCount)
    }
  }

  static let taken: [@Sendable (inout LogStore.Options) -> Void] = [
    { $0.segmentBytes = 64 << 10 }, { $0.segmentBytes = 65 << 10 + 1 }, { $0.streamCacheBytes = 0 },
    { $0.streamCacheBytes = 1 << 20 }, { $0.streamCacheBytes = 64 << 30 }, { $0.gatherMilliseconds = 1000 },
  ]

  @Test("an option at the end of its range works", arguments: taken.indices)
  func takenOptions(_ index: Int) async throws {
    var options = smallSegments()
    Self.taken[index](&options)
    let store = try LogStore.open(directory.path, options: options)
    _ = try await store.append(Append(event("s")))
    #expect(try store.reader.stream("s").count == 1)
    try await store.close()
  }

  @Test(
    "without createIfMissing nothing is created: no directory, no lock file, and a lost store is distinguished from none"
  )
  func nothingMade() async throws {
    var options = smallSegments()
    options.createIfMissing = false
    let files = FileManager.default
    let open = { () throws(LogStoreError) in _ = try LogStore.open(directory.path, options: options) }
    await expectThrows({ $0 == .notAStore(directory: directory.path) }) { () async throws(LogStoreError) in try open() }
    #expect(!files.fileExists(atPath: directory.path))
    try files.createDirectory(atPath: directory.path, withIntermediateDirectories: true)
    await expectThrows({ $0 == .notAStore(directory: directory.path) }) { () async throws(LogStoreError) in try open() }
    #expect(try files.contentsOfDirectory(atPath: directory.path).isEmpty)
    await expectThrows({ $0 == .notAStore(directory: directory.path) }) { () async throws(LogStoreError) in
      _ = try LogStore.reindex(directory.path)
    }
    #expect(try files.contentsOfDirectory(atPath: directory.path).isEmpty)
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    try await store.close()
    try files.removeItem(atPath: directory.file("store"))
    try files.removeItem(atPath: directory.file("lock"))
    await expectThrows({ if case .damaged = $0 { true } else { false } }) { () async throws(LogStoreError) in try open()
    }
    #expect(!files.fileExists(atPath: directory.file("lock")))
  }

  /// Of this process's threads.
  private static func names() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").compactMap {
      // It may have ended meanwhile.
      try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)
    }
  }

  // MARK: - Scrubs

  @Test("a scrub ends when it is released, when its store is closed, and from its own callback")
  func scrubsEnd() async {
    await #expect(processExitsWith: .success) {
      let directory = TemporaryDirectory()
      let store = try LogStore.open(directory.path, options: smallSegments())
      for _ in 0..<100 { _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000)))) }
      try await store.waitUntilIndexed()
      let isScrubbing = { () throws -> Bool in try OptionTests.names().contains("log scrub\n") }
      var options = Scrub.Options()
      options.bytesPerSecond = Scrub.Options.bytesPerSecondMin
      var scrub: Scrub? = try store.scrub(options) { _ in }
      while try !isScrubbing() { await Task.yield() }
      _ = consume scrub
      scrub = nil
      while try isScrubbing() { await Task.yield() }

      let base = try #require(directory.names(".log").first)
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: directory.file(base)))
      try file.seek(toOffset: 30_000)
      try file.write(contentsOf: [0xA5, 0x5A, 0xA5])
      options.bytesPerSecond = .max
      let slot = Mutex<Scrub?>(nil)
      let (stopped, continuation) = AsyncStream.makeStream(of: Void.self)
      let telling = try store.scrub(options) { _ in
        // The damage may be met before the scrub was put down.
        while slot.withLock({ $0 }) == nil { sched_yield() }
        slot.withLock { $0 }?.stop()
        continuation.yield()
      }
      slot.withLock { $0 = telling }
      for await _ in stopped { break }
      while try isScrubbing() { await Task.yield() }
      telling.stop()
      telling.stop()

      options.interval = .seconds(3600)
      let waiting = try store.scrub(options) { _ in }
      while waiting.report.rounds == 0 { await Task.yield() }
      try await store.close()
      while try isScrubbing() { await Task.yield() }
      withExtendedLifetime(waiting) {}
      #expect(throws: LogStoreError.closed) { try store.scrub { _ in } }
      try FileManager.default.removeItem(atPath: directory.path)
    }
  }

  @Test("a scrub's options are checked too")
  func scrubOptions() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let refused: [(inout Scrub.Options) -> Void] = [
      { $0.bytesPerSecond = 0 }, { $0.bytesPerSecond = 65535 }, { $0.interval = .seconds(-1) },
      { $0.interval = .seconds(Int64.max) }, { $0.interval = .seconds(Int64.min) },
    ]
    for change in refused {
      var options = Scrub.Options()
      change(&options)
      await expectThrows({ if case .invalidArgument = $0 { true } else { false } }) { () async throws(LogStoreError) in
        try store.scrub(options) { _ in }
      }
    }
    var options = Scrub.Options()
    (options.bytesPerSecond, options.interval) = (.max, .zero)
    let scrub = try store.scrub(options) { _ in }
    while scrub.report.rounds == 0 { await Task.yield() }
    scrub.stop()
    try await store.close()
  }
}
