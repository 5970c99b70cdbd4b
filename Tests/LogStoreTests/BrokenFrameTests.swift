import CChecksum
import Foundation
import Testing

@testable import LogStore

/// Frames with one thing wrong and all other checksums right: every check has to find its own fault.
@Suite struct BrokenFrameTests {
  let directory = TemporaryDirectory()

  /// The checksums of a frame that are made right again after a change.
  struct Sealing: OptionSet, Sendable {
    var rawValue: Int
    static let records = Sealing(rawValue: 1)
    static let body = Sealing(rawValue: 2)
    static let header = Sealing(rawValue: 4)
    static let all: Sealing = [.records, .body, .header]
  }

  struct Fraud: Sendable, CustomTestStringConvertible {
    var testDescription: String
    /// The number of the changed record; readers still return those before it.
    var record: Int?
    var sealing: Sealing
    var change: @Sendable (UnsafeMutableRawBufferPointer, _ frame: Int, _ record: Int) -> Void

    init(
      _ name: String, record: Int? = nil, _ sealing: Sealing = .all,
      _ change:
        @escaping @Sendable (UnsafeMutableRawBufferPointer, _ frame: Int, _ record: Int) -> Void
    ) {
      testDescription = name
      self.record = record
      self.sealing = sealing
      self.change = change
    }
  }

  static func add(_ difference: Int, _ bytes: UnsafeMutableRawBufferPointer, _ position: Int) {
    let value = UnsafeRawBufferPointer(bytes).integer(at: position, as: UInt32.self)
    bytes.set(UInt32(truncatingIfNeeded: Int(value) + difference), at: position)
  }

  static let frauds: [Fraud] = [
    Fraud("header: one bit", []) { bytes, frame, _ in bytes[frame + 20] ^= 1 },
    Fraud("header: frame length of no multiple of 8") { bytes, frame, _ in add(-4, bytes, frame + 4)
    },
    Fraud("header: frame length less than a header", .header) { bytes, frame, _ in
      bytes.set(UInt32(40), at: frame + 4)
    },
    Fraud("header: frame length behind the file's end", .header) { bytes, frame, _ in
      bytes.set(UInt32(bytes.count - frame + 8), at: frame + 4)
    },
    Fraud("header: first offset", .header) { bytes, frame, _ in add(1, bytes, frame + 8) },
    Fraud("header: first offset before the segment", .header) { bytes, frame, _ in
      bytes.set(UInt64.max, at: frame + 8)
    },
    Fraud("header: more records than there are", .header) { bytes, frame, _ in
      add(1, bytes, frame + 28)
    },
    Fraud("header: four billion records", .header) { bytes, frame, _ in
      bytes.set(UInt32.max, at: frame + 28)
    },
    Fraud("header: fewer records than there are", .header) { bytes, frame, _ in
      add(-1, bytes, frame + 28)
    },
    Fraud("header: no records", .header) { bytes, frame, _ in bytes.set(UInt32(0), at: frame + 28)
    },
    Fraud("header: more events than there are", .header) { bytes, frame, _ in
      add(1, bytes, frame + 24)
    },
    Fraud("header: fewer events than there are", .header) { bytes, frame, _ in
      add(-1, bytes, frame + 24)
    },
    Fraud("body checksum", .header) { bytes, frame, _ in bytes[frame + 40] ^= 1 },
    Fraud("record checksum", record: 2, [.body, .header]) { bytes, _, record in bytes[record] ^= 1
    },
    Fraud("record: one bit of the payload", record: 2, []) { bytes, _, record in
      bytes[record + 80] ^= 1
    },
    Fraud("record: sound, in another's place", record: 2, [.body, .header]) {
      bytes, frame, record in
      // As long as the one before it, so the two are exchanged with their checksums.
      let count = Int(UnsafeRawBufferPointer(bytes).integer(at: record + 4, as: UInt32.self))
      for index in 0..<count { swap(&bytes[record + index], &bytes[record - count + index]) }
    },
    Fraud("record: length shorter than the fixed part", record: 2, .header) { bytes, _, record in
      bytes.set(UInt32(31), at: record + 4)
    },
    Fraud("record: length 0", record: 2, .header) { bytes, _, record in
      bytes.set(UInt32(0), at: record + 4)
    },
    Fraud("record: length behind the frame's end", record: 3, .header) { bytes, frame, record in
      let end = frame + Int(UnsafeRawBufferPointer(bytes).integer(at: frame + 4, as: UInt32.self))
      bytes.set(UInt32(end - record + 1), at: record + 4)
    },
    Fraud("record: length of four billion", record: 3, .header) { bytes, _, record in
      bytes.set(UInt32.max, at: record + 4)
    },
    Fraud("record: kind 0", record: 1) { bytes, _, record in bytes[record + 8] = 0 },
    Fraud("record: kind 4", record: 1) { bytes, _, record in bytes[record + 8] = 4 },
    Fraud("record: an event's fields in a cursor", record: 1) { bytes, _, record in
      bytes[record + 8] = 2
    },
    Fraud("record: flag 2", record: 1) { bytes, _, record in bytes[record + 9] |= 2 },
    Fraud("record: an id that there is no room for", record: 1) { bytes, _, record in
      bytes.set(UInt32(200), at: record + 12)
      bytes[record + 9] |= 1
    },
    Fraud("record: a version that can't be counted on from", record: 1) { bytes, _, record in
      bytes.set(UInt64.max, at: record + 16)
    },
    Fraud("record: version 2^63", record: 1) { bytes, _, record in bytes.set(UInt64(1) << 63, at: record + 16) },
    Fraud("record: name length 0", record: 1) { bytes, _, record in bytes[record + 10] = 0 },
    Fraud("record: type length 0", record: 1) { bytes, _, record in bytes[record + 11] = 0 },
    Fraud("record: metadata length behind the record's end", record: 1) { bytes, _, record in
      bytes.set(UInt32(202), at: record + 12)
    },
    Fraud("record: metadata length of four billion", record: 1) { bytes, _, record in
      bytes.set(UInt32.max, at: record + 12)
    },
    Fraud("record: version 0", record: 1) { bytes, _, record in
      bytes.set(UInt64(0), at: record + 16)
    },
    Fraud("record: offset of the one before", record: 2) { bytes, _, record in
      add(-1, bytes, record + 24)
    },
    Fraud("record: offset of the one after", record: 2) { bytes, _, record in
      add(1, bytes, record + 24)
    },
    Fraud("record: of a frame before", record: 2) { bytes, _, record in add(8, bytes, record + 28)
    },
    Fraud("record: distance 0", record: 2) { bytes, _, record in
      bytes.set(UInt32(0), at: record + 28)
    },
    Fraud("padding of more than seven bytes: zeros instead of the last record", record: 4, .header) {
      bytes, frame, record in
      let read = UnsafeRawBufferPointer(bytes)
      let end = frame + Int(read.integer(at: frame + 4, as: UInt32.self))
      for index in record..<end { bytes[index] = 0 }
      bytes.set(UInt32(4), at: frame + 24)
      bytes.set(UInt32(4), at: frame + 28)
      var body = RunningChecksum()
      for index in 0..<4 {
        body.add(read.integer(at: frame + FrameHeader.byteCount + 207 * index, as: UInt32.self))
      }
      body.add(read.part(record, end - record))
      bytes.set(body.value, at: frame + 40)
    },
    Fraud("padding that is not zero", record: 4) { bytes, frame, _ in
      let end = frame + Int(UnsafeRawBufferPointer(bytes).integer(at: frame + 4, as: UInt32.self))
      bytes[end - 1] = 1
    },
  ]

  /// Five records of the same length in each frame, 207 bytes: 5 bytes of padding.
  func makeStore() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for frame in 0..<120 {
      _ = try await store.append(
        Append(
          (0..<5).map {
            NewEvent(
              stream: "s\($0)", type: "T", payload: [UInt8](repeating: UInt8(frame), count: 172))
          }
        ))
    }
    try await store.close()
  }

  func seal(
    _ bytes: UnsafeMutableRawBufferPointer, _ frame: Int, _ sealing: Sealing, _ checksumSeed: ChecksumSeed
  ) {
    let read = UnsafeRawBufferPointer(bytes)
    let start = bytes.baseAddress!.assumingMemoryBound(to: UInt8.self)
    let first = frame + FrameHeader.byteCount
    if sealing.contains(.records) {
      _ = cframe_finish_records(start + first, 5, UInt64(first), checksumSeed.register, 0)
    }
    if sealing.contains(.body) {
      var body = RunningChecksum()
      for record in 0..<5 { body.add(read.integer(at: first + 207 * record, as: UInt32.self)) }
      let end = frame + Int(read.integer(at: frame + 4, as: UInt32.self))
      body.add(read.part(first + 5 * 207, max(0, end - first - 5 * 207)))
      bytes.set(body.value, at: frame + 40)
    }
    if sealing.contains(.header) {
      bytes.set(checksumSeed.checksum(of: read.part(frame + 4, 44), at: frame), at: frame)
    }
  }

  /// Takes and counts all events, each of which must be the next. Returns the damage that the cursor ended with.
  func readOn(_ cursor: inout EventCursor, _ expected: inout UInt64) -> Damage? {
    do throws(LogStoreError) {
      while let event = try cursor.next() {
        let offset = event.offset
        #expect(offset == expected)
        expected += 1
      }
    } catch {
      if case .damaged(let damage) = error { return damage }
    }
    return nil
  }

  @Test(
    "a frame with one thing wrong is damage, and nothing is served from there on", arguments: frauds
  )
  func fraud(_ fraud: Fraud) async throws {
    try await makeStore()
    let path = directory.file("00000000000000000000.log")
    let checksumSeed: ChecksumSeed
    let frame: Int
    do {
      let reader = try LogReader.open(directory.path)
      checksumSeed = try reader.commitPoint.segments.segment(0).checksumSeed
      // The first frame has no events. This one has the events from 50 on.
      frame = try reader.commitPoint.segments.framePosition(
        holding: 50, in: reader.commitPoint.segments.segment(0), end: .max)
      reader.close()
    }
    let count = FrameHeader.byteCount + 5 * 207 + 5
    let record = frame + FrameHeader.byteCount + 207 * (fraud.record ?? 0)
    try edit(path) { file in
      file.withUnsafeMutableBytes { bytes in
        #expect(
          UnsafeRawBufferPointer(bytes).integer(at: frame + 4, as: UInt32.self) == UInt32(count))
        // Sealing a sound frame changes nothing. Otherwise the fraud would prove nothing.
        let before = Array(bytes)
        seal(bytes, frame, .all, checksumSeed)
        #expect(Array(bytes) == before)
        fraud.change(bytes, frame, record)
        seal(bytes, frame, fraud.sealing, checksumSeed)
      }
    }
    let reader = try LogReader.open(directory.path)
    let segment = try reader.commitPoint.segments.segment(0)

    // In order, from the start and into the frame, with the index and without.
    for start: UInt64 in [0, 45] {
      var cursor = reader.cursor(from: start)
      var expected = start
      for _ in 0..<2 {
        let damage = readOn(&cursor, &expected)
        #expect(damage?.file == path)
        #expect(
          damage.map { (UInt64(frame)..<UInt64(frame + count)).contains($0.position) } == true,
          "\(String(describing: damage))"
        )
      }
      #expect(
        expected == 50, "nothing of the broken frame is served, since it is checked in one run")
    }
    // Frame by frame, as opening, indexing and `verify` read it.
    var scan = RecoveryScan(segment)
    let fault = scan.go(to: .position(frame + count), in: segment, adding: ActiveIndex(segment))
    #expect(fault != nil && scan.next.position == frame)
    #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path })
    reader.close()
  }

  @Test(
    "a frame that ends with its last record and says that there are more is damage", arguments: [1, 7, UInt32.max - 8])
  func recordsBehindTheEnd(more: UInt32) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    // Records of 80 bytes, so that there is no padding between the last record and the next frame. One more of the shortest
    // records would fit.
    let payload = [UInt8](repeating: 7, count: 46)
    for _ in 0..<20 { _ = try await store.append(Append(NewEvent(stream: "s", type: "T", payload: payload))) }
    try await store.close()
    let path = directory.file("00000000000000000000.log")
    let reader = try LogReader.open(directory.path)
    let segment = try reader.commitPoint.segments.segment(0)
    let frame = try reader.commitPoint.segments.framePosition(holding: 7, in: segment, end: .max)
    #expect(FrameHeader(trusted: segment.bytes, at: frame).byteCount == FrameHeader.byteCount + 80)
    try edit(path) { file in
      file.withUnsafeMutableBytes { bytes in
        bytes.set(UInt32(truncatingIfNeeded: 1 + UInt64(more)), at: frame + 28)
        bytes.set(
          segment.checksumSeed.checksum(of: UnsafeRawBufferPointer(bytes).part(frame + 4, 44), at: frame), at: frame)
      }
    }
    // A number of records that can't fit is refused with the header; one that could fit, at the first missing record.
    let fault = more == 1 ? frame + 128 : frame
    var scan = RecoveryScan(segment)
    #expect(scan.go(to: .firstInvalid, in: segment, adding: ActiveIndex(segment))?.position == fault)
    #expect(scan.next.position == frame)
    var cursor = reader.cursor(from: 0)
    var seen: UInt64 = 0
    #expect(readOn(&cursor, &seen)?.position == UInt64(fault) && seen == 7)
    #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path })
    reader.close()
  }

  @Test("of a frame that is checked in several runs, no record is given before it was checked")
  func longFrame() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments(512 << 10))
    _ = try await store.append(
      Append((0..<1000).map { event("s\($0)", String(repeating: "p", count: 200)) }))
    // A second segment, so that opening does not read the first.
    for _ in 0..<2 {
      _ = try await store.append(
        Append([NewEvent(stream: "big", type: "T", payload: [UInt8](repeating: 7, count: 300_000))])
      )
    }
    try await store.close()
    let path = directory.file("00000000000000000000.log")
    var generator = SeededGenerator.printed()
    let sound = try content(path)
    for _ in 0..<20 {
      let victim = Int.random(in: 0..<1000, using: &generator)
      let reader = try LogReader.open(directory.path)
      let found = try reader.commitPoint.segments.record(of: StreamKey(bytes("s\(victim)")), version: 1)
      let position = try #require(found).record.position
      try edit(path) { $0[Int(position) + 60] ^= 1 }
      var cursor = reader.cursor(from: 0)
      var seen: UInt64 = 0
      #expect(readOn(&cursor, &seen)?.position == UInt64(position))
      #expect(seen <= victim && victim - Int(seen) <= 8192 / 200)
      reader.close()
      try edit(path) { $0 = sound }
    }
    // Fewer events than there are: found before the first surplus event is returned, although the frame continues.
    let reader = try LogReader.open(directory.path)
    let segment = try reader.commitPoint.segments.segment(0)
    let frame = SegmentHeader.byteCount + FrameHeader.byteCount
    try edit(path) { file in
      file.withUnsafeMutableBytes { bytes in
        bytes.set(UInt32(10), at: frame + 24)
        bytes.set(
          segment.checksumSeed.checksum(of: UnsafeRawBufferPointer(bytes).part(frame + 4, 44), at: frame),
          at: frame)
      }
    }
    var scan = FrameReader()
    try scan.begin(segment, at: SegmentHeader.byteCount, limit: segment.bytes.count, offset: 0)
    do throws(Fault) {
      while true {
        try scan.readRun(from: 0, to: 1000)
        #expect(scan.recordsLeft == 0)
      }
    } catch {
      #expect(error.position == frame + 24)
    }
    // A cursor does not get this far: the segment now ends with another frame than the one that the next segment continues.
    var cursor = reader.cursor(from: 0)
    var seen: UInt64 = 0
    #expect(
      readOn(&cursor, &seen)?.position == UInt64(frame + FrameHeader(trusted: segment.bytes, at: frame).byteCount))
    #expect(seen == 0)
    reader.close()
  }

  @Test("a reader touches no byte behind the mapped end, whatever lengths say")
  func mappedEnd() async throws {
    try await makeStore()
    let reader = try LogReader.open(directory.path)
    let segment = try reader.commitPoint.segments.segment(0)
    let frame = try reader.commitPoint.segments.framePosition(holding: 50, in: segment, end: .max)
    let count = FrameHeader.byteCount + 5 * 207 + 5
    // At every position where the memory may end within the frame: the memory behind it can't be touched.
    let page = Int(getpagesize())
    let memory = try #require(
      mmap(
        nil, frame + count + 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
    defer { munmap(memory, frame + count + 3 * page) }
    let wall = (frame + count).roundedUp(to: page) + page
    #expect(mprotect(memory + wall, page, PROT_NONE) == 0)
    for end in frame..<frame + count {
      let start = memory + (wall - end)
      start.copyMemory(from: segment.bytes.baseAddress!, byteCount: end)
      var scan = cframe_reader(
        UnsafeRawBufferPointer(start: start, count: end), at: frame, limit: .max,
        checksumSeed: segment.checksumSeed)
      #expect(cframe_advance(&scan, .max) == CFRAME_NO_HEADER)
      #expect(
        cframe_is_record(scan.bytes, UInt64(end), UInt64(frame + 48 + 4 * 207), scan.checksum_seed) == 0
          || end >= frame + 48 + 5 * 207)
    }
    reader.close()
  }
}
