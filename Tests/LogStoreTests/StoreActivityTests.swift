import Testing

@testable import LogStore

@Suite("What a store says of its work")
struct StoreActivityTests {
  @Test("appends, events, bytes and syncs are counted, refused appends apart, and repeats not at all")
  func counts() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    let before = store.activity
    #expect(before.appends == 0 && before.events == 0 && before.bytes == 0 && before.refusals == 0)
    #expect(before.syncMicroseconds.count == 0 && before.appendsOfSync.sum == 0)
    #expect(before.endOffset == 0 && before.segments == 1)
    let named = Append(event("a", id: EventID.random()))
    try await store.append(named)
    #expect(try await store.append(named).isRepeat)
    try await store.append(Append([event("a"), event("b")]))
    await expectThrows({ if case .conflict = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("a"), expecting: .noStream))
    }
    let after = store.activity
    #expect(after.appends == 2 && after.events == 3 && after.refusals == 1)
    #expect(after.endOffset == 3)
    // Two frames of one record and two, with their headers.
    #expect(after.bytes > 3 * 16 && after.bytes % 8 == 0)
    #expect(after.syncMicroseconds.count == 2 && after.appendsOfSync.count == 2 && after.appendsOfSync.sum == 2)
    #expect(after.appendsOfSync.counts[0] == 2, "one append each")
    try await store.close()
    #expect(store.activity.appends == 2, "a closed store still says what it did")
    let again = try LogStore.open(directory.path)
    #expect(again.activity.appends == 0 && again.activity.endOffset == 3)
    #expect(again.activity.openingMicroseconds > 0)
    try await again.close()
  }

  @Test("buffered appends are counted when they are made, and the sync that makes them durable counts them all")
  func buffered() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    for _ in 0..<10 { try await store.appendBuffered(Append(event("a"))) }
    #expect(store.activity.appends == 10)
    try await store.flush()
    let activity = store.activity
    #expect(activity.appendsOfSync.sum == 10 && activity.syncMicroseconds.count == activity.appendsOfSync.count)
    try await store.flush()
    #expect(store.activity.appendsOfSync.sum == 10, "there was nothing to sync")
    try await store.close()
  }

  @Test("segments, index files, and what is left to index and to merge")
  func files() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    while store.activity.segments < 12 {
      try await store.append(Append((0..<20).map { event("s\($0)", String(repeating: "x", count: 1_000)) }))
    }
    try await store.waitUntilIndexed()
    let activity = store.activity
    #expect(activity.segments == directory.names(".log").count)
    #expect(activity.segmentsToIndex == 0 && activity.mergesDue == 0)
    #expect(activity.indexFiles == directory.indexRanges.count)
    #expect(activity.indexFiles < 11, "eight were merged")
    try await store.close()
  }

  @Test(
    "merges that are due are counted as the plan makes them",
    arguments: [
      ([], 0), ([1], 0), (Array(repeating: 1, count: 8), 1), (Array(repeating: 1, count: 64), 9),
      ([1, 8], 1), ([8, 1, 1], 0),
    ])
  func merges(segmentCounts: [Int], due: Int) {
    #expect(MergePlan.dueCount(segmentCounts) == due)
  }

  @Test("loads of a stream are found in memory from the third one on, once its segment is finished")
  func cache() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await store.append(Append(event("often")))
    while store.activity.segments < 2 {
      try await store.append(Append(event("other", String(repeating: "x", count: 10_000))))
    }
    try await store.waitUntilIndexed()
    for _ in 0..<3 { #expect(try store.reader.stream("often").count == 1) }
    let activity = store.activity
    #expect(activity.cacheHits == 1 && activity.cacheMisses == 2 && activity.cacheBytes > 0)
    try await store.close()
  }

  @Test("a scrub says how much of its round is done")
  func scrub() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    while store.activity.segments < 4 {
      try await store.append(Append(event("other", String(repeating: "x", count: 10_000))))
    }
    try await store.waitUntilIndexed()
    let scrub = Scrub(store.reader.commitPoint.segments, Scrub.Options()) { _ in }
    #expect(scrub.report.progress == 1)
    #expect(scrub.runOnce())
    #expect(scrub.report.progress == 1 && scrub.report.rounds == 1)
    try await store.close()
  }
}
