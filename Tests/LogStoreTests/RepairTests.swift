import Foundation
import Synchronization
import Testing

@testable import LogStore

/// A store of six segments or so with an index, closed.
private func makeStore(_ path: String, count: Int = 900) async throws -> [Event] {
  let store = try LogStore.open(path, options: smallSegments())
  for first in stride(from: 0, to: count, by: 3) {
    let events = (first..<first + 3).map { event("s-\($0 % 30)", String(repeating: "x", count: 300), type: "T\($0)") }
    try await store.append(Append(events, cursors: [CursorCommit(name: "reader", checkpoint: UInt64(first))]))
  }
  try await store.waitUntilIndexed()
  let events = try store.reader.events(from: 0, limit: .max)
  try await store.close()
  return events
}

extension TemporaryDirectory {
  fileprivate func change(_ name: String, _ change: (inout [UInt8]) -> Void) throws {
    var bytes = Array(try Data(contentsOf: URL(fileURLWithPath: file(name))))
    change(&bytes)
    try Data(bytes).write(to: URL(fileURLWithPath: file(name)))
  }

  fileprivate func remove(_ name: String) throws { try FileManager.default.removeItem(atPath: file(name)) }
}

@Suite struct RepairTests {
  @Test("a sound store comes out as it was, byte for byte where nothing depends on the time")
  func sound() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    let report = try LogStore.repair(store.path, to: target.path)
    #expect(report.missing.isEmpty && report.findings.isEmpty && report.partial.isEmpty && report.guessedTimes.isEmpty)
    #expect(report.events == 900 && report.endOffset == 900 && report.cursors == 1 && !report.isEndUnknown)
    let (old, new) = (try LogReader.open(store.path), try LogReader.open(target.path))
    #expect(try new.events(from: 0, limit: .max) == events)
    #expect(try new.cursors().map(\.checkpoint) == old.cursors().map(\.checkpoint))
    #expect(store.names(".log") == target.names(".log"))
    #expect(
      FileManager.default.contents(atPath: store.file("store"))
        == FileManager.default.contents(atPath: target.file("store")))
  }

  @Test("a damaged header page costs nothing but the time it was made")
  func headerPage() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    for name in store.names(".log") {
      try store.change(name) { $0.replaceSubrange(0..<4096, with: repeatElement(0, count: 4096)) }
    }
    let report = try LogStore.repair(store.path, to: target.path)
    #expect(report.missing.isEmpty && report.findings.count == store.names(".log").count)
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }

  @Test("a segment under another's name, whose header and first frames are gone, is known by its other frames")
  func misnamedWithoutBeginning() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    let names = store.names(".log").sorted()
    let files = DamageableStore.contents(store.path)
    let (one, other) = (try #require(files[names[1]]), try #require(files[names[2]]))
    try store.change(names[1]) { $0 = other }
    try store.change(names[2]) { $0 = one }
    // The header's page and, behind it, the snapshot of cursors and some events.
    try store.change(names[1]) { $0.replaceSubrange(2048..<6144, with: repeatElement(0x55, count: 4096)) }
    let report = try LogStore.repair(store.path, to: target.path)
    let lost = report.missing.reduce(0) { $0 + $1.offsets.count }
    #expect((1...10).contains(lost), "only what was overwritten is lost: \(report.missing)")
    let saved = try LogReader.open(target.path).events(from: 0, limit: .max)
    #expect(saved.count == events.count - lost && Set(saved).isSubset(of: events))
  }

  @Test(
    "a segment under another's name, whose header is damaged, is known by its first frame when nothing else tells of it"
  )
  func onlyFirstFrameTells() async throws {
    var generator = SeededGenerator.printed()
    let store = try await DamageableStore(&generator, isClosed: false, isIndexed: false)
    var files = store.originals
    let names = files.keys.filter { $0.hasSuffix(".log") }.sorted()
    try #require(names.count > 3)
    // The file that follows it, whose header names it, is lost as well.
    files[names[3]] = files.removeValue(forKey: names[1])
    files[names[2]] = nil
    files[names[3]]?[433] ^= 1
    let damaged = TemporaryDirectory()
    let target = TemporaryDirectory()
    try write(files, to: damaged)
    _ = try LogStore.repair(damaged.path, to: target.path)
    let saved = Set(try LogReader.open(target.path).events(from: 0, limit: .max).map(\.offset))
    let kept = store.records.indices.filter { store.records[$0].file == names[1] }
    #expect(!kept.isEmpty && kept.allSatisfy { saved.contains(UInt64($0)) })
  }

  @Test("a segment that has the name of an index file, and whose header is damaged, is known by its frames")
  func namedAsIndex() async throws {
    var generator = SeededGenerator.printed()
    let store = try await DamageableStore(&generator, isClosed: true, isIndexed: true)
    var files = store.originals
    let names = files.keys.filter { $0.hasSuffix(".log") }.sorted()
    let index = try #require(files.keys.filter { $0.hasSuffix(".idx") }.max())
    for segment in [names[1], try #require(names.last)] {
      files = store.originals
      (files[index], files[segment]) = (files[segment], files[index])
      files[index]?[2535] ^= 1
      let damaged = TemporaryDirectory()
      let target = TemporaryDirectory()
      try write(files, to: damaged)
      let report = try LogStore.repair(damaged.path, to: target.path)
      #expect(report.missing.isEmpty && report.endOffset == UInt64(store.events.count), "\(segment): \(report.missing)")
      #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == store.events)
    }
  }

  @Test("a segment without header whose first frames are another's blocks is still what its name and most frames say")
  func foreignBeginning() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    let names = store.names(".log").sorted()
    let other = try #require(DamageableStore.contents(store.path)[names[2]])
    try store.change(names[1]) { bytes in
      bytes.replaceSubrange(0..<4096, with: repeatElement(0, count: 4096))
      bytes.replaceSubrange(4096..<8192, with: other[4096..<8192])
    }
    let report = try LogStore.repair(store.path, to: target.path)
    let lost = report.missing.reduce(0) { $0 + $1.offsets.count }
    #expect((1...15).contains(lost), "only what was overwritten is lost: \(report.missing)")
    let saved = try LogReader.open(target.path).events(from: 0, limit: .max)
    #expect(saved.count == events.count - lost)
    for event in saved {
      var original = events[Int(event.offset)]
      // Of the frame that the other one's end has cut, the header is gone.
      if report.guessedTimes.contains(where: { $0.contains(event.offset) }) {
        original.timestampMicroseconds = event.timestampMicroseconds
      }
      #expect(event == original)
    }
  }

  @Test("a version that was damaged is damage, one that is newer is refused by name", arguments: [true, false])
  func version(isWhole: Bool) async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    try store.change(FileName.segment(0)) { bytes in
      bytes[8] = 7
      guard isWhole else { return }
      let sum = bytes.withUnsafeBytes { checksum($0.part(0, 4092)) }
      bytes.withUnsafeMutableBytes { $0.set(sum, at: 4092) }
    }
    if isWhole {
      await expectThrows({
        $0 == .unsupportedFormat(file: store.file(FileName.segment(0)), version: 7, supported: 2)
      }) { () throws(LogStoreError) in try LogStore.repair(store.path, to: target.path) }
    } else {
      #expect(try LogStore.repair(store.path, to: target.path).missing.isEmpty)
      #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
    }
  }

  @Test("a few files replaced by another store's do not make it that store")
  func foreignFiles() async throws {
    let (store, foreign, target) = (TemporaryDirectory(), TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    _ = try await makeStore(foreign.path)
    for name in ["store", "clean", store.names(".log")[1]] {
      try store.remove(name)
      try FileManager.default.copyItem(atPath: foreign.file(name), toPath: store.file(name))
    }
    let report = try LogStore.repair(store.path, to: target.path)
    #expect(report.missing.count == 1 && report.findings.count >= 3)
    let lost = report.missing[0].offsets
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events.filter { !lost.contains($0.offset) })
  }

  @Test("of two copies of a segment the one that goes further counts")
  func copies() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    let names = store.names(".log")
    try FileManager.default.copyItem(atPath: store.file(names[2]), toPath: store.file(names[2] + ".found"))
    try store.change(names[2]) {
      $0.replaceSubrange(20_000..<$0.count, with: repeatElement(0, count: $0.count - 20_000))
    }
    let report = try LogStore.repair(store.path, to: target.path)
    #expect(report.missing.isEmpty && report.findings.count == 1)
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }

  @Test(
    "a segment that is missing, empty, or another store's is a gap", arguments: ["missing", "empty", "foreign"],
    [0, 2, -1])
  func segmentGone(how: String, which: Int) async throws {
    let (store, target, foreign) = (TemporaryDirectory(), TemporaryDirectory(), TemporaryDirectory())
    let events = try await makeStore(store.path)
    let names = store.names(".log")
    let number = which < 0 ? names.count - 1 : which
    let name = names[number]
    switch how {
    case "missing": try store.remove(name)
    case "empty": try store.change(name) { $0 = [] }
    default:
      _ = try await makeStore(foreign.path)
      try store.remove(name)
      try FileManager.default.copyItem(atPath: foreign.file(name), toPath: store.file(name))
    }
    let first = try #require(FileName.baseOffset(name, suffix: ".log"))
    let end = number + 1 < names.count ? try #require(FileName.baseOffset(names[number + 1], suffix: ".log")) : 900
    let report = try LogStore.repair(store.path, to: target.path)
    #expect(report.missing.map(\.offsets) == [first..<end] && report.endOffset == 900 && !report.isEndUnknown)
    #expect(report.missing[0].damage?.file.hasSuffix(name) == true, "\(report.missing)")
    if number + 1 < names.count { #expect(report.missing[0].events.count == Int(end - first)) }
    #expect(
      try LogReader.open(target.path).events(from: 0, limit: .max)
        == events.filter { !(first..<end).contains($0.offset) })
  }

  @Test("without the file that says which store it is, the segments do")
  func noStoreFile() async throws {
    for change in ["missing", "damaged"] {
      let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
      let events = try await makeStore(store.path)
      if change == "missing" { try store.remove("store") } else { try store.change("store") { $0[20] ^= 1 } }
      let report = try LogStore.repair(store.path, to: target.path)
      #expect(report.missing.isEmpty && report.findings.count == 1)
      #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
    }
  }

  @Test(
    "events lost at the end: the clean mark or the writer's notice says how many; otherwise the report says unknown")
  func lostEnd() async throws {
    for (removed, isKnown) in [([], true), (["clean"], true), (["clean", "tail"], false)] as [([String], Bool)] {
      let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
      _ = try await makeStore(store.path)
      // Frames of the last segment refer to those before as synced, so this can't be an unfinished write.
      let last = try #require(store.names(".log").last)
      try store.change(last) { bytes in
        let end = bytes.lastIndex { $0 != 0 } ?? 0
        for position in end - 3000..<end - 200 { bytes[position] ^= 0x55 }
      }
      for name in removed { try store.remove(name) }
      let report = try LogStore.repair(store.path, to: target.path)
      if isKnown {
        #expect(report.endOffset == 900 && report.missing.last?.offsets.upperBound == 900 && !report.isEndUnknown)
        let writer = try LogStore.open(target.path, options: smallSegments())
        #expect(try await writer.append(Append(event("s"))).offsets == 900..<901)
        try await writer.close()
      } else {
        #expect(report.endOffset < 900)
      }
    }
  }

  @Test("nothing is created if nothing can be saved")
  func nothing() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    _ = try await makeStore(store.path)
    for name in store.names("") { try store.change(name) { $0 = $0.map { _ in 0xAA } } }
    await expectThrows({ if case .repairRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.repair(store.path, to: target.path)
    }
    #expect(!FileManager.default.fileExists(atPath: target.path))
    #expect(!FileManager.default.fileExists(atPath: target.path + ".repairing"))
  }

  @Test("what is there already, the store itself, and a store with a writer are refused")
  func refusals() async throws {
    let (store, target) = (TemporaryDirectory(), TemporaryDirectory())
    _ = try await makeStore(store.path)
    try FileManager.default.createDirectory(atPath: target.path, withIntermediateDirectories: true)
    try Data("x".utf8).write(to: URL(fileURLWithPath: target.file("notes")))
    for path in [target.path, store.path, store.file("inside"), target.file("notes")] {
      await expectThrows({ if case .repairRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
        try LogStore.repair(store.path, to: path)
      }
    }
    try target.remove("notes")
    let writer = try LogStore.open(store.path)
    await expectThrows({ if case .repairRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      try LogStore.repair(store.path, to: target.path)
    }
    try await writer.close()
    #expect(try LogStore.repair(store.path, to: target.path).events == 900)
  }

  @Test("a repaired store that is damaged again keeps the gaps it had, and what is known of them")
  func again() async throws {
    let (store, first, second) = (TemporaryDirectory(), TemporaryDirectory(), TemporaryDirectory())
    _ = try await makeStore(store.path)
    try store.remove(store.names(".log")[1])
    let report = try LogStore.repair(store.path, to: first.path)
    let gaps = try LogReader.open(first.path).commitPoint.segments.gaps
    let damaged = try #require(first.names(".log").last)
    try first.change(damaged) { bytes in
      let end = bytes.lastIndex { $0 != 0 } ?? 0
      bytes[end - 900] ^= 1
    }
    let again = try LogStore.repair(first.path, to: second.path)
    #expect(again.missing.count == 2 && again.missing[0].offsets == report.missing[0].offsets)
    #expect(again.missing[0].damage == nil && again.missing[1].damage != nil)
    let kept = try LogReader.open(second.path).commitPoint.segments.gaps
    #expect(kept.ranges.first == gaps.ranges.first)
    for (key, version) in gaps.lastVersions { #expect(kept.lastVersions[key] ?? 0 >= version) }
    #expect(!gaps.lastVersions.isEmpty)
  }

  @Test("the sound events of a damaged store are read on request, and missing ones are reported")
  func allowingDamage() async throws {
    let store = TemporaryDirectory()
    let events = try await makeStore(store.path)
    let name = store.names(".log")[2]
    let base = try #require(FileName.baseOffset(name, suffix: ".log"))
    try store.change(name) { $0[20_000] ^= 1 }
    #expect(throws: LogStoreError.self) { try LogReader.open(store.path).events(from: 0, limit: .max) }
    for from in [UInt64(0), base + 10, 800] {
      let seen = Seen()
      let report = try DamagedLog(store.path).forEach(from: from) { gap, damage in
        seen.gaps.append(gap)
        #expect(damage?.file.hasSuffix(name) == true)
      } _: { event in
        seen.events.append(event.copy())
        return true
      }
      let lost = seen.gaps.flatMap { Array($0) }
      #expect(lost.count == (from == 800 ? 0 : 1) && report.next == 900)
      #expect(seen.events == events.filter { $0.offset >= from && !lost.contains($0.offset) })
    }
    let statistics = try DamagedLog(store.path).statistics().statistics
    #expect(statistics.events == 899 && statistics.endOffset == 900 && statistics.cursors.map(\.checkpoint) == [897])
  }

  /// What was visited; a class, so that closures can write to it.
  private final class Seen {
    var events: [Event] = []
    var gaps: [Range<UInt64>] = []
  }

  @Test("verify finds an index with right checksums that leaves events out")
  func lyingIndex() async throws {
    let (store, other) = (TemporaryDirectory(), TemporaryDirectory())
    _ = try await makeStore(store.path)
    // An index of the same segments without one stream, built by the program itself.
    let name = store.names(".idx")[0]
    let range = try #require(FileName.indexRange(name))
    try FileManager.default.copyItem(atPath: store.path, toPath: other.path)
    let reader = try LogReader.open(store.path)
    let segments = reader.commitPoint.segments
    let base = range.lowerBound
    let (index, end) = try segments.readThrough(try segments.segmentToScan(base))
    var input = index.state.withLock { $0.sealingInput() }
    try #require(range.upperBound == end.offset)
    // The same number of events: one stream's are listed under another's key.
    input.streams[0].hash = ~input.streams[0].hash
    let output = IndexOutput(nil)
    _ = try IndexEncoding.encode(input, of: index.segment, end: end, to: output)
    let lie = output.takeMemory()
    try Data(Array(lie.bytes)).write(to: URL(fileURLWithPath: store.file(name)))
    let findings = try LogStore.verify(store.path).findings
    #expect(findings.count == 1 && findings[0].file.hasSuffix(name) && findings[0].reason.contains("other events"))
    #expect(try LogStore.verify(other.path).findings.isEmpty)
  }
}

@Suite struct ScrubTests {
  @Test("a scrub finds what went bad in an open store, once, and a sound store has nothing")
  func finds() async throws {
    let directory = TemporaryDirectory()
    _ = try await makeStore(directory.path)
    let store = try LogStore.open(directory.path, options: smallSegments())
    var options = Scrub.Options()
    options.bytesPerSecond = .max
    let told = Told()
    let scrub = Scrub(store.reader.commitPoint.segments, options) { told.add($0) }
    #expect(scrub.runOnce() && scrub.report.rounds == 1 && scrub.report.findings.isEmpty && told.all.isEmpty)
    let finished = directory.names(".log").dropLast()
    #expect(scrub.report.bytes > UInt64(finished.count) * 65536)
    let name = finished[1]
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: directory.file(name)))
    try file.seek(toOffset: 30_000)
    let byte = try #require(try file.read(upToCount: 1)?.first)
    try file.seek(toOffset: 30_000)
    try file.write(contentsOf: [byte ^ 4])
    #expect(scrub.runOnce() && scrub.runOnce())
    #expect(told.all.count == 1 && told.all[0].file.hasSuffix(name) && scrub.report.findings == told.all)
    try file.seek(toOffset: 30_000)
    try file.write(contentsOf: [byte])
    #expect(scrub.runOnce() && scrub.report.findings.isEmpty)
    let index = directory.names(".idx")[0]
    try directory.change(index) { $0[$0.count / 2] ^= 1 }
    #expect(scrub.runOnce() && scrub.report.findings.map(\.file) == [directory.file(index)])
    try await store.close()
  }

  @Test("a scrub goes on where it was, and not behind damage")
  func checkpoint() async throws {
    let directory = TemporaryDirectory()
    _ = try await makeStore(directory.path)
    let store = try LogStore.open(directory.path, options: smallSegments())
    var options = Scrub.Options()
    options.bytesPerSecond = .max
    let scrub = Scrub(store.reader.commitPoint.segments, options) { _ in }
    #expect(scrub.runOnce())
    let text = try String(contentsOfFile: directory.file(Scrub.fileName), encoding: .utf8)
    #expect(text.hasPrefix("0 "))
    let bases = directory.names(".log").dropLast().compactMap { FileName.baseOffset($0, suffix: ".log") }
    try directory.change(FileName.segment(bases[1])) { $0[20_000] ^= 1 }
    #expect(scrub.runOnce() && scrub.report.findings.count == 1)
    let behind = try String(contentsOfFile: directory.file(Scrub.fileName), encoding: .utf8)
    #expect(behind.hasPrefix("\(bases[0] + 1) "))
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.count > 0)
  }

  @Test("a scrub at a slow rate ends when it is stopped")
  func stops() async throws {
    let directory = TemporaryDirectory()
    _ = try await makeStore(directory.path)
    let store = try LogStore.open(directory.path, options: smallSegments())
    var options = Scrub.Options()
    options.bytesPerSecond = Scrub.Options.bytesPerSecondMin
    let scrub = try store.scrub(options) { _ in }
    scrub.stop()
    #expect(scrub.report.rounds == 0)
    try await store.close()
  }

  private final class Told: Sendable {
    private let found = Mutex<[Damage]>([])
    var all: [Damage] { found.withLock { $0 } }
    func add(_ damage: Damage) { found.withLock { $0.append(damage) } }
  }
}
