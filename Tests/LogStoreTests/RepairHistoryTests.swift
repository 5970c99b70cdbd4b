import Foundation
import Testing

@testable import LogStore

/// Two copies of a store that were both written to: the same store id, and all checks pass in both.
private struct Diverged {
  var own = TemporaryDirectory()
  var other = TemporaryDirectory()
  var events: [Event] = []

  init(own: TemporaryDirectory, other: TemporaryDirectory) {
    (self.own, self.other) = (own, other)
  }

  /// - Parameter otherCount: appends to the other copy after they parted.
  init(otherCount: Int = 300) async throws {
    try await Self.fill(own.path, "shared", 200)
    try FileManager.default.copyItem(atPath: own.path, toPath: other.path)
    try await Self.fill(own.path, "mine", 300)
    try await Self.fill(other.path, "copy", otherCount)
    events = try LogReader.open(own.path).events(from: 0, limit: .max)
  }

  static func fill(_ path: String, _ type: String, _ count: Int) async throws {
    let store = try LogStore.open(path, options: smallSegments())
    let payload = String(repeating: "x", count: 900)
    for _ in 0..<count { try await store.append(Append(event("a", payload, type: type))) }
    try await store.waitUntilIndexed()
    try await store.close()
  }

  /// Copies a segment of the other one's, as a person does who mixes two directories up.
  func mix(_ name: String, as newName: String? = nil) throws {
    let target = own.file(newName ?? name)
    if FileManager.default.fileExists(atPath: target) { try FileManager.default.removeItem(atPath: target) }
    try FileManager.default.copyItem(atPath: other.file(name), toPath: target)
  }

  /// Repairs, and expects every event of this history but the given ones, and none of the other.
  func expectSaved(without lost: Range<UInt64> = 0..<0, leftOut: Int) throws {
    let target = TemporaryDirectory()
    let report = try LogStore.repair(own.path, to: target.path)
    let saved = try LogReader.open(target.path).events(from: 0, limit: .max)
    #expect(!saved.contains { $0.type == "copy" })
    #expect(saved == events.filter { !lost.contains($0.offset) })
    #expect(report.leftOut.count == leftOut, "\(report.leftOut)")
    #expect(report.leftOut.allSatisfy { file in report.findings.contains { $0.file == file.file } })
  }
}

@Suite struct RepairHistoryTests {
  @Test("a segment of a separately written copy replaces no sound event, whatever its name")
  func oneStray() async throws {
    let stores = try await Diverged()
    for name in stores.other.names(".log").dropFirst(3) {
      try stores.mix(name, as: "found-" + name)
      try stores.expectSaved(leftOut: 1)
      try FileManager.default.removeItem(atPath: stores.own.file("found-" + name))
    }
  }

  @Test("a stray that begins within another segment, and says that one is missing before it, makes no gap")
  func overlapping() async throws {
    let stores = try await Diverged()
    // The same segments, one offset later each: as if the copy's appends had been a little smaller.
    let third = try #require(stores.own.names(".log").dropFirst(5).first)
    let base = try #require(FileName.baseOffset(third, suffix: ".log"))
    let segment = try Data(contentsOf: URL(fileURLWithPath: stores.own.file(third)))
    var header = try Array(segment.prefix(SegmentHeader.byteCount)).withUnsafeBytes { try SegmentHeader($0) }
    header.baseOffset += 1
    header.previousBaseOffset += 1
    let stray = header.encoded() + [UInt8](repeating: 0, count: segment.count - SegmentHeader.byteCount)
    try Data(stray).write(to: URL(fileURLWithPath: stores.own.file(FileName.segment(base + 1))))
    try stores.expectSaved(leftOut: 1)
  }

  @Test("all segments of a longer copy beside the store's own, with their index files, change nothing")
  func manyStrays() async throws {
    let stores = try await Diverged(otherCount: 700)
    let names = stores.other.names(".log")
    for name in names { try stores.mix(name, as: "x" + name) }
    for name in stores.other.names(".idx") where !stores.own.names(".idx").contains(name) { try stores.mix(name) }
    let shared = try names.filter {
      try Data(contentsOf: URL(fileURLWithPath: stores.own.file("x" + $0)))
        == (try? Data(contentsOf: URL(fileURLWithPath: stores.own.file($0))))
    }
    #expect(shared.count >= 2 && shared.count < names.count)
    let target = TemporaryDirectory()
    let report = try LogStore.repair(stores.own.path, to: target.path)
    #expect(report.leftOut.count == names.count - shared.count, "\(report.leftOut)")
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == stores.events)
  }

  @Test("segments of a copy that went on behind the end of the log are not appended to it", arguments: [true, false])
  func behindTheEnd(hasClean: Bool) async throws {
    let stores = try await Diverged(otherCount: 700)
    var count = 0
    for name in stores.other.names(".log") where !stores.own.names(".log").contains(name) {
      try stores.mix(name)
      count += 1
    }
    if !hasClean { try FileManager.default.removeItem(atPath: stores.own.file(FileName.clean)) }
    try stores.expectSaved(leftOut: count)
  }

  /// What is left of the segment that the log ended in.
  enum LeftOfLast: CaseIterable { case cut, cutWithoutHeader, nothing, noFile }

  private func damage(_ left: LeftOfLast, _ path: String) throws {
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path)).prefix(9000)
    switch left {
    case .cut: break
    case .cutWithoutHeader: bytes.replaceSubrange(..<4096, with: Data(count: 4096))
    case .nothing: bytes = Data()
    case .noFile: return try FileManager.default.removeItem(atPath: path)
    }
    try bytes.write(to: URL(fileURLWithPath: path))
  }

  @Test(
    "a copy's segment behind the end that clean and tail tell is never the store's, whatever is left of the last segment",
    arguments: [[], [FileName.clean], [FileName.tail]], LeftOfLast.allCases)
  func behindDamagedEnd(missing: [String], left: LeftOfLast) async throws {
    for (strayNumber, isIndexed) in [(0, false), (1, true), (2, false)] {
      let stores = try await Diverged(otherCount: 700)
      let last = try #require(stores.own.names(".log").last)
      let lastBase = try #require(FileName.baseOffset(last, suffix: ".log"))
      let stray = stores.other.names(".log").filter { $0 > last }[strayNumber]
      try damage(left, stores.own.file(last))
      try stores.mix(stray)
      if isIndexed {
        for name in stores.other.names(".idx") where !stores.own.names(".idx").contains(name) { try stores.mix(name) }
      }
      for name in missing { try FileManager.default.removeItem(atPath: stores.own.file(name)) }
      let target = TemporaryDirectory()
      var keeping: [String] = []
      if let mark = [FileName.clean, FileName.tail].first(where: { !missing.contains($0) }), !missing.isEmpty {
        var histories: [RepairHistory] = []
        await expectThrows({
          guard case .repairUndecided(_, let found) = $0 else { return false }
          histories = found
          return true
        }) { () throws(LogStoreError) in _ = try LogStore.repair(stores.own.path, to: target.path) }
        #expect(histories.map { fileName(of: $0.keeping) } == [stray, mark])
        #expect(!FileManager.default.fileExists(atPath: target.path))
        let other = TemporaryDirectory()
        let report = try LogStore.repair(stores.own.path, to: other.path, keeping: [stray])
        #expect(report.leftOut.isEmpty, "\(report.leftOut)")
        #expect(try LogReader.open(other.path).events(from: 0, limit: .max).last?.type == "copy")
        keeping = [mark]
      }
      let report = try LogStore.repair(stores.own.path, to: target.path, keeping: keeping)
      let saved = try LogReader.open(target.path).events(from: 0, limit: .max)
      #expect(!saved.contains { $0.type == "copy" })
      #expect(saved.filter { $0.offset < lastBase } == stores.events.filter { $0.offset < lastBase })
      #expect(report.leftOut.map { fileName(of: $0.file) } == [stray])
      #expect(report.endOffset == 500 && report.missing.last?.offsets.upperBound == 500, "\(report.missing)")
      #expect(report.missing.allSatisfy { $0.events.isEmpty })
      guard missing.isEmpty else { continue }
      _ = try DamagedLog(stores.own.path).forEach { event in
        #expect(event.offset < 500)
        return true
      }
    }
  }

  @Test("segments that go on behind an older clean and tail are the store's")
  func olderMarks() async throws {
    let stores = try await Diverged()
    let marks = try [FileName.clean, FileName.tail].map {
      ($0, try Data(contentsOf: URL(fileURLWithPath: stores.own.file($0))))
    }
    try await Diverged.fill(stores.own.path, "more", 300)
    let events = try LogReader.open(stores.own.path).events(from: 0, limit: .max)
    for (name, bytes) in marks { try bytes.write(to: URL(fileURLWithPath: stores.own.file(name))) }
    let target = TemporaryDirectory()
    let report = try LogStore.repair(stores.own.path, to: target.path)
    #expect(report.leftOut.isEmpty && report.missing.isEmpty)
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }

  @Test(
    "all segments that were begun since the close that an older tail tells of are the store's, without a clean mark too"
  )
  func olderTail() async throws {
    let directory = TemporaryDirectory()
    let tail = directory.file(FileName.tail)
    try await Diverged.fill(directory.path, "before", 60)
    let older = try Data(contentsOf: URL(fileURLWithPath: tail))
    let store = try LogStore.open(directory.path, options: smallSegments())
    // Each fills a segment of its own.
    for _ in 0..<4 { try await store.append(Append(event("a", String(repeating: "y", count: 60_000)))) }
    try await store.close()
    let events = try LogReader.open(directory.path).events(from: 0, limit: .max)
    // As a power cut may leave them.
    try older.write(to: URL(fileURLWithPath: tail))
    for name in directory.names(".idx") + [FileName.clean] {
      try FileManager.default.removeItem(atPath: directory.file(name))
    }
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.leftOut.isEmpty && report.missing.isEmpty, "\(report.leftOut)")
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }

  @Test("a segment behind one whose last frames can't be read is the store's, though an older tail ends before them")
  func olderTailBeforeUnreadable() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    for size in [20_000, 20_000] { try await store.append(Append(event("a", String(repeating: "y", count: size)))) }
    // As a writer publishes it while it goes on.
    let older = try Data(contentsOf: URL(fileURLWithPath: directory.file(FileName.tail)))
    let notice = try #require(older.withUnsafeBytes { TailNotice($0) })
    #expect(notice.state == .open && notice.end.offset == 2)
    for size in [10_000, 60_000] { try await store.append(Append(event("a", String(repeating: "y", count: size)))) }
    try await store.close()
    let events = try LogReader.open(directory.path).events(from: 0, limit: .max)
    let first = directory.file(FileName.segment(0))
    try edit(first) { bytes in
      // The segment's last frame.
      let end = bytes.withUnsafeBytes { $0.countWithoutTrailingZeros }
      for byte in notice.end.position..<end { bytes[byte] = 0xAA }
    }
    try older.write(to: URL(fileURLWithPath: directory.file(FileName.tail)))
    for name in directory.names(".idx") + [FileName.clean] {
      try FileManager.default.removeItem(atPath: directory.file(name))
    }
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.leftOut.isEmpty, "\(report.leftOut)")
    #expect(report.missing.map(\.offsets) == [2..<3])
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events.filter { $0.offset != 2 })
  }

  @Test(
    "a copy's shorter segment that replaced the store's own is left out: the index file lists other events",
    arguments: [nil, FileName.clean, FileName.tail], [true, false])
  func shorterSwapped(missing: String?, hasNextHeader: Bool) async throws {
    let own = TemporaryDirectory()
    let other = TemporaryDirectory()
    func fill(_ path: String, _ type: String, _ count: Int, _ size: Int) async throws {
      let store = try LogStore.open(path, options: smallSegments())
      for index in 0..<count {
        try await store.append(Append(event("s\(index % 7)", String(repeating: "x", count: size), type: type)))
      }
      try await store.waitUntilIndexed()
      try await store.close()
    }
    try await fill(own.path, "shared", 300, 200)
    try FileManager.default.copyItem(atPath: own.path, toPath: other.path)
    // Larger events leave more room at a segment's end.
    try await fill(other.path, "copy", 60, 9_000)
    try await fill(own.path, "mine", 900, 200)
    let stores = Diverged(own: own, other: other)
    let name = own.names(".log")[1]
    try stores.mix(name)
    if let missing { try FileManager.default.removeItem(atPath: own.file(missing)) }
    let bases = own.names(".log").compactMap { FileName.baseOffset($0, suffix: ".log") }
    if !hasNextHeader { try edit(own.file(FileName.segment(bases[2]))) { for byte in 0..<512 { $0[byte] = 0 } } }
    let target = TemporaryDirectory()
    let report = try LogStore.repair(own.path, to: target.path)
    #expect(report.leftOut.map { fileName(of: $0.file) } == [name])
    #expect(report.missing.map(\.offsets) == [bases[1]..<bases[2]])
    #expect(!(try LogReader.open(target.path).events(from: 0, limit: .max).contains { $0.type == "copy" }))
  }

  @Test("a copy's segment that replaced the store's own is a gap, and not taken for it")
  func swapped() async throws {
    let stores = try await Diverged()
    let names = stores.own.names(".log")
    for (number, name) in names.enumerated() {
      let own = try Data(contentsOf: URL(fileURLWithPath: stores.own.file(name)))
      try stores.mix(name)
      guard try Data(contentsOf: URL(fileURLWithPath: stores.own.file(name))) != own else { continue }
      let base = try #require(FileName.baseOffset(name, suffix: ".log"))
      let end = number + 1 < names.count ? FileName.baseOffset(names[number + 1], suffix: ".log") : 500
      try stores.expectSaved(without: base..<(try #require(end)), leftOut: 1)
      try own.write(to: URL(fileURLWithPath: stores.own.file(name)))
    }
  }

  @Test("an index file or a record of the end of another history cuts no sound event off")
  func smallFiles() async throws {
    let stores = try await Diverged(otherCount: 330)
    for name in stores.other.names(".idx") { try stores.mix(name) }
    try stores.mix(FileName.clean)
    let target = TemporaryDirectory()
    _ = try LogStore.repair(stores.own.path, to: target.path)
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == stores.events)
  }

  /// The names of segments that the copies have both, with other events.
  private func differing(_ stores: Diverged) throws -> [String] {
    try stores.own.names(".log").filter { name in
      let other = try? Data(contentsOf: URL(fileURLWithPath: stores.other.file(name)))
      return try other != nil && other != Data(contentsOf: URL(fileURLWithPath: stores.own.file(name)))
    }
  }

  /// Overwrites a segment and the index files of it alone.
  private func overwrite(_ name: String, in stores: Diverged) throws {
    try stores.mix(name)
    for index in stores.other.names(".idx") where index.hasPrefix(name.dropLast(4)) { try stores.mix(index) }
  }

  @Test(
    "segments and index files of a copy over the store's own ones are left out: tail or clean decides whose the end is",
    arguments: [["clean"], ["tail"], []])
  func overwritten(missing: [String]) async throws {
    let stores = try await Diverged(otherCount: 700)
    for name in missing { try FileManager.default.removeItem(atPath: stores.own.file(name)) }
    let names = try differing(stores)
    #expect(names.count > 3)
    for name in names.dropLast(2) { try overwrite(name, in: stores) }
    let bases = names.compactMap { FileName.baseOffset($0, suffix: ".log") }
    let lost = bases[0]..<bases[names.count - 2]
    let target = TemporaryDirectory()
    let report = try LogStore.repair(stores.own.path, to: target.path)
    let saved = try LogReader.open(target.path).events(from: 0, limit: .max)
    #expect(!saved.contains { $0.type == "copy" && $0.offset >= bases[1] })
    #expect(saved.filter { !lost.contains($0.offset) } == stores.events.filter { !lost.contains($0.offset) })
    #expect(report.leftOut.count >= names.count - 3, "\(report.leftOut)")
  }

  @Test(
    "where neither clean nor tail decides whose files are whose, nothing is created, and each history can be requested")
  func undecided() async throws {
    let stores = try await Diverged(otherCount: 700)
    for name in [FileName.clean, FileName.tail] { try FileManager.default.removeItem(atPath: stores.own.file(name)) }
    let names = try differing(stores)
    for name in names.dropLast(2) { try overwrite(name, in: stores) }
    let before = DamageableStore.contents(stores.own.path)
    let target = TemporaryDirectory()
    var histories: [RepairHistory] = []
    await expectThrows({
      guard case .repairUndecided(_, let found) = $0 else { return false }
      histories = found
      return true
    }) { () throws(LogStoreError) in
      _ = try LogStore.repair(stores.own.path, to: target.path)
    }
    #expect(histories.count == 2, "\(histories)")
    #expect(!FileManager.default.fileExists(atPath: target.path))
    #expect(DamageableStore.contents(stores.own.path) == before)
    let firstOwn = try #require(FileName.baseOffset(names[names.count - 2], suffix: ".log"))
    var hadOwn = 0
    var hadOther = 0
    for history in histories {
      let made = TemporaryDirectory()
      let report = try LogStore.repair(stores.own.path, to: made.path, keeping: [history.keeping])
      #expect(!report.leftOut.isEmpty)
      let saved = try LogReader.open(made.path).events(from: 0, limit: .max)
      if saved.suffix(10) == stores.events.suffix(10) {
        hadOwn += 1
        #expect(saved.filter { $0.offset >= firstOwn } == stores.events.filter { $0.offset >= firstOwn })
      } else {
        hadOther += 1
        #expect(saved.contains { $0.type == "copy" })
      }
    }
    #expect(hadOwn == 1 && hadOther == 1)
  }

  @Test(
    "all segments replaced by a copy's, with clean and tail that name others, are not accepted silently"
  )
  func allOverwritten() async throws {
    let stores = try await Diverged()
    for name in stores.other.names(".log") + stores.other.names(".idx") { try stores.mix(name) }
    for name in stores.own.names(".log") where !stores.other.names(".log").contains(name) {
      try FileManager.default.removeItem(atPath: stores.own.file(name))
    }
    let target = TemporaryDirectory()
    await expectThrows({ if case .repairUndecided(_, let found) = $0 { found.count == 2 } else { false } }) {
      () throws(LogStoreError) in
      _ = try LogStore.repair(stores.own.path, to: target.path)
    }
    _ = try LogStore.repair(stores.own.path, to: target.path, keeping: [stores.other.names(".log")[8]])
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max).last?.type == "copy")
    await expectThrows({ if case .repairRefused = $0 { true } else { false } }) { () throws(LogStoreError) in
      _ = try LogStore.repair(stores.own.path, to: target.path + "2", keeping: ["nothing.log"])
    }
  }

  @Test("the record of the end, and the index files, of a longer copy make no gap behind the end of the log")
  func phantomGap() async throws {
    for hasClean in [true, false] {
      let stores = try await Diverged(otherCount: 700)
      for name in stores.other.names(".idx") where !stores.own.names(".idx").contains(name) { try stores.mix(name) }
      if !hasClean { try stores.mix(FileName.clean) }
      let target = TemporaryDirectory()
      let report = try LogStore.repair(stores.own.path, to: target.path)
      #expect(report.endOffset == 500 && report.missing.isEmpty, "\(report.missing)")
      #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == stores.events)
    }
  }

  @Test("a copy's segment that fills a hole, and is younger than what stands behind it, is left out")
  func youngerInHole() async throws {
    let stores = try await Diverged()
    let names = try differing(stores)
    let lost = Array(names[1...3])
    for name in lost { try FileManager.default.removeItem(atPath: stores.own.file(name)) }
    for index in stores.own.names(".idx") { try FileManager.default.removeItem(atPath: stores.own.file(index)) }
    try stores.mix(lost[1])
    let first = try #require(FileName.baseOffset(lost[0], suffix: ".log"))
    let end = try #require(FileName.baseOffset(names[4], suffix: ".log"))
    try stores.expectSaved(without: first..<end, leftOut: 1)
  }

  @Test(
    "a segment that lost its last frames, of cursors alone, keeps its events, or is asked for",
    arguments: [true, false])
  func lostCursorFrames(isIndexed: Bool) async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    for number in 0..<21 { try await store.append(Append(event("a", String(repeating: "x", count: 901 + number)))) }
    var checkpoint: UInt64 = 0
    while directory.names(".log").count < 2, checkpoint < 10_000 {
      checkpoint += 1
      let commit = CursorCommit(name: String(repeating: "c", count: 250), checkpoint: checkpoint % 20, isReset: true)
      try await store.append(Append([], cursors: [commit]))
    }
    try await store.append(Append(event("a", "behind")))
    try await store.waitUntilIndexed()
    let events = try store.reader.events(from: 0, limit: .max)
    try await store.close()
    let first = directory.file(FileName.segment(0))
    let id = try #require(try SalvageSource(directory.path, disk: RealDisk())).store.storeID
    let segment = try Segment.open(first, baseOffset: 0, storeID: id, disk: RealDisk())
    var next = segment.start
    var position = 0
    while let header = try? segment.checkFrame(next, visit: { _ in }) {
      next.advance(past: header)
      if header.eventCount > 0 { position = next.position }
    }
    #expect(position % 512 != 0 && position < next.position)
    var bytes = try Data(contentsOf: URL(fileURLWithPath: first))
    bytes.replaceSubrange(position..., with: Data(count: bytes.count - position))
    try bytes.write(to: URL(fileURLWithPath: first))
    let target = TemporaryDirectory()
    if !isIndexed {
      for name in directory.names(".idx") { try FileManager.default.removeItem(atPath: directory.file(name)) }
      await expectThrows({ if case .repairUndecided = $0 { true } else { false } }) { () throws(LogStoreError) in
        _ = try LogStore.repair(directory.path, to: target.path)
      }
    }
    let report = try LogStore.repair(
      directory.path, to: target.path, keeping: isIndexed ? [] : [FileName.segment(0)])
    #expect(report.leftOut.isEmpty)
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }

  @Test("an empty segment beside the unfinished one that was to replace it is one history with it")
  func unfinishedSuccessor() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    for _ in 0..<5 { try await store.append(Append(event("a", "before"))) }
    let events = try store.reader.events(from: 0, limit: .max)
    try await store.close()
    let other = TemporaryDirectory()
    try FileManager.default.copyItem(atPath: directory.path, toPath: other.path)
    let name = FileName.segment(5)
    for (path, byteCount) in [(directory.path, 80_000), (other.path, 120_000)] {
      let store = try LogStore.open(path, options: smallSegments())
      try await store.append(Append(event("a", String(repeating: "x", count: byteCount))))
      try await store.close()
      // As before its first append: the header, and the first frame with the cursors.
      let file = URL(fileURLWithPath: path + "/" + name)
      var bytes = try Data(contentsOf: file)
      let start = SegmentHeader.byteCount + FrameHeader.byteCount
      bytes.replaceSubrange(start..., with: Data(count: bytes.count - start))
      try bytes.write(to: file)
    }
    try FileManager.default.copyItem(atPath: other.file(name), toPath: directory.file(FileName.next))
    for name in [FileName.clean, FileName.tail] { try FileManager.default.removeItem(atPath: directory.file(name)) }
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.leftOut.isEmpty, "\(report.leftOut)")
    #expect(try LogReader.open(target.path).events(from: 0, limit: .max) == events)
  }
}
