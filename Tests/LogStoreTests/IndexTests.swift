import Foundation
import Glibc
import Synchronization
import Testing

@testable import LogStore

@Suite struct IndexTests {
  let directory = TemporaryDirectory()

  @Test("merging keeps at most seven files of a level, whatever the number of segments")
  func mergePlan() {
    var files: [Int] = []
    var written = 0
    for segments in 1...5000 {
      files.append(1)
      while let range = MergePlan.next(files) {
        #expect(range.count > 1)
        written += files[range].reduce(0, +)
        files.replaceSubrange(range, with: [files[range].reduce(0, +)])
      }
      #expect(files.reduce(0, +) == segments)
      for level in 0...4 { #expect(files.count { MergePlan.level($0) == level } <= 7) }
    }
    // Each segment is written once for each level.
    #expect(written <= 5000 * 4)
  }

  @Test("files made late, between larger ones, are merged into them")
  func mergePlanAfterDamage() {
    var generator = SeededGenerator.printed()
    for _ in 0..<200 {
      var files = (0..<Int.random(in: 1...60, using: &generator)).map { _ in
        [1, 1, 1, 3, 8, 9, 20, 64, 100].randomElement(using: &generator) ?? 1
      }
      let sum = files.reduce(0, +)
      var steps = 0
      while let range = MergePlan.next(files) {
        #expect(range.count > 1)
        files.replaceSubrange(range, with: [files[range].reduce(0, +)])
        steps += 1
        #expect(steps < 200)
      }
      #expect(files.reduce(0, +) == sum)
      for level in 0...4 { #expect(files.count { MergePlan.level($0) == level } <= 7) }
    }
  }

  @Test("a filter lacks no key that was put in, and lets few others pass", arguments: [1, 47, 1000, 100_000])
  func filter(keyCount: Int) {
    var generator = SeededGenerator.printed()
    let lineCount = IndexFilter.lineCount(keyCount: keyCount)
    var lines = [UInt8](repeating: 0, count: lineCount * IndexFilter.lineByteCount)
    let keys = (0..<keyCount).map { _ in UInt64.random(in: 0...IndexKey.greatest, using: &generator) }
    func isIn(_ key: UInt64) -> Bool {
      lines.withUnsafeBufferPointer { lines in
        IndexFilter.mayContain(
          key,
          in: lines.baseAddress! + IndexFilter.line(key, lineCount: lineCount) * IndexFilter.lineByteCount)
      }
    }
    for key in keys {
      lines.withUnsafeMutableBufferPointer { lines in
        IndexFilter.insert(
          key, into: lines.baseAddress! + IndexFilter.line(key, lineCount: lineCount) * IndexFilter.lineByteCount)
      }
    }
    #expect(keys.allSatisfy(isIn))
    // Lines ascend with keys, as a writer needs.
    let inOrder = keys.sorted().map { IndexFilter.line($0, lineCount: lineCount) }
    #expect(inOrder == inOrder.sorted() && inOrder.allSatisfy((0..<lineCount).contains))
    let passing = (0..<20_000).count { _ in isIn(UInt64.random(in: 0...IndexKey.greatest, using: &generator)) }
    #expect(passing < 20_000 / 80)
  }

  @Test("streams, versions, ids and offsets are found before, while and after files are merged, and when opened again")
  func againstModel() async throws {
    var generator = SeededGenerator.printed()
    var model = IndexModel()
    var store = try LogStore.open(directory.path, options: smallSegments())
    for round in 0..<6 {
      try await model.append(3000, to: store, &generator)
      #expect(try model.check(store.reader, lookUps: 40, &generator) == nil)
      if round % 2 == 0 {
        try await store.waitUntilIndexed()
        #expect(directory.isIndexed)
        #expect(MergePlan.next(directory.indexedSegmentCounts) == nil)
        #expect(try model.check(store.reader, lookUps: 40, &generator) == nil)
      }
      if round == 3 {
        try await store.close()
        let reader = try LogReader.open(directory.path)
        #expect(try model.check(reader, lookUps: 40, &generator) == nil)
        reader.close()
        store = try LogStore.open(directory.path, options: smallSegments())
        #expect(try model.check(store.reader, lookUps: 40, &generator) == nil)
      }
    }
    try await store.waitUntilIndexed()
    #expect(directory.names(".log").count > 30)
    #expect(directory.indexedSegmentCounts.contains { $0 >= 8 })
    #expect(directory.indexedSegmentCounts.count <= 14)
    #expect(directory.names(".tmp").filter { $0.contains(".idx") }.isEmpty)
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
    // A rebuild gives the same files.
    let files = directory.names(".idx")
    let contents = try files.map { try content(directory.file($0)) }
    let made = try LogStore.reindex(directory.path)
    #expect(directory.names(".idx") == files)
    #expect(try files.map { try content(directory.file($0)) } == contents)
    #expect(made.indexBytes == UInt64(contents.reduce(0) { $0 + $1.count }))
  }

  /// A closed store with eight finished segments in one index file, and some more.
  func makeMerged(_ generator: inout SeededGenerator) async throws -> IndexModel {
    var model = IndexModel()
    let store = try LogStore.open(directory.path, options: smallSegments())
    while directory.names(".log").count < 11 { try await model.append(100, to: store, &generator) }
    try await store.waitUntilIndexed()
    try await store.close()
    #expect(directory.indexedSegmentCounts.first == 8)
    return model
  }

  @Test(
    "an index file that is deleted, cut or garbled anywhere costs nothing, is named by verify, and is rebuilt by the next writer"
  )
  func damage() async throws {
    var generator = SeededGenerator.printed()
    let model = try await makeMerged(&generator)
    let path = directory.file(try #require(directory.names(".idx").first))
    let sound = try content(path)
    let header = try sound.withUnsafeBytes { try IndexHeader($0) }
    // One byte of every part: header, segments, blocks, padding, tables, filters.
    var positions = [0, 9, 12, 17, 33, 41, 49, 57, 64, 68, 100, 150, 170, 180, sound.count - 1]
    for section in header.sections {
      positions += [section.blocksPosition, section.blocksPosition + 5, section.blocksPosition + 9]
      positions += [section.blocksPosition + 60, section.tablePosition, section.tablePosition + 20]
    }
    for section in header.sections.dropFirst() { positions += [section.filterPosition, section.filterPosition + 61] }
    positions += (0..<20).map { _ in Int.random(in: 0..<sound.count, using: &generator) }
    for position in positions {
      try edit(path) { $0[position] ^= 1 << UInt8.random(in: 0..<8, using: &generator) }
      let reader = try LogReader.open(directory.path)
      #expect(try model.check(reader, lookUps: 10, &generator) == nil, "byte \(position)")
      reader.close()
      #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path }, "byte \(position)")
      try edit(path) { $0 = sound }
    }
    for length in [
      0, 7, 100, header.sections[1].blocksPosition + 3, header.sections[1].filterPosition, sound.count - 1,
    ] {
      try edit(path) { $0 = Array(sound[..<length]) }
      let reader = try LogReader.open(directory.path)
      #expect(try model.check(reader, lookUps: 10, &generator) == nil, "\(length) bytes")
      reader.close()
      #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path }, "\(length) bytes")
    }
    // Lines without a bit, which deny every key.
    try edit(path) { bytes in
      bytes = sound
      for line in stride(from: header.sections[1].filterPosition, to: bytes.count, by: IndexFilter.lineByteCount) {
        for index in line..<line + IndexFilter.bitsByteCount { bytes[index] = 0 }
      }
    }
    do {
      let reader = try LogReader.open(directory.path)
      #expect(try model.check(reader, lookUps: 10, &generator) == nil)
      reader.close()
    }
    for change in 0..<3 {
      switch change {
      case 0: try FileManager.default.removeItem(atPath: path)
      case 1: try edit(path) { $0 = Array(sound[..<5000]) }
      default: try edit(path) { for index in stride(from: 200, to: $0.count, by: 97) { $0[index] ^= 0x11 } }
      }
      let store = try LogStore.open(directory.path, options: smallSegments())
      // A query sees damage in a block only if it reads the block.
      #expect(try model.check(store.reader, lookUps: 30, &generator) == nil)
      try await store.waitUntilIndexed()
      #expect(try model.check(store.reader, lookUps: 10, &generator) == nil)
      try await store.close()
      #expect(try content(path) == sound)
      #expect(try LogStore.verify(directory.path).findings == [])
    }
  }

  @Test("a filter line that names another block costs time only, and verify finds it")
  func strayLines() async throws {
    var generator = SeededGenerator.printed()
    let model = try await makeMerged(&generator)
    let path = directory.file(try #require(directory.names(".idx").first))
    let sound = try content(path)
    let header = try sound.withUnsafeBytes { try IndexHeader($0) }
    for number in [0, 1, .max, nil] as [UInt32?] {
      try edit(path) { bytes in
        bytes.withUnsafeMutableBytes { bytes in
          for section in [IndexSection.streams, .eventIDs] {
            let found = header.sections[section.rawValue]
            #expect(found.blockCount > 3)
            for line in 0..<found.lineCount {
              let at = found.filterPosition + line * IndexFilter.lineByteCount
              let block = number ?? UInt32.random(in: 0..<UInt32(found.blockCount), using: &generator)
              bytes.set(block, at: at + IndexFilter.blockNumberPosition)
              bytes.set(UInt32.random(in: 0...(.max), using: &generator), at: at + IndexFilter.blockPositionPosition)
              let checked = UnsafeRawBufferPointer(bytes).part(at, IndexFilter.checkedByteCount)
              bytes.set(
                header.checksumSeed.checksum(of: checked, kind: section.lineKind, at: at),
                at: at + IndexFilter.checkedByteCount)
            }
          }
        }
      }
      let reader = try LogReader.open(directory.path)
      let files = try reader.commitPoint.segments.current().files.map(ObjectIdentifier.init)
      #expect(try model.check(reader, lookUps: 60, &generator) == nil)
      #expect(try reader.commitPoint.segments.current().files.map(ObjectIdentifier.init) == files)
      reader.close()
      #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path })
      try edit(path) { $0 = sound }
    }
  }

  @Test(
    "a merged file with right checksums that leads to other events is detected and rebuilt",
    arguments: ["positions", "versions", "frames", "ids"])
  func lyingFile(about what: String) async throws {
    var generator = SeededGenerator.printed()
    let model = try await makeMerged(&generator)
    let name = try #require(directory.names(".idx").first)
    let sound = try content(directory.file(name))
    do {
      let reader = try LogReader.open(directory.path)
      let segments = reader.commitPoint.segments
      let range = try #require(FileName.indexRange(name))
      var parts: [IndexFile] = []
      for base in segments.bases where range.contains(base) {
        let segment = try segments.segment(base)
        let (index, end) = try segments.readThrough(segment)
        var input = index.state.withLock { $0.sealingInput() }
        if base != range.lowerBound {
          switch what {
          case "positions": input.positions.reverse()
          case "versions": for index in input.streams.indices { input.streams[index].firstVersion += 1 }
          case "frames": input.frames = input.frames.suffix(1).map { (0, $0.position) }
          default: input.ids = input.ids.map { ($0.hash, max($0.ordinal, 1) - 1) }.filter { $0.1 < 50 }
          }
        }
        let output = IndexOutput(nil)
        _ = try IndexEncoding.encode(input, of: segment, end: end, to: output)
        parts.append(
          try IndexFile(
            output.takeMemory(), path: "part", storeID: segments.storeID, baseOffset: base, endOffset: end.offset))
      }
      let output = IndexOutput(nil)
      _ = try IndexMerge.merge(parts, to: output)
      let made = output.takeMemory()
      try edit(directory.file(name)) { $0 = withExtendedLifetime(made) { Array(made.bytes) } }
      reader.close()
    }
    // A missing id shows only in the count. The queries here are for streams and offsets.
    var withoutIDs = model
    if what == "ids" { for index in withoutIDs.entries.indices { withoutIDs.entries[index].id = nil } }
    let reader = try LogReader.open(directory.path)
    let found = try withoutIDs.check(reader, lookUps: 30, countsStreams: what != "versions", &generator)
    #expect(found == nil)
    reader.close()
    let store = try LogStore.open(directory.path, options: smallSegments())
    let foundByWriter = try withoutIDs.check(store.reader, lookUps: 60, countsStreams: what != "versions", &generator)
    #expect(foundByWriter == nil)
    try await store.waitUntilIndexed()
    try await store.close()
    if what != "ids" { #expect(try content(directory.file(name)) == sound) }
  }

  @Test("streams with the same hash are distinguished, in the open segment, in a file and in a merged one")
  func equalHashes() async throws {
    // Known collisions of FNV-1a with 64 bits.
    let streams = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"]
    #expect(StreamKey(Array(streams[0].utf8)).hash == StreamKey(Array(streams[1].utf8)).hash)
    var generator = SeededGenerator.printed()
    for _ in 0..<5 {
      let directory = TemporaryDirectory()
      var model = IndexModel()
      let store = try LogStore.open(directory.path, options: smallSegments())
      while directory.names(".log").count < 20 {
        // Some segments have only one of the two streams, so that the other seems to continue it.
        let chosen = [0, 1].filter { _ in Int.random(in: 0..<4, using: &generator) == 0 }
        for _ in 0..<8 {
          var events = (0..<20).map { _ in event("other-\(Int.random(in: 0..<50, using: &generator))", filler) }
          for stream in chosen where Bool.random(using: &generator) { events.append(event(streams[stream], filler)) }
          _ = try await store.appendBuffered(Append(events))
          model.add(events)
        }
      }
      try await store.flush()
      var isIndexed = false
      for _ in 0..<2 {
        let files = try store.reader.commitPoint.segments.current().files
        for stream in streams {
          let all = model.offsets[stream] ?? []
          #expect(try store.reader.streamVersion(stream) == UInt64(all.count))
          #expect(try store.reader.stream(stream).map(\.offset) == all)
          for version in 1...max(all.count, 1) {
            #expect(
              try store.reader.stream(stream, from: UInt64(version), limit: 3).map(\.offset)
                == Array(all.dropFirst(version - 1).prefix(3)))
          }
        }
        // No file was taken for damaged.
        let kept = try store.reader.commitPoint.segments.current().files
        if isIndexed { #expect(kept.map(ObjectIdentifier.init) == files.map(ObjectIdentifier.init)) }
        try await store.waitUntilIndexed()
        isIndexed = true
      }
      #expect(try model.check(store.reader, lookUps: 20, &generator) == nil)
      try await store.close()
      #expect(try LogStore.verify(directory.path).findings == [])
    }
  }

  private let filler = String(repeating: "f", count: 150)

  @Test("readers of this process and of others find everything while files are merged and removed")
  func readersBesideMerging() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("first")))
    let other = try LogReader.open(directory.path)
    let isDone = Atomic(false)
    let written = Mutex<[String: Int]>([:])
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (reader, isBehind) in [(store.reader, false), (other, true)] {
        group.addTask { @Sendable in
          var generator = SeededGenerator.printed()
          while !isDone.load(ordering: .acquiring) {
            let written = written.withLock { $0 }
            let (stream, count) = written.randomElement(using: &generator) ?? ("first", 1)
            let found = try reader.stream(stream)
            #expect(found.map(\.version) == (0..<found.count).map { UInt64($0 + 1) })
            // The other process's reader may lag.
            if !isBehind { #expect(found.count >= count, "\(stream)") }
            #expect(try reader.streamVersion(stream) >= UInt64(found.count))
            let offset = UInt64.random(in: 0..<reader.endOffset, using: &generator)
            #expect(try reader.events(from: offset, limit: 1).map(\.offset) == [offset])
            await Task.yield()
          }
        }
      }
      var generator = SeededGenerator.printed()
      while directory.names(".log").count < 80 {
        let streams = (0..<30).map { _ in "s\(Int.random(in: 0..<500, using: &generator))" }
        _ = try await store.append(Append(streams.map { event($0, filler) }))
        written.withLock { written in for stream in streams { written[stream, default: 0] += 1 } }
      }
      try await store.waitUntilIndexed()
      isDone.store(true, ordering: .releasing)
      try await group.waitForAll()
    }
    #expect(directory.indexedSegmentCounts.contains { $0 >= 64 })
    #expect(try await other.waitForEvents(at: store.reader.endOffset - 1))
    for (stream, count) in written.withLock({ $0 }) { #expect(try other.stream(stream).count == count) }
    other.close()
    try await store.close()
  }

  @Test(
    "a crash at any operation of building, merging and removing leaves what can be read and finished, and loses no index",
    arguments: [false, true])
  func crashes(isBuilt: Bool) async throws {
    var generator = SeededGenerator.printed()
    let origin = SimulatedDisk()
    var model = IndexModel()
    do {
      // Only the files of the first segments can be written here, so that much work is left.
      origin.setFault { _, operation, path in
        operation == .create && path.hasSuffix(".idx.tmp") && !path.contains("/00000000000000000000-")
          ? .error(EIO) : nil
      }
      let store = try LogStore.open("d", options: smallSegments(), disk: origin)
      while try origin.list("d").count(where: { $0.hasSuffix(".log") }) < 10 {
        try await model.append(100, to: store, &generator)
      }
      try? await store.waitUntilIndexed()
      try await store.close()
      origin.setFault(nil)
      if isBuilt { try finishIndexes(origin, merging: false) }
    }
    var operation = 0
    var isFinished = false
    while !isFinished {
      operation += 1
      let dieAt = operation
      let disk = origin.afterKill()
      disk.setFault { number, _, _ in number >= dieAt ? .death : nil }
      do throws(LogStoreError) {
        try finishIndexes(disk)
        isFinished = true
      } catch {
        #expect(disk.isDead)
      }
      for after in [disk.afterKill(), disk.afterPowerCut(&generator), disk.afterPowerCut(&generator)] {
        for _ in 0..<2 {
          if isBuilt { #expect(try missingIndexes(after) == 0, "operation \(operation)") }
          let (follower, commitPoint, recovery) = try Follower.open("d", disk: after)
          let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
          #expect(try model.check(reader, lookUps: 3, &generator) == nil, "operation \(operation)")
          reader.close()
          try finishIndexes(after)
        }
        #expect(try after.list("d").count { $0.hasSuffix(".idx") } == 2, "operation \(operation)")
      }
    }
    #expect(operation > (isBuilt ? 10 : 40))
  }

  @Test("an index file that can't be read stays until others cover its segments, and is used when it is well again")
  func unreadable() async throws {
    var generator = SeededGenerator.printed()
    let disk = SimulatedDisk()
    var model = IndexModel()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    try await model.append(4000, to: store, &generator)
    try await store.waitUntilIndexed()
    try await store.close()
    let before = try disk.list("d").filter { $0.hasSuffix(".idx") }.sorted()
    #expect(!before.isEmpty)

    // Nothing can be written to replace them either.
    disk.setLookFault { _, _, path in path.hasSuffix(".idx") ? .error(EIO) : nil }
    disk.setFault { _, _, path in path.hasSuffix(".idx.tmp") ? .error(ENOSPC) : nil }
    do throws(LogStoreError) { try finishIndexes(disk) } catch { #expect(error.finding == nil, "the disk is full") }
    #expect(try disk.list("d").filter { $0.hasSuffix(".idx") }.sorted() == before)
    disk.setLookFault(nil)
    #expect(try missingIndexes(disk) == 0)

    // Where other files can be written, they replace these.
    disk.setLookFault { _, _, path in before.contains { path.hasSuffix($0) } ? .error(EIO) : nil }
    disk.setFault(nil)
    try finishIndexes(disk, merging: false)
    disk.setLookFault(nil)
    #expect(try missingIndexes(disk) == 0)
    let after = try disk.list("d").filter { $0.hasSuffix(".idx") }
    #expect(!after.isEmpty)
    let reopened = try LogStore.open("d", options: smallSegments(), disk: disk)
    #expect(try model.check(reopened.reader, lookUps: 3, &generator) == nil)
    try await reopened.close()
  }

  /// Finished segments that no sound index file covers.
  func missingIndexes(_ disk: SimulatedDisk) throws(LogStoreError) -> Int {
    let (follower, commitPoint, _) = try Follower.open("d", disk: disk)
    defer { follower.stop() }
    return try commitPoint.segments.current().sources.count { $0.kind == .missing }
  }

  /// Builds and merges, as the writer's thread does.
  func finishIndexes(_ disk: SimulatedDisk, merging: Bool = true) throws(LogStoreError) {
    let (follower, commitPoint, _) = try Follower.open("d", disk: disk)
    defer { follower.stop() }
    let builder = IndexBuilder(segments: commitPoint.segments, disk: disk)
    try builder.clean()
    while let step = try builder.nextStep() {
      if case .merge = step, !merging { return }
      do throws(IndexFailure) {
        try builder.perform(step)
      } catch {
        if case .log(let error) = error { throw error }
        Issue.record("\(error)")
      }
    }
  }

  @Test("a full disk prevents only index files, and they are built when there is space")
  func diskFull() async throws {
    var generator = SeededGenerator.printed()
    let disk = SimulatedDisk()
    var model = IndexModel()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    disk.setFault { _, operation, path in operation == .write && path.hasSuffix(".idx.tmp") ? .error(ENOSPC) : nil }
    try await model.append(4000, to: store, &generator)
    await expectThrows({ if case .diskFull = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.waitUntilIndexed()
    }
    #expect(store.failure == nil)
    #expect(try model.check(store.reader, lookUps: 10, &generator) == nil)
    #expect(try disk.list("d").allSatisfy { !$0.contains(".idx") })
    disk.setFault(nil)
    try await model.append(1000, to: store, &generator)
    try await store.waitUntilIndexed()
    #expect(try model.check(store.reader, lookUps: 10, &generator) == nil)
    #expect(try !disk.list("d").allSatisfy { !$0.contains(".idx") })
    try await store.close()
    await expectThrows({ $0 == .closed }) { () async throws(LogStoreError) in try await store.waitUntilIndexed() }
  }

  @Test("a stream of many events in one segment is listed in several entries, and read whole and in parts")
  func longStreams() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments(1 << 20))
    let count = 60_000
    for start in stride(from: 0, to: count, by: 500) {
      _ = try await store.appendBuffered(
        Append((start..<start + 500).map { NewEvent(stream: "s\($0 % 3)", type: "t", payload: []) }))
    }
    try await store.flush()
    try await store.waitUntilIndexed()
    for number in 0..<3 {
      #expect(try store.reader.stream("s\(number)").map(\.version) == Array(1...20_000))
      #expect(try store.reader.streamVersion("s\(number)") == 20_000)
      for from in [1, 1023, 1024, 1025, 9_999, 19_990] {
        #expect(
          try store.reader.stream("s\(number)", from: UInt64(from), limit: 20).map(\.offset)
            == (from..<min(from + 20, 20_001)).map { UInt64(3 * ($0 - 1) + number) })
      }
    }
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  @Test(
    "index files of the format before, and of segments that are not there, are removed by the writer and mean nothing")
  func foreignFiles() async throws {
    var generator = SeededGenerator.printed()
    let model = try await makeMerged(&generator)
    let names = directory.names(".idx")
    let bases = directory.names(".log").map { String($0.dropLast(4)) }
    let foreign = ["\(bases[1]).idx", "\(bases[0])-00000000000000000001.idx", "x.idx", "\(bases[2])-\(bases[4]).idx"]
    for name in foreign { try Data(bytes("LSINDEX1 and so on")).write(to: URL(fileURLWithPath: directory.file(name))) }
    let reader = try LogReader.open(directory.path)
    #expect(try model.check(reader, lookUps: 20, &generator) == nil)
    reader.close()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await store.waitUntilIndexed()
    try await store.close()
    #expect(directory.names(".idx") == names)
  }
}
