import Foundation
import Testing

@testable import LogStore

/// A repaired store that lost some events.
private struct Repaired {
  let directory = TemporaryDirectory()
  let report: RepairReport
  let original: [Event]

  /// - Parameter lost: offsets of events that are overwritten before the repair.
  init(losing lost: [Int], count: Int = 900, isIndexed: Bool = true) async throws {
    let damaged = TemporaryDirectory()
    let filled = try await fill(damaged.path, count: count, isIndexed: isIndexed)
    original = filled.events
    for offset in lost {
      let location = filled.records[offset]
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: damaged.file(location.file)))
      try file.seek(toOffset: UInt64(location.record.lowerBound + 20))
      try file.write(contentsOf: [0xFF, 0xFF, 0xFF])
      try file.close()
    }
    report = try LogStore.repair(damaged.path, to: directory.path)
  }
}

private typealias Filled = (events: [Event], records: [(file: String, record: Range<Int>)])

/// 900 events of 30 streams in turn, 3 an append, over some segments; one cursor.
private func fill(_ path: String, count: Int, isIndexed: Bool) async throws -> Filled {
  let store = try LogStore.open(path, options: smallSegments())
  for first in stride(from: 0, to: count, by: 3) {
    let events = (first..<first + 3).map { event("s-\($0 % 30)", String(repeating: "x", count: 300), type: "T\($0)") }
    try await store.append(Append(events, cursors: [CursorCommit(name: "reader", checkpoint: UInt64(first))]))
  }
  if isIndexed { try await store.waitUntilIndexed() }
  let events = try store.reader.events(from: 0, limit: .max)
  let id = store.reader.commitPoint.segments.storeID
  let bases = store.reader.commitPoint.segments.bases
  try await store.close()
  var records: [(file: String, record: Range<Int>)] = []
  for base in bases {
    let name = FileName.segment(base)
    let segment = try Segment.open(path + "/" + name, baseOffset: base, storeID: id, disk: RealDisk())
    var next = segment.start
    while let header = try? segment.checkFrame(next, visit: { _ in }) {
      _ = try segment.checkFrame(next) { if $0.kind == .event { records.append((name, $0.position..<$0.end)) } }
      next.advance(past: header)
    }
  }
  return (events, records)
}

@Suite struct GapTests {
  @Test("reading in order goes on behind a gap, and says so")
  func scan() async throws {
    let store = try await Repaired(losing: [100, 101, 400])
    let reader = try LogReader.open(store.directory.path)
    #expect(reader.gaps == [100..<102, 400..<401] && reader.endOffset == 900)
    var cursor = reader.cursor(from: 98)
    var seen: [UInt64] = []
    while let offset = try cursor.next()?.offset {
      seen.append(offset)
      if offset == 99 { #expect(cursor.lastGap == nil) }
      if offset == 102 { #expect(cursor.lastGap == 100..<102) }
    }
    #expect(seen == Array(98..<100) + Array(102..<400) + Array(401..<900) && cursor.lastGap == 400..<401)
    #expect(try reader.events(from: 0, limit: .max) == store.original.filter { ![100, 101, 400].contains($0.offset) })
  }

  @Test("a cursor that stands in a gap moves on", arguments: [100, 101, 102])
  func cursorInGap(offset: UInt64) async throws {
    let store = try await Repaired(losing: [100, 101, 102])
    let reader = try LogReader.open(store.directory.path)
    #expect(try reader.events(from: offset, limit: 1).first?.offset == 103)
    #expect(try reader.forEach(from: offset) { _ in false } == 104)
  }

  @Test("a stream with a hole does not pass for the whole stream")
  func incompleteStream() async throws {
    let store = try await Repaired(losing: [105])
    let reader = try LogReader.open(store.directory.path)
    // Offset 105 was version 4 of s-15.
    await expectThrows({ $0 == .streamIncomplete(stream: "s-15", missing: 4...4) }) { () throws(LogStoreError) in
      try reader.stream("s-15")
    }
    #expect(try reader.stream("s-15", skippingMissing: true).map(\.version) == Array(1...3) + Array(5...30))
    #expect(try reader.stream("s-15", from: 5).count == 26 && reader.stream("s-15", limit: 3).count == 3)
    #expect(try reader.stream("s-14").count == 30)
    // On every read: the cached copy is complete.
    for _ in 0..<3 {
      await expectThrows({ $0 == .streamIncomplete(stream: "s-15", missing: 4...4) }) { () throws(LogStoreError) in
        try reader.stream("s-15")
      }
      #expect(try reader.stream("s-15", skippingMissing: true).count == 29 && reader.stream("s-14").count == 30)
    }
  }

  @Test("a stream that lost its last events is known to have had them")
  func lostEnd() async throws {
    // Versions 29 and 30 of s-5 are in the last segments. The index of the last one is only in memory, so only one of them
    // is known.
    let store = try await Repaired(
      losing: stride(from: 5, to: 700, by: 30).suffix(2) + stride(from: 725, to: 900, by: 30))
    let known = store.report.missing.flatMap(\.events).filter { $0.stream == "s-5" }.map(\.version).max()
    let last = try #require(known)
    let writer = try LogStore.open(store.directory.path, options: smallSegments())
    #expect(try writer.reader.streamVersion("s-5") >= last)
    for _ in 0..<4 {
      await expectThrows({ if case .streamIncomplete = $0 { true } else { false } }) { () throws(LogStoreError) in
        try writer.reader.stream("s-5")
      }
    }
    let saved = try writer.reader.stream("s-5", skippingMissing: true).map(\.version)
    let expected = max(last, saved.last ?? 0)
    await expectThrows({ $0 == .conflict(stream: "s-5", expected: .version(1), actual: expected) }) {
      () throws(LogStoreError) in
      try await writer.append(Append(event("s-5"), expecting: .version(1)))
    }
    let appended = try await writer.append(Append(event("s-5"), expecting: .version(expected)))
    #expect(appended.versions == [expected + 1])
    try await writer.close()
  }

  @Test("a stream of which nothing is left was there all the same")
  func lostStream() async throws {
    let damaged = TemporaryDirectory()
    let store = try LogStore.open(damaged.path, options: smallSegments())
    try await store.append(Append(event("only", "first"), expecting: .noStream))
    for _ in 0..<300 { try await store.append(Append(event("other", String(repeating: "x", count: 300)))) }
    try await store.waitUntilIndexed()
    try await store.close()
    let path = damaged.file(FileName.segment(0))
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    let found = try #require(bytes.range(of: Data("first".utf8)))
    bytes[found.lowerBound] ^= 1
    try bytes.write(to: URL(fileURLWithPath: path))
    let target = TemporaryDirectory()
    let report = try LogStore.repair(damaged.path, to: target.path)
    #expect(report.missing.map(\.offsets) == [0..<1] && report.missing[0].events.map(\.version) == [1])
    #expect(report.missing[0].events[0].stream == nil)
    let writer = try LogStore.open(target.path, options: smallSegments())
    await expectThrows({ $0 == .conflict(stream: "only", expected: .noStream, actual: 1) }) {
      () throws(LogStoreError) in
      try await writer.append(Append(event("only", "first"), expecting: .noStream))
    }
    await expectThrows({ $0 == .streamIncomplete(stream: "only", missing: 1...1) }) { () throws(LogStoreError) in
      try writer.reader.stream("only")
    }
    #expect(try writer.reader.stream("new").isEmpty)
    try await writer.close()
  }

  @Test("a store with gaps is indexed, merged, reindexed, and reads the same")
  func index() async throws {
    let store = try await Repaired(losing: Array(stride(from: 50, to: 850, by: 40)))
    let path = store.directory.path
    let before = try LogReader.open(path).events(from: 0, limit: .max)
    var writer = try LogStore.open(path, options: smallSegments())
    try await writer.waitUntilIndexed()
    #expect(store.directory.isIndexed && store.directory.indexRanges.count < store.directory.names(".log").count - 1)
    func checkStreams(_ reader: LogReader) throws {
      for stream in 0..<30 {
        let loaded = try reader.stream("s-\(stream)", skippingMissing: true)
        #expect(loaded == before.filter { $0.stream == "s-\(stream)" })
        for version in [UInt64(1), 7, 12, 30] {
          let expected = before.filter { $0.stream == "s-\(stream)" && $0.version >= version }.prefix(2)
          #expect(try reader.stream("s-\(stream)", from: version, limit: 2, skippingMissing: true) == Array(expected))
        }
      }
    }
    try checkStreams(writer.reader)
    try await writer.close()
    _ = try LogStore.reindex(path)
    #expect(try LogStore.verify(path).findings.isEmpty)
    writer = try LogStore.open(path, options: smallSegments())
    try checkStreams(writer.reader)
    #expect(try writer.reader.events(from: 0, limit: .max) == before)
    let statistics = try writer.reader.statistics()
    #expect(statistics.events == UInt64(before.count) && statistics.missingEvents == UInt64(900 - before.count))
    try await writer.close()
  }

  @Test("another process follows a store with gaps, and finds it after a crash")
  func follow() async throws {
    let store = try await Repaired(losing: [0, 1, 300, 899])
    let path = store.directory.path
    let writer = try LogStore.open(path, options: smallSegments())
    let reader = try LogReader.open(path)
    #expect(reader.endOffset == 900 && reader.gaps == [0..<2, 300..<301, 899..<900])
    var cursor = reader.cursor(from: 898)
    #expect(try cursor.next()?.offset == 898)
    #expect(try cursor.next() == nil)
    #expect(cursor.offset == 900 && cursor.lastGap == 899..<900)
    try await writer.append(Append((0..<400).map { event("new", String(repeating: "x", count: 300), type: "T\($0)") }))
    #expect(try await cursor.waitForMore())
    #expect(try cursor.next()?.offset == 900)
    writer.abandon()
    reader.close()
    let again = TemporaryDirectory()
    try copyStore(path, to: again.path)
    let opened = try LogStore.open(again.path, options: smallSegments())
    #expect(opened.reader.endOffset == 1300 && opened.reader.gaps.count == 3)
    #expect(try opened.reader.stream("new").count == 400)
    try await opened.close()
  }

  @Test("a segment behind a gap that holds cursors only keeps the gap's data when it is replaced")
  func replaced() async throws {
    let store = try await Repaired(losing: [898, 899])
    let path = store.directory.path
    let known = try LogReader.open(path).commitPoint.segments.gaps
    #expect(known.ranges == [898..<900])
    let writer = try LogStore.open(path, options: smallSegments())
    // Full of cursors: the next event begins a segment of the same name.
    let names = (0..<500).map { "\($0)" + String(repeating: "c", count: 200) }
    for round in UInt64(0)..<3 {
      for name in names {
        try await writer.appendBuffered(Append([], cursors: [CursorCommit(name: name, checkpoint: round)]))
      }
    }
    try await writer.append(Append(event("s-1")))
    #expect(try writer.reader.events(from: 890, limit: .max).map(\.offset) == Array(890..<898) + [900])
    try await writer.close()
    #expect(try LogStore.verify(path).findings.isEmpty)
    let gaps = try LogReader.open(path).commitPoint.segments.gaps
    #expect(gaps.ranges == known.ranges && gaps.lastVersions == known.lastVersions)
  }

  @Test("a backup of a store with gaps restores it, also to an offset in one")
  func backup() async throws {
    let store = try await Repaired(losing: [0, 200, 201, 500, 899])
    let path = store.directory.path
    let before = try LogReader.open(path)
    let events = try before.events(from: 0, limit: .max)
    let copy = TemporaryDirectory()
    try FileManager.default.createDirectory(atPath: copy.path, withIntermediateDirectories: true)
    for location in [BackupLocation.directory(copy.file("parts")), .file(copy.file("stream"))] {
      _ = try LogStore.backup(path, to: location)
      _ = try LogStore.backup(path, to: location)
      let restored = TemporaryDirectory()
      #expect(try LogStore.restore(from: location, to: restored.path).endOffset == 900)
      let reader = try LogReader.open(restored.path)
      #expect(try reader.events(from: 0, limit: .max) == events && reader.gaps == before.gaps)
      for (until, end) in [(201, 200), (202, 202), (200, 200), (1, 1), (0, 0), (350, 350), (900, 900)]
        as [(UInt64, UInt64)]
      {
        let part = TemporaryDirectory()
        #expect(try LogStore.restore(from: location, to: part.path, until: until).endOffset == end)
        let reader = try LogReader.open(part.path)
        #expect(
          try reader.events(from: 0, limit: .max) == events.filter { $0.offset < until } && reader.endOffset == end)
      }
    }
    let manifest = try Data(contentsOf: URL(fileURLWithPath: copy.file("parts") + "/manifest"))
    #expect(manifest[8] == 2)
  }

  @Test("a program of before refuses a store with gaps by the version in the segments behind them")
  func version() async throws {
    let store = try await Repaired(losing: [300])
    for name in store.directory.names(".log") {
      let bytes = try Data(contentsOf: URL(fileURLWithPath: store.directory.file(name)))
      #expect(bytes[8] == (name == FileName.segment(301) ? 2 : 1))
    }
  }

  @Test("versions may jump over a gap and nowhere else")
  func jump() {
    var gaps = Gaps()
    #expect(!gaps.areBetween(3, 9))
    gaps = Gaps(ranges: [5..<7, 20..<21], lastVersions: [:])
    #expect(gaps.areBetween(4, 7) && gaps.areBetween(0, 30) && gaps.areBetween(4, 21))
    #expect(!gaps.areBetween(0, 4) && !gaps.areBetween(7, 19) && !gaps.areBetween(21, 40))
    #expect(gaps.gap(at: 5) == 5..<7 && gaps.gap(at: 6) == 5..<7 && gaps.gap(at: 7) == nil && gaps.gap(at: 4) == nil)
    #expect(gaps.gap(before: 7) == 5..<7 && gaps.gap(before: 6) == nil && gaps.eventCount(in: 6..<40) == 2)
  }
}
