import Foundation
import Testing

@testable import LogStore

/// Bytes in the form of something else: client data is never taken for the store's own structures.
@Suite struct LookalikeTests {
  let directory = TemporaryDirectory()
  var segment: String { directory.file("00000000000000000000.log") }

  private func abandon(_ store: LogStore) async throws {
    store.abandon()
    while (try? RealDisk().lock(directory.file("lock"), exclusive: true)) == nil { await Task.yield() }
  }

  /// Records of 48 bytes at multiples of 8: as long as a frame's header, with a checksum over the same bytes and position.
  /// Where a header has its synced position, they have the beginning of name, type and payload, here 16,961.
  private func appendRecordsLikeHeaders() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments(1 << 20))
    _ = try await store.append(Append(event("acknowledged")))
    let payload: [UInt8] = [0, 0] + Array(repeating: 7, count: 12)
    _ = try await store.append(
      Append((0..<4000).map { _ in NewEvent(stream: "A", type: "B", payload: payload) }))
    try await abandon(store)
  }

  private func secondFrame() throws -> Int {
    try content(segment).withUnsafeBytes { bytes in
      let first = SegmentHeader.byteCount + FrameHeader.byteCount
      return first + Int(bytes.integer(at: first + 4, as: UInt32.self))
    }
  }

  @Test("a record of 48 bytes never passes as a frame's header, so a torn frame of such is torn and not damaged")
  func recordAsHeader() async throws {
    try await appendRecordsLikeHeaders()
    let frame = try secondFrame()
    try content(segment).withUnsafeBytes { bytes in
      let header = try SegmentHeader(bytes)
      let checksumSeed = ChecksumSeed(storeID: header.storeID, baseOffset: 0)
      for position in stride(from: frame + FrameHeader.byteCount, to: frame + 48 * 4000, by: 48) {
        // The checksum of one is that of the other.
        #expect(checksumSeed.checksum(of: bytes.part(position + 4, 44), at: position) == bytes.integer(at: position))
        #expect(FrameHeader(in: bytes, at: position, checksumSeed: checksumSeed) == nil)
      }
    }
    try edit(segment) { for at in frame..<(frame / 4096 + 1) * 4096 { $0[at] = 0 } }
    #expect(try LogStore.verify(directory.path).findings == [])
    let reader = try LogReader.open(directory.path)
    #expect(try reader.events(from: 0, limit: .max).map(\.stream) == ["acknowledged"])
    reader.close()
    let store = try LogStore.open(directory.path)
    #expect(store.recovery.tornTail?.position == UInt64(frame))
    #expect(try await store.append(Append(event("after"))).offsets == 1..<2)
    try await store.close()
  }

  @Test("repair of such a torn frame makes no gap and invents no end")
  func repairOfRecordsAsHeaders() async throws {
    try await appendRecordsLikeHeaders()
    let frame = try secondFrame()
    try edit(segment) { for at in frame..<(frame / 4096 + 1) * 4096 { $0[at] = 0 } }
    // As if the writer had died before the frame was synced and announced.
    try FileManager.default.removeItem(atPath: directory.file("tail"))
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.missing.isEmpty && report.endOffset == 1)
  }

  @Test("an empty frame's header never passes as a record")
  func headerAsRecord() throws {
    let checksumSeed = ChecksumSeed(storeID: .random(), baseOffset: 0x0100_0101)
    var bytes = [UInt8](repeating: 0, count: 8192)
    bytes.withUnsafeMutableBytes { bytes in
      var header = FrameHeader(
        firstOffset: 0x0100_0101, timestamp: 1, eventCount: 0, recordCount: 0, syncedPosition: 4096, chain: 0,
        bodyChecksum: RunningChecksum().value, isSnapshot: true)
      header.encode(
        into: UnsafeMutableRawBufferPointer(rebasing: bytes[4096..<4144]), at: 4096, checksumSeed: checksumSeed)
      let read = UnsafeRawBufferPointer(bytes)
      #expect(FrameHeader(in: read, at: 4096, checksumSeed: checksumSeed) != nil)
      // Its checksum is that of a record of 48 bytes.
      #expect(checksumSeed.checksum(of: read.part(4100, 44), at: 4096) == read.integer(at: 4096))
      #expect(Record(in: read, at: 4096, limit: 4144, checksumSeed: checksumSeed) == nil)
    }
  }

  // MARK: - A store whose file `store` is missing

  private func makeStore(events: Int) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for _ in 0..<events { _ = try await store.append(Append(event("s", String(repeating: "x", count: 1500)))) }
    try await abandon(store)
  }

  @Test(
    "without the file store nothing is begun again where events may have been, and no byte is changed",
    arguments: ["first page of frames lost", "cut to its header", "a frame behind the snapshot", "closed before"])
  func storeMissing(how: String) async throws {
    try await makeStore(events: how == "closed before" ? 0 : 30)
    try FileManager.default.removeItem(atPath: directory.file("store"))
    try edit(segment) { bytes in
      switch how {
      case "first page of frames lost": for at in 4096..<8192 { bytes[at] = 0 }
      case "cut to its header": bytes.removeLast(bytes.count - 4096)
      default: break
      }
    }
    if how == "closed before" { try Data([1]).write(to: URL(fileURLWithPath: directory.file("clean"))) }
    let before = try content(segment)
    let isDamage = { (error: LogStoreError) in
      if case .damaged(let damage) = error { damage.file == directory.file("store") } else { false }
    }
    await expectThrows(isDamage) { () throws(LogStoreError) in try LogStore.open(directory.path) }
    await expectThrows(isDamage) { () throws(LogStoreError) in try LogReader.open(directory.path) }
    #expect(try LogStore.verify(directory.path).findings.map(\.file).contains(directory.file("store")))
    #expect(try content(segment) == before)
  }

  @Test("a store whose making was not finished is no store and not damaged, and is begun again by a writer")
  func unfinished() async throws {
    try await makeStore(events: 0)
    for name in ["store", "tail"] { try FileManager.default.removeItem(atPath: directory.file(name)) }
    let isNone = { (error: LogStoreError) in error == .notAStore(directory: directory.path) }
    await expectThrows(isNone) { () throws(LogStoreError) in try LogReader.open(directory.path) }
    await expectThrows(isNone) { () throws(LogStoreError) in try LogStore.verify(directory.path) }
    let store = try LogStore.open(directory.path, options: smallSegments())
    #expect(try await store.append(Append(event("first"))).offsets == 0..<1)
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
  }
}

/// A segment from a copy of the store that was written to separately: sound by itself, but not the one that the next
/// segment continues.
@Suite struct DivergedSegmentTests {
  let directory = TemporaryDirectory()
  let diverged = TemporaryDirectory()
  var segment: String { "00000000000000000000.log" }

  /// The two stores have the same first events. The first segment of one then replaces that of the other.
  private func makeStores(keepsIndex: Bool) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for number in 0..<20 { _ = try await store.append(Append(event("s\(number % 3)", "same"))) }
    try await store.close()
    try copyStore(directory.path, to: diverged.path)
    for (path, content) in [(directory.path, "a"), (diverged.path, "b")] {
      let store = try LogStore.open(path, options: smallSegments())
      for number in 20..<400 {
        _ = try await store.append(Append(event("s\(number % 3)", String(repeating: content, count: 400))))
      }
      try await store.waitUntilIndexed()
      try await store.close()
    }
    #expect(directory.names(".log") == diverged.names(".log") && directory.names(".log").count > 2)
    let files = FileManager.default
    for name in [segment] + (keepsIndex ? [] : directory.names(".idx")) {
      try files.removeItem(atPath: directory.file(name))
      guard name == segment || diverged.names(".idx").contains(name) else { continue }
      try files.copyItem(atPath: diverged.file(name), toPath: directory.file(name))
    }
  }

  @Test(
    "of such a segment nothing is served: not in order, not by stream, not from the middle", arguments: [true, false])
  func refused(keepsIndex: Bool) async throws {
    try await makeStores(keepsIndex: keepsIndex)
    let path = directory.file(segment)
    let isDamage = { (error: LogStoreError) in
      if case .damaged(let damage) = error { damage.file == path } else { false }
    }
    let reader = try LogReader.open(directory.path)
    defer { reader.close() }
    for offset: UInt64 in [0, 25] {
      var cursor = reader.cursor(from: offset)
      var served = 0
      do throws(LogStoreError) {
        while try cursor.next() != nil { served += 1 }
        Issue.record("nothing was thrown")
      } catch {
        #expect(isDamage(error), "\(error)")
      }
      #expect(served == 0)
    }
    await expectThrows(isDamage) { () throws(LogStoreError) in try reader.stream("s1", from: 1, limit: 20) }
    #expect(try LogStore.verify(directory.path).findings.contains { $0.file == path })
    // Readers return what lies behind it.
    let last = try #require(directory.names(".log").last.flatMap { FileName.baseOffset($0, suffix: ".log") })
    #expect(try reader.events(from: last, limit: .max).count == Int(400 - last))
  }

  @Test("verify finds frames that are older than those of the segment before, and a stream that does not begin with 1")
  func timesAndVersions() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    for _ in 0..<300 { _ = try await store.append(Append(event("s", String(repeating: "x", count: 400)))) }
    try await store.close()
    let second = try #require(directory.names(".log").dropFirst().first)
    let base = try #require(FileName.baseOffset(second, suffix: ".log"))
    let sound = try content(directory.file(second))
    // The first frame of the second segment, and with it the chain of all following frames.
    try edit(directory.file(second)) { bytes in
      bytes.withUnsafeMutableBytes { bytes in
        guard let header = try? SegmentHeader(UnsafeRawBufferPointer(bytes)) else { return }
        let checksumSeed = ChecksumSeed(storeID: header.storeID, baseOffset: base)
        var position = SegmentHeader.byteCount
        var chain = header.chain
        while let frame = FrameHeader(in: UnsafeRawBufferPointer(bytes), at: position, checksumSeed: checksumSeed) {
          var rewritten = frame
          rewritten.timestamp = 1
          rewritten.chain = chain
          rewritten.encode(
            into: UnsafeMutableRawBufferPointer(rebasing: bytes[position..<position + frame.byteCount]), at: position,
            checksumSeed: checksumSeed)
          chain = rewritten.checksum
          position += frame.byteCount
        }
      }
    }
    let found = try LogStore.verify(directory.path).findings
    #expect(found.contains { $0.file == directory.file(second) && $0.reason.contains("older") }, "\(found)")
    try edit(directory.file(second)) { $0 = sound }
    #expect(try LogStore.verify(directory.path).findings == [])
  }
}
