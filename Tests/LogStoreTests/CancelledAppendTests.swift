import Testing

@testable import LogStore

/// Appends and waits for them, in tasks that are cancelled.
@Suite struct CancelledAppendTests {
  let directory = TemporaryDirectory()

  /// Runs in a task that is cancelled from the beginning.
  func inCancelledTask<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) async throws -> Value {
    try await Task { () async throws -> Value in
      withUnsafeCurrentTask { $0?.cancel() }
      return try await body()
    }.value
  }

  @Test("a cancelled task appends, waits and gets its result, as any other")
  func appends() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await inCancelledTask {
      let done = try await store.append(Append(event("s")))
      #expect(done.offsets == 0..<1)
      #expect(try await store.appendBuffered(Append(event("s"))).offsets == 1..<2)
      try await store.flush()
    }
    #expect(store.reader.endOffset == 2)
    try await inCancelledTask { try await store.close() }
    let again = try LogStore.open(directory.path, options: smallSegments())
    #expect(again.recovery.wasClosedCleanly && again.reader.endOffset == 2)
    try await again.close()
  }

  @Test("with endsWithTask a cancelled task appends nothing")
  func refused() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await inCancelledTask {
      await expectThrows({ $0 == .cancelled }) { () async throws(LogStoreError) in
        try await store.append(Append(event("s")), endsWithTask: true)
      }
      await expectThrows({ $0 == .cancelled }) { () async throws(LogStoreError) in
        try await store.flush(endsWithTask: true)
      }
      await expectThrows({ $0 == .cancelled }) { () async throws(LogStoreError) in try await store.waitUntilIndexed() }
    }
    try await store.flush()
    #expect(store.reader.endOffset == 0)
    // A task that is not cancelled gets the same result as without the option.
    #expect(try await store.append(Append(event("s")), endsWithTask: true).offsets == 0..<1)
    await expectThrows({ $0 == .conflict(stream: "s", expected: .noStream, actual: 1) }) {
      () async throws(LogStoreError) in
      try await store.append(Append(event("s"), expecting: .noStream), endsWithTask: true)
    }
    try await store.close()
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in
      try await store.append(Append(event("s")), endsWithTask: true)
    }
  }

  @Test("a cancelled wait ends; the append still becomes durable and can be sent again")
  func waits() async throws {
    var options = smallSegments()
    // Many appends at once are gathered so long that the waits end before the sync.
    options.gatherMilliseconds = 1000
    let store = try LogStore.open(directory.path, options: options)
    let appends = (0..<32).map { _ in Append(event("s", id: .random())) }
    let tasks = appends.map { append in Task { try await store.append(append, endsWithTask: true) } }
    for task in tasks { task.cancel() }
    var cancelled = 0
    for task in tasks {
      do {
        _ = try await task.value
      } catch LogStoreError.cancelled {
        cancelled += 1
      }
    }
    #expect(cancelled > 0)
    var offsets: Set<UInt64> = []
    for append in appends { offsets.formUnion(try await store.append(append).offsets) }
    #expect(offsets.count == 32)
    #expect(try store.reader.events(from: 0, limit: .max).count == 32)
    try await store.close()
  }

  @Test("the wait ends while the work goes on, and a later result has no effect")
  func endableWait() async throws {
    let wait = EndableWait<Int>()
    let (begun, continuation) = AsyncStream.makeStream(of: Void.self)
    let waiting = Task { try await wait.wait { continuation.yield() } }
    for await _ in begun { break }
    waiting.cancel()
    await #expect(throws: LogStoreError.cancelled) { try await waiting.value }
    wait.end(with: .success(1))
    let answered = EndableWait<Int>()
    #expect(try await answered.wait { answered.end(with: .success(2)) } == 2)
  }
}
