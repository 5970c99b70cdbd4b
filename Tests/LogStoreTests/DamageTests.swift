import Foundation
import Testing

@testable import LogStore

/// Changes a file behind the store's back.
func edit(_ path: String, _ change: (inout [UInt8]) -> Void) throws {
  var content = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
  change(&content)
  try Data(content).write(to: URL(fileURLWithPath: path))
}

func content(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))) }

@Suite struct DamageTests {
  let directory = TemporaryDirectory()
  var segment0: String { directory.file("00000000000000000000.log") }

  /// A store with appended events, each in a frame of its own; closed, or left as a killed process leaves it.
  func makeStore(events: Int, closed: Bool) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for index in 0..<events {
      _ = try await store.append(Append(event("s\(index % 4)", String(repeating: "p", count: 200) + "\(index)")))
    }
    if closed {
      try await store.close()
    } else {
      try await abandon(store)
    }
  }

  /// Drops a store as a killed process does: without the record of a clean end.
  func abandon(_ store: LogStore) async throws {
    store.abandon()
    while !unlocked { await Task.yield() }
  }

  var unlocked: Bool { (try? RealDisk().lock(directory.file("lock"), exclusive: true)) != nil }

  func opens() async throws -> (events: Int, torn: Damage?) {
    let store = try LogStore.open(directory.path, options: smallSegments())
    let events = try store.reader.events(from: 0, limit: .max)
    let torn = store.recovery.tornTail
    _ = try await store.append(Append(event("after")))
    #expect(store.reader.endOffset == UInt64(events.count) + 1)
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
    return (events.count, torn)
  }

  func damage(_ body: () throws(LogStoreError) -> some Any) -> Damage? {
    do throws(LogStoreError) {
      _ = try body()
      return nil
    } catch .damaged(let damage) {
      return damage
    } catch {
      Issue.record("\(error)")
      return nil
    }
  }

  @Test("a flipped bit anywhere in the frames of a closed store is refused with file and byte, and nothing is changed")
  func flippedBits() async throws {
    try await makeStore(events: 20, closed: true)
    let sound = try content(segment0)
    let used = sound.withUnsafeBytes { $0.countWithoutTrailingZeros }
    var generator = SeededGenerator.printed()
    for _ in 0..<200 {
      let position = Int.random(in: 0..<used, using: &generator)
      let bit = UInt8(1) << UInt8.random(in: 0..<8, using: &generator)
      try edit(segment0) { $0[position] ^= bit }
      let damaged = try content(segment0)
      let writing = damage { () throws(LogStoreError) in try LogStore.open(directory.path) }
      let reading = damage { () throws(LogStoreError) in try LogReader.open(directory.path) }
      let findings = try LogStore.verify(directory.path).findings
      #expect(writing?.file == segment0, "byte \(position)")
      #expect(reading?.file == segment0, "byte \(position)")
      #expect(findings.contains { $0.file == segment0 }, "byte \(position)")
      if let writing { #expect(abs(Int(writing.position) - position) < 4096, "byte \(position): \(writing)") }
      #expect(try content(segment0) == damaged)
      try edit(segment0) { $0 = sound }
    }
    #expect(try LogStore.verify(directory.path).findings == [])
    #expect(try await opens().events == 20)
  }

  @Test("damage before the last frame is refused after a crash too, since a later frame proves that it was synced")
  func damageBeforeTheLastFrame() async throws {
    try await makeStore(events: 20, closed: false)
    let sound = try content(segment0)
    let frames = framePositions(sound)
    for position in [frames[1], frames[5] + 4, frames[10] + 60, frames[frames.count - 2] + 100] {
      try edit(segment0) { $0[position] ^= 0x40 }
      let found = damage { () throws(LogStoreError) in try LogStore.open(directory.path) }
      #expect(found?.file == segment0)
      #expect(damage { () throws(LogStoreError) in try LogReader.open(directory.path) } != nil)
      try edit(segment0) { $0 = sound }
    }
    let (events, torn) = try await opens()
    #expect(events == 20 && torn == nil)
  }

  @Test(
    "the last frame cut off after a crash is reported and the log goes on",
    arguments: ["shortened", "zeroed", "half", "flipped"])
  func tornLastFrame(how: String) async throws {
    try await makeStore(events: 20, closed: false)
    let frames = framePositions(try content(segment0))
    let last = try #require(frames.last)
    try edit(segment0) { bytes in
      switch how {
      case "shortened": bytes.removeLast(bytes.count - last - 30)
      case "zeroed": for index in last..<bytes.count { bytes[index] = 0 }
      case "half": for index in last + 64..<bytes.count { bytes[index] = 0 }
      default: bytes[last + 70] ^= 1
      }
    }
    let reader = try LogReader.open(directory.path)
    #expect(reader.endOffset == 19)
    #expect((reader.recovery.tornTail != nil) == (how != "zeroed"))
    reader.close()
    let (events, torn) = try await opens()
    #expect(events == 19)
    #expect((torn?.position == UInt64(last)) == (how != "zeroed"))
  }

  @Test("the same after a clean close is damage", arguments: ["shortened", "zeroed", "half", "flipped"])
  func cutAfterClose(how: String) async throws {
    try await makeStore(events: 20, closed: true)
    let last = try #require(framePositions(try content(segment0)).last)
    try edit(segment0) { bytes in
      switch how {
      case "shortened": bytes.removeLast(bytes.count - last - 30)
      case "zeroed": for index in last..<bytes.count { bytes[index] = 0 }
      case "half": for index in last + 64..<bytes.count { bytes[index] = 0 }
      default: bytes[last + 70] ^= 1
      }
    }
    let before = try content(segment0)
    #expect(damage { () throws(LogStoreError) in try LogStore.open(directory.path) }?.file == segment0)
    #expect(damage { () throws(LogStoreError) in try LogReader.open(directory.path) }?.file == segment0)
    #expect(try LogStore.verify(directory.path).findings.contains { $0.file == segment0 })
    #expect(try content(segment0) == before)
  }

  @Test(
    "an unfinished write with a hole and a valid frame behind it ends the log before the hole, and never comes back")
  func holeWithIsland() async throws {
    // Two frames written without a sync in between: after a power cut any subset of them may be left.
    let store = try LogStore.open(directory.path, options: smallSegments())
    for index in 0..<5 { _ = try await store.append(Append(event("s", "\(index)"))) }
    for index in 5..<8 { _ = try await store.appendBuffered(Append(event("s", "\(index)"))) }
    try await abandonUnsynced(store)
    let frames = framePositions(try content(segment0))
    #expect(frames.count == 9)
    try edit(segment0) { bytes in for index in frames[6]..<frames[7] { bytes[index] = 0 } }
    let reopened = try LogStore.open(directory.path, options: smallSegments())
    #expect(reopened.recovery.tornTail?.position == UInt64(frames[6]))
    #expect(reopened.reader.endOffset == 5)
    // A frame of the same length over the hole: the frame behind it must not continue it.
    _ = try await reopened.append(Append(event("s", "x")))
    try await abandon(reopened)
    #expect(
      try LogReader.open(directory.path).events(from: 0, limit: 99).map { String(decoding: $0.payload, as: UTF8.self) }
        == ["0", "1", "2", "3", "4", "x"])
  }

  /// Leaves the store with its buffered frames written, as a process that is killed before the sync.
  func abandonUnsynced(_ store: LogStore) async throws {
    let written = try content(segment0)
    try await abandon(store)
    try edit(segment0) { $0 = written }
  }

  @Test("a frame of another store, segment or position is damage")
  func swappedFiles() async throws {
    try await makeStore(events: 600, closed: true)
    let other = TemporaryDirectory()
    let store = try LogStore.open(other.path, options: smallSegments())
    for index in 0..<600 {
      _ = try await store.append(Append(event("s\(index % 4)", String(repeating: "p", count: 200) + "\(index)")))
    }
    try await store.close()
    let names = directory.names(".log")
    #expect(names.count > 2 && other.names(".log") == names)
    let paths = names.map(directory.file)
    let sound = try paths.map(content)
    // Another store's frames under our header.
    try edit(paths[1]) { bytes in
      guard let foreign = try? content(other.file(names[1])) else { return }
      bytes = Array(bytes[..<4096]) + foreign[4096...]
    }
    #expect(try LogStore.verify(directory.path).findings.contains { $0.file == paths[1] && $0.position == 4096 })
    try edit(paths[1]) { $0 = sound[1] }
    // The files of two segments, exchanged.
    try edit(paths[0]) { $0 = sound[1] }
    try edit(paths[1]) { $0 = sound[0] }
    #expect(damage { () throws(LogStoreError) in try LogStore.open(directory.path) } != nil)
    try edit(paths[0]) { $0 = sound[0] }
    try edit(paths[1]) { $0 = sound[1] }
    // A page moved within its segment.
    try edit(paths[0]) { $0.replaceSubrange(16384..<20480, with: sound[0][24576..<28672]) }
    let reader = try LogReader.open(directory.path)
    #expect(damage { () throws(LogStoreError) in try reader.events(from: 0, limit: .max) }?.file == paths[0])
    #expect(try reader.events(from: 300, limit: 10).count == 10)
    try edit(paths[0]) { $0 = sound[0] }
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  @Test("a segment that is missing, cut or empty is named")
  func missingSegments() async throws {
    try await makeStore(events: 1200, closed: true)
    let names = directory.names(".log")
    try #require(names.count > 4)
    for victim in [names[0], names[2], names[names.count - 1]] {
      let path = directory.file(victim)
      let sound = try content(path)
      for change in ["deleted", "cut", "empty"] {
        switch change {
        case "deleted": try FileManager.default.removeItem(atPath: path)
        case "cut": try edit(path) { $0.removeLast(5000) }
        default: try edit(path) { $0 = [] }
        }
        let found = damage { () throws(LogStoreError) in try LogStore.open(directory.path) }
        #expect(found != nil, "\(victim) \(change)")
        #expect(found.map { $0.file == path || change == "deleted" } ?? false, "\(victim) \(change): \(found!)")
        #expect(try !LogStore.verify(directory.path).findings.isEmpty)
        try Data(sound).write(to: URL(fileURLWithPath: path))
      }
    }
    #expect(try await opens().events == 1200)
  }

  @Test("the last segment missing after a crash is known by the index of the one before")
  func missingLastSegment() async throws {
    try await makeStore(events: 600, closed: false)
    let last = try #require(directory.names(".log").last)
    while !directory.isIndexed { await Task.yield() }
    try FileManager.default.removeItem(atPath: directory.file(last))
    #expect(damage { () throws(LogStoreError) in try LogStore.open(directory.path) } != nil)
  }

  @Test(
    "a deleted, emptied or garbled index loses nothing, and reindex restores it",
    arguments: ["deleted", "emptied", "garbled", "flipped"])
  func indexes(how: String) async throws {
    try await makeStore(events: 1000, closed: true)
    var generator = SeededGenerator.printed()
    for name in directory.names(".idx") {
      let path = directory.file(name)
      switch how {
      case "deleted": try FileManager.default.removeItem(atPath: path)
      case "emptied": try edit(path) { $0 = [] }
      case "garbled": try edit(path) { $0 = $0.map { _ in UInt8.random(in: 0...255, using: &generator) } }
      default: try edit(path) { $0[Int.random(in: 0..<$0.count, using: &generator)] ^= 4 }
      }
    }
    #expect(try LogStore.verify(directory.path).findings.isEmpty == (how == "deleted"))
    let reader = try LogReader.open(directory.path)
    for stream in 0..<4 { #expect(try reader.stream("s\(stream)").map(\.version) == Array(1...250)) }
    #expect(try reader.events(from: 777, limit: 1).map(\.offset) == [777])
    reader.close()
    let made = try LogStore.reindex(directory.path)
    #expect(made.segments == directory.names(".log").count - 1 && made.indexBytes > 0)
    #expect(try LogStore.verify(directory.path).findings == [])
    let store = try LogStore.open(directory.path, options: smallSegments())
    #expect(store.recovery.wasClosedCleanly)
    await expectThrows({ if case .conflict = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("s1"), expecting: .version(249)))
    }
    _ = try await store.append(Append(event("s1"), expecting: .version(250)))
    try await store.close()
  }

  @Test(
    "an index that is sound by its checksums and leads to other events is detected and replaced", arguments: [0, 102])
  func lyingIndex(first: Int) async throws {
    try await makeStore(events: 600, closed: true)
    let name = try #require(directory.names(".idx").first)
    do {
      let reader = try LogReader.open(directory.path)
      let segment = try reader.commitPoint.segments.segment(0)
      let (index, end) = try reader.commitPoint.segments.readThrough(segment)
      var input = index.state.withLock { $0.sealingInput() }
      // Four streams take turns. Two of them now claim each other's positions.
      input.positions.swapAt(first, first + 1)
      input.frames = [(input.frames[0].relativeOffset, input.frames[20].position)]
      let output = IndexOutput(nil)
      _ = try IndexEncoding.encode(input, of: segment, end: end, to: output)
      let made = output.takeMemory()
      try edit(directory.file(name)) { $0 = withExtendedLifetime(made) { Array(made.bytes) } }
      reader.close()
    }
    let store = try LogStore.open(directory.path, options: smallSegments())
    for stream in 0..<4 {
      let events = try store.reader.stream("s\(stream)")
      #expect(events.map(\.version) == Array(1...150))
      #expect(events.allSatisfy { $0.stream == "s\(stream)" && $0.offset % 4 == UInt64(stream) })
    }
    #expect(try store.reader.events(from: 4, limit: 1).map(\.offset) == [4])
    try await store.close()
  }

  @Test("an index that leads behind a segment's last frame is found out, and no sound segment is blamed for it")
  func indexBehindTheEnd() async throws {
    try await makeStore(events: 600, closed: true)
    let name = try #require(directory.names(".idx").first)
    do {
      let reader = try LogReader.open(directory.path)
      let segment = try reader.commitPoint.segments.segment(0)
      let (index, end) = try reader.commitPoint.segments.readThrough(segment)
      var input = index.state.withLock { $0.sealingInput() }
      input.frames = [(0, UInt32(segment.bytes.count))]
      let output = IndexOutput(nil)
      _ = try IndexEncoding.encode(
        input, of: segment,
        end: FrameExpectation(
          position: segment.bytes.count, offset: end.offset, chain: end.chain, timestamp: end.timestamp), to: output)
      let made = output.takeMemory()
      try edit(directory.file(name)) { $0 = withExtendedLifetime(made) { Array(made.bytes) } }
      reader.close()
    }
    let reader = try LogReader.open(directory.path)
    #expect(try reader.events(from: 4, limit: 2).map(\.offset) == [4, 5])
  }

  /// Writes the checksum of a changed header.
  func seal(_ bytes: inout [UInt8], _ byteCount: Int) {
    let sum = bytes.withUnsafeBytes { checksum($0.part(0, byteCount - 4)) }
    bytes.withUnsafeMutableBytes { $0.set(sum, at: byteCount - 4) }
  }

  @Test("a newer format version is refused by name, in every file that has one; a flipped bit of the version is damage")
  func newerVersion() async throws {
    try await makeStore(events: 5, closed: true)
    for name in ["store", "clean", "00000000000000000000.log"] {
      let path = directory.file(name)
      let sound = try content(path)
      // Segments behind gaps have version 2.
      let known: UInt32 = name.hasSuffix(".log") ? 2 : 1
      try edit(path) { $0[8] = UInt8(known + 1) }
      #expect(damage { () throws(LogStoreError) in try LogStore.open(directory.path) }?.file == path)
      #expect(try LogStore.verify(directory.path).findings.map(\.file).contains(path))
      try edit(path) { seal(&$0, name.hasSuffix(".log") ? 4096 : 64) }
      await expectThrows({ $0 == .unsupportedFormat(file: path, version: known + 1, supported: known) }) {
        () async throws(LogStoreError) in try LogStore.open(directory.path)
      }
      try edit(path) { $0 = sound }
    }
  }

  @Test("a byte that is to be zero and is not is refused, though the checksum is right")
  func zeros() async throws {
    try await makeStore(events: 5, closed: true)
    let damaged = [
      ("store", [12, 15, 40, 59]), ("clean", [56, 59]), ("00000000000000000000.log", [68, 71, 72, 79, 80, 2000, 4091]),
    ]
    for (name, positions) in damaged {
      let path = directory.file(name)
      let sound = try content(path)
      for position in positions {
        try edit(path) {
          $0[position] = 1
          seal(&$0, name.hasSuffix(".log") ? 4096 : 64)
        }
        let found = damage { () throws(LogStoreError) in try LogStore.open(directory.path) }
        #expect(found?.file == path && found?.position == UInt64(position))
        #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path })
        try edit(path) { $0 = sound }
      }
    }
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  /// Adds up the lengths; for sound segments only.
  func framePositions(_ bytes: [UInt8]) -> [Int] {
    var positions: [Int] = []
    var position = SegmentHeader.byteCount
    bytes.withUnsafeBytes { bytes in
      while position + 48 <= bytes.count {
        let length = Int(bytes.integer(at: position + 4, as: UInt32.self))
        if length == 0 { return }
        positions.append(position)
        position += length
      }
    }
    return positions
  }
}
