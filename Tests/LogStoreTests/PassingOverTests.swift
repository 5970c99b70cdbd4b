import Foundation
import Testing

@testable import LogStore

/// A store with damaged finished segments is opened on request, and its sound events are served.
@Suite struct PassingOverTests {
  enum Kind: String, CaseIterable, Sendable {
    case firstFrameHeader, middleFrameHeader, recordPayload, bodyChecksum, segmentHeader, cut, cutBehindEvents, missing,
      zeroedPage
  }

  let directory = TemporaryDirectory()
  var options: LogStore.Options {
    var options = smallSegments()
    options.servesDamaged = true
    return options
  }

  /// Three events of each stream, one after the other, each in a frame of its own; four segments, all but the last indexed.
  func makeStore() async throws -> (events: [Event], bases: [UInt64]) {
    let store = try LogStore.open(directory.path, options: smallSegments())
    var index = 0
    while directory.names(".log").count < 4 {
      let text = String(repeating: "p", count: 200) + "\(index)"
      _ = try await store.append(Append(event("s\(index / 3)", text)))
      index += 1
    }
    try await store.waitUntilIndexed()
    let events = try store.reader.events(from: 0, limit: .max)
    try await store.close()
    return (events, directory.names(".log").compactMap { FileName.baseOffset($0, suffix: ".log") })
  }

  func path(_ base: UInt64) -> String { directory.file(FileName.segment(base)) }

  /// Positions of the frames of a sound segment file.
  func frames(_ base: UInt64) throws -> [Int] {
    let bytes = try content(path(base))
    var position = SegmentHeader.byteCount
    var found: [Int] = []
    try bytes.withUnsafeBytes { bytes in
      let store = try #require(
        try? decode(Array(bytes[..<SegmentHeader.byteCount]), of: "", SegmentHeader.init).storeID)
      let checksumSeed = ChecksumSeed(storeID: store, baseOffset: base)
      while let header = FrameHeader(in: bytes, at: position, checksumSeed: checksumSeed) {
        found.append(position)
        position += header.byteCount
      }
    }
    return found
  }

  func damage(_ base: UInt64, _ kind: Kind) throws {
    let frames = try frames(base)
    let middle = frames[frames.count / 2]
    switch kind {
    case .firstFrameHeader: try edit(path(base)) { $0[frames[0] + 9] ^= 4 }
    case .middleFrameHeader: try edit(path(base)) { $0[middle + 9] ^= 4 }
    case .recordPayload: try edit(path(base)) { $0[middle + FrameHeader.byteCount + 100] ^= 1 }
    case .bodyChecksum: try edit(path(base)) { $0[middle + FrameHeader.byteCount + 1] ^= 1 }
    case .segmentHeader: try edit(path(base)) { $0[100] ^= 1 }
    case .cut: try edit(path(base)) { $0.removeSubrange(middle...) }
    case .cutBehindEvents:
      let used = try content(path(base)).withUnsafeBytes { $0.countWithoutTrailingZeros }
      try edit(path(base)) { $0.removeSubrange((used + 64)...) }
    case .missing: try FileManager.default.removeItem(atPath: path(base))
    case .zeroedPage: try edit(path(base)) { for byte in 8192..<12_288 { $0[byte] = 0 } }
    }
  }

  /// Reads all, and returns what was passed over.
  func readAll(_ reader: LogReader) throws -> (events: [Event], passed: [DamagedRange]) {
    var events: [Event] = []
    var passed: [DamagedRange] = []
    var next: UInt64 = 0
    // In pieces, as followers do.
    while next < reader.endOffset {
      var count = 0
      next = try reader.forEach(from: next, passingOver: { passed.append($0) }) { event in
        events.append(event.copy())
        count += 1
        return count < 64
      }
    }
    return (events, passed)
  }

  @Test(
    "sound events behind a damaged place are read, and missing ones are reported once with their offsets",
    arguments: Kind.allCases, [0, 1, 2])
  func passesOver(_ kind: Kind, _ number: Int) async throws {
    let (sound, bases) = try await makeStore()
    try damage(bases[number], kind)
    let store = try LogStore.open(directory.path, options: options)
    let (events, passed) = try readAll(store.reader)
    let missing = passed.flatMap { Array($0.offsets) }
    #expect(events.map(\.offset) + missing.sorted() != [])
    #expect((events.map(\.offset) + missing).sorted() == sound.map(\.offset))
    for event in events {
      let written = sound[Int(event.offset)]
      #expect(event.stream == written.stream && event.version == written.version && event.payload == written.payload)
    }
    #expect(Set(passed.map(\.damage)).count == passed.count || kind == .cut)
    #expect(passed.allSatisfy { $0.damage.file == path(bases[number]) }, "\(passed)")
    let range = bases[number]..<bases[number + 1]
    switch kind {
    case .firstFrameHeader, .middleFrameHeader, .segmentHeader, .cutBehindEvents: #expect(missing == [])
    case .recordPayload, .bodyChecksum: #expect(missing.count == 1)
    case .missing: #expect(missing == Array(range))
    case .cut, .zeroedPage: #expect(missing.count > 1 && missing.count < range.count)
    }
    #expect(!passed.isEmpty)
    #expect(try store.reader.damagedRanges(file: path(bases[number])) == passed.unique)

    // The default still refuses.
    #expect(throws: LogStoreError.self) { try store.reader.events(from: 0, limit: .max) }

    // Which streams are concerned is known, and only they are refused.
    let lost = try passed.flatMap { try store.reader.lostEvents(in: $0.offsets) }
    #expect(lost.map(\.offset) == missing)
    let keys = Set(lost.map(\.key))
    for stream in Set(sound.map(\.stream)) {
      let versions = sound.filter { $0.stream == stream }.map(\.version)
      let isConcerned = sound.contains { $0.stream == stream && missing.contains($0.offset) }
      #expect(keys.contains(LostEvent.key(ofStream: stream)) == isConcerned)
      if isConcerned {
        await expectThrows({ $0.isDamage }) { () throws(LogStoreError) in try store.reader.stream(stream) }
      } else {
        #expect(try store.reader.stream(stream).map(\.version) == versions)
      }
      let last = sound.last { $0.stream == stream }
      if let last, missing.contains(last.offset) {
        await expectThrows({ $0.isDamage }) { () async throws(LogStoreError) in
          try await store.append(Append(event(stream), expecting: .version(last.version)))
        }
      }
    }
    _ = try await store.append(Append(event("new"), expecting: .noStream))
    #expect(try store.reader.stream("new").count == 1)
    try await store.close()
  }

  @Test(
    "where damage has hit no event, a lost index file is made again from the records",
    arguments: [Kind.firstFrameHeader, .middleFrameHeader, .segmentHeader, .cutBehindEvents], [0, 1, 2])
  func indexOfDamaged(_ kind: Kind, _ number: Int) async throws {
    let (sound, bases) = try await makeStore()
    try damage(bases[number], kind)
    for name in directory.names(".idx") { try FileManager.default.removeItem(atPath: directory.file(name)) }
    for isIndexed in [false, true] {
      let store = try LogStore.open(directory.path, options: options)
      _ = try await store.append(Append(event("new \(isIndexed)"), expecting: .noStream))
      for stream in Set(sound.map(\.stream)) {
        let found = try store.reader.stream(stream)
        #expect(found.map(\.offset) == sound.filter { $0.stream == stream }.map(\.offset))
      }
      let (events, passed) = try readAll(store.reader)
      #expect(events.map(\.offset).filter { $0 < UInt64(sound.count) } == sound.map(\.offset))
      #expect(!passed.isEmpty && passed.allSatisfy(\.offsets.isEmpty), "\(passed)")
      try await store.waitUntilIndexed()
      #expect(try store.reader.lostEvents(in: 0..<bases[3]).count == Int(bases[3]))
      try await store.close()
    }
    let indexed = directory.names(".idx").compactMap { FileName.indexRange($0) }
    #expect(indexed.first?.lowerBound == 0 && indexed.last?.upperBound == bases[3], "\(indexed)")
  }

  @Test("where damage has hit an event, no index is made without it")
  func noIndexOfLoss() async throws {
    let (_, bases) = try await makeStore()
    try damage(bases[1], .recordPayload)
    for name in directory.names(".idx") { try FileManager.default.removeItem(atPath: directory.file(name)) }
    let store = try LogStore.open(directory.path, options: options)
    await expectThrows({ $0.isDamage }) { () async throws(LogStoreError) in
      try await store.append(Append(event("new"), expecting: .noStream))
    }
    try await store.close()
  }

  @Test("of a damaged segment that the next one does not continue no index is made")
  func noIndexOfForeign() async throws {
    let (_, bases) = try await makeStore()
    let frames = try frames(bases[1])
    let last = try #require(frames.last)
    let id = try content(directory.file(FileName.store)).withUnsafeBytes {
      try decode(Array($0), of: "", StoreHeader.init).storeID
    }
    let seed = ChecksumSeed(storeID: id, baseOffset: bases[1])
    // The last frame is sound by itself, and is not the one that the next segment follows.
    try edit(path(bases[1])) { bytes in
      bytes[100] ^= 1
      bytes.withUnsafeMutableBytes { buffer in
        var header = FrameHeader(trusted: UnsafeRawBufferPointer(buffer), at: last)
        header.timestamp += 1
        header.encode(
          into: UnsafeMutableRawBufferPointer(rebasing: buffer[last..<last + header.byteCount]), at: last,
          checksumSeed: seed)
      }
    }
    for name in directory.names(".idx") { try FileManager.default.removeItem(atPath: directory.file(name)) }
    let store = try LogStore.open(directory.path, options: options)
    await expectThrows({ $0.isDamage }) { () async throws(LogStoreError) in
      try await store.append(Append(event("new"), expecting: .noStream))
    }
    try await store.close()
  }

  /// How the segment behind a foreign one is damaged, so that its header can't tell.
  enum Behind: CaseIterable { case nothing, header, firstPages, missing }

  @Test(
    "a copy's segment is never served, and no index is made of it, though the header that would tell is lost",
    arguments: Behind.allCases, [true, false])
  func foreignBeforeDamage(behind: Behind, isCut: Bool) async throws {
    let other = TemporaryDirectory()
    for type in ["shared", "copy", "mine"] {
      if type == "copy" { try copyStore(directory.path, to: other.path) }
      let store = try LogStore.open(type == "copy" ? other.path : directory.path, options: smallSegments())
      let payload = String(repeating: "p", count: type == "copy" ? 150 : 200)
      for index in 0..<(type == "shared" ? 300 : 800) {
        _ = try await store.append(Append(event("\(type)\(index / 3)", payload, type: type)))
      }
      try await store.waitUntilIndexed()
      try await store.close()
    }
    let names = directory.names(".log")
    let bases = names.compactMap { FileName.baseOffset($0, suffix: ".log") }
    try #require(other.names(".log")[1] == names[1])
    let whole = try content(other.file(names[1]))
    try edit(path(bases[1])) { $0 = whole }
    if isCut {
      // Zeros instead of the events that are the next segment's, as after a lost end: then all offsets fit.
      let cut = try #require(try frames(bases[1]).first { try offset(ofFrameAt: $0, bases[1]) >= bases[2] })
      try edit(path(bases[1])) { bytes in for byte in cut..<bytes.count { bytes[byte] = 0 } }
    }
    switch behind {
    case .nothing: break
    case .header: try edit(path(bases[2])) { $0[100] ^= 1 }
    case .firstPages: try edit(path(bases[2])) { for byte in 0..<4400 { $0[byte] = 0 } }
    case .missing: try FileManager.default.removeItem(atPath: path(bases[2]))
    }
    let indexes = try directory.names(".idx").map { try content(directory.file($0)) }
    let store = try LogStore.open(directory.path, options: options)
    let (events, passed) = try readAll(store.reader)
    #expect(!events.contains { $0.type == "copy" })
    #expect(passed.contains { $0.offsets == bases[1]..<bases[2] }, "\(passed)")
    for stream in ["mine0", "mine60", "copy60", "new"] {
      // Those that are known from elsewhere may be right. None is the copy's.
      let found = (try? store.reader.stream(stream)) ?? []
      #expect(!found.contains { $0.type == "copy" }, "\(stream)")
    }
    try await store.close()
    #expect(try directory.names(".idx").map { try content(directory.file($0)) } == indexes)
  }

  private func offset(ofFrameAt position: Int, _ base: UInt64) throws -> UInt64 {
    try content(path(base)).withUnsafeBytes { FrameHeader(trusted: $0, at: position).firstOffset }
  }

  @Test("a store whose segment file is damaged as a whole is refused unless it is asked to serve the rest")
  func refusesByDefault() async throws {
    let (_, bases) = try await makeStore()
    try damage(bases[1], .missing)
    await expectThrows({ $0.isDamage }) { () throws(LogStoreError) in
      try LogStore.open(directory.path, options: smallSegments())
    }
  }

  @Test("several missing segments in a row are passed over, and their index files stay")
  func severalMissing() async throws {
    let (sound, bases) = try await makeStore()
    try damage(bases[0], .missing)
    try damage(bases[1], .missing)
    let before = directory.names(".idx")
    let store = try LogStore.open(directory.path, options: options)
    let (events, passed) = try readAll(store.reader)
    #expect(events.map(\.offset) == sound.map(\.offset).filter { $0 >= bases[2] })
    #expect(passed.map(\.offsets) == [0..<bases[1], bases[1]..<bases[2]])
    _ = try await store.append(Append(event("new"), expecting: .noStream))
    try await store.close()
    #expect(directory.names(".idx") == before)
  }

  @Test("a whole segment from another history of the log is not served")
  func divergedSegment() async throws {
    let (_, bases) = try await makeStore()
    // The same store continues in two ways from its first segment on.
    let copy = TemporaryDirectory()
    try copyStore(directory.path, to: copy.path)
    try edit(path(bases[1])) { bytes in
      // A sound segment with another chain: as if written behind another frame.
      bytes.withUnsafeMutableBytes { $0.set(UInt32(1), at: 64) }
      let sum = bytes.withUnsafeBytes { checksum($0.part(0, SegmentHeader.byteCount - 4)) }
      bytes.withUnsafeMutableBytes { $0.set(sum, at: SegmentHeader.byteCount - 4) }
    }
    let store = try LogStore.open(directory.path, options: options)
    let ranges = try store.reader.damagedRanges(file: path(bases[1]))
    #expect(ranges.map(\.offsets) == [bases[1]..<bases[2]])
    try await store.close()
  }

  @Test("damage in random places is passed over, and never more is lost than what was hit")
  func randomDamage() async throws {
    let (sound, bases) = try await makeStore()
    var generator = SeededGenerator.printed()
    let whole = try content(path(bases[1]))
    let used = whole.withUnsafeBytes { $0.countWithoutTrailingZeros }
    for _ in 0..<60 {
      var damaged = whole
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        let position = Int.random(in: 0..<used, using: &generator)
        if (8..<12).contains(position) { continue }
        let count = Bool.random(using: &generator) ? 1 : min(512, used - position)
        for byte in position..<position + count { damaged[byte] = UInt8.random(in: 0...255, using: &generator) }
      }
      let bytes = damaged
      try edit(path(bases[1])) { $0 = bytes }
      let store = try LogStore.open(directory.path, options: options)
      let (events, passed) = try readAll(store.reader)
      #expect((events.map(\.offset) + passed.flatMap { Array($0.offsets) }).sorted() == sound.map(\.offset))
      for event in events { #expect(event.payload == sound[Int(event.offset)].payload) }
      try await store.close()
    }
  }

  @Test("damage in a frame of several events is one range, whichever event it has hit", arguments: [0, 1, 2])
  func severalEventsInAFrame(hit: Int) async throws {
    let store = try LogStore.open(directory.path, options: options)
    _ = try await store.append(Append((0..<3).map { event("s\($0)", "payload \($0)") }))
    _ = try await store.append(Append(event("next")))
    let range = try #require(try Data(content(path(0))).range(of: Data("payload \(hit)".utf8)))
    let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path(0)))
    try handle.seek(toOffset: UInt64(range.lowerBound))
    try handle.write(contentsOf: [0xFF])
    try handle.close()
    let (read, passed) = try readAll(store.reader)
    #expect(passed.map(\.offsets) == [UInt64(hit)..<UInt64(hit + 1)])
    #expect(read.map(\.offset) == [0, 1, 2, 3].filter { $0 != UInt64(hit) })
    try await store.close()
  }

  @Test("what goes bad in the segment that is being written is passed over up to the durable end")
  func openSegment() async throws {
    let store = try LogStore.open(directory.path, options: options)
    for index in 0..<40 { _ = try await store.append(Append(event("s\(index)", String(repeating: "p", count: 200)))) }
    let hit = try frames(0)[20]
    let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path(0)))
    try handle.seek(toOffset: UInt64(hit + FrameHeader.byteCount + 60))
    try handle.write(contentsOf: [0xFF, 0xFE])
    try handle.close()
    let (events, passed) = try readAll(store.reader)
    #expect(passed.flatMap { Array($0.offsets) } == [19])
    #expect(events.count == 39)
    // And it continues behind what was known when the damage was found.
    var cursor = store.reader.cursor(from: 0, passingOverDamage: true)
    var count = 0
    while let event = try cursor.next() { count += event.payload.byteCount > 0 ? 1 : 0 }
    #expect(count == 19)
    #expect(cursor.takePassed().map(\.offsets) == [19..<20])
    while let event = try cursor.next() { count += event.payload.byteCount > 0 ? 1 : 0 }
    _ = try await store.append(Append(event("later")))
    while let event = try cursor.next() { count += event.payload.byteCount > 0 ? 1 : 0 }
    #expect(count == 40)
    try await store.close()
  }
}

extension LogStoreError {
  fileprivate var isDamage: Bool { if case .damaged = self { true } else { false } }
}

extension [DamagedRange] {
  fileprivate var unique: [DamagedRange] { reduce(into: []) { if !$0.contains($1) { $0.append($1) } } }
}
