import CLinux
import Glibc
import Testing

@testable import LogStore

/// Pages that the simulated disk can't read: with an error, and not as in a file that was cut.
@Suite(.timeLimit(.minutes(15))) struct UnreadablePageTests {
  let machine: SimulatedMachine
  let disk: SimulatedDisk

  init() {
    var state = SimulatedMachine.State()
    state.losesPages = true
    machine = SimulatedMachine(state)
    disk = SimulatedDisk(machine)
  }

  /// A closed store of several segments, with 200 events of each of three streams.
  ///
  /// - Parameter batch: events in a frame.
  func makeStore(batch: Int = 1) async throws {
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    let payload = String(repeating: "p", count: 200)
    for first in stride(from: 0, to: 600, by: batch) {
      _ = try await store.append(Append((first..<first + batch).map { event("s\($0 / 200)", payload) }))
    }
    try await store.waitUntilIndexed()
    try await store.close()
  }

  func files(_ suffix: String) -> [String] {
    machine.withState { $0.names.files.keys.filter { $0.hasPrefix("d/") && $0.hasSuffix(suffix) }.sorted() }
  }

  func lose(_ path: String, page: Int) {
    machine.withState { $0.names.files[path]?.makeUnreadable(page) }
  }

  func remove(_ path: String) throws {
    try disk.remove(path)
  }

  func isUnreadable(_ error: LogStoreError, _ path: String, page: Int) -> Bool {
    guard case .unreadable(let damage) = error else { return false }
    return damage.file == path && damage.position / 4096 == page
  }

  @Test("what the disk can't read is not reported as damage when its segment was read before")
  func remembered() async throws {
    try await makeStore()
    for index in files(".idx") { try remove(index) }
    let path = files(".log")[1]
    let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk, follows: false, streamCacheBytes: 0)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    lose(path, page: 4)
    let base = commitPoint.segments.bases[1]
    let map = try commitPoint.segments.damageMap(of: base, upTo: nil)
    #expect(map?.ranges.isEmpty == false)
    await expectThrows({ isUnreadable($0, path, page: 4) }) { () throws(LogStoreError) in try reader.stream("s1") }
    await expectThrows({ isUnreadable($0, path, page: 4) }) { () throws(LogStoreError) in
      try commitPoint.segments.checkLog(base)
    }
    await expectThrows({ isUnreadable($0, path, page: 4) }) { () throws(LogStoreError) in
      try reader.damagedRanges(file: path)
    }
  }

  @Test(
    "a lookup in a segment with an unreadable header ends, and finds what can be read, with an index file and without",
    arguments: [true, false])
  func header(isIndexed: Bool) async throws {
    try await makeStore()
    lose(files(".log")[1], page: 0)
    if !isIndexed { for path in files(".idx") { try remove(path) } }
    var options = smallSegments()
    options.servesDamaged = true
    let store = try LogStore.open("d", options: options, disk: disk)
    for stream in 0..<3 { #expect(try store.reader.stream("s\(stream)").count == 200) }
    try await store.close()
  }

  @Test("a segment is not called damaged because the disk can't read the start of the next one")
  func unreadableSuccessor() async throws {
    try await makeStore()
    for path in files(".idx") { try remove(path) }
    let path = files(".log")[1]
    let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk, follows: false, streamCacheBytes: 0)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    for page in 0...1 { lose(path, page: page) }
    let segments = commitPoint.segments
    await expectThrows({ isUnreadable($0, path, page: 0) }) { () throws(LogStoreError) in
      try segments.builtIndex(try segments.segment(segments.bases[0]))
    }
  }

  @Test("verify lists every range that can't be read once, and continues behind it")
  func verification() async throws {
    try await makeStore()
    let paths = files(".log")
    for path in paths { for page in [2, 3, 7] { lose(path, page: page) } }
    var verification = Verification(directory: "d", disk: disk, progress: nil)
    try verification.run()
    let expected = paths.flatMap { path in
      [2, 7].map { Damage(file: path, position: UInt64($0) * 4096, reason: unreadableReason(EIO)) }
    }
    #expect(verification.report.findings == expected)
    #expect(verification.unreadable.map(expected.contains) == true)
  }

  @Test(
    "a reindex that meets a page which can't be read leaves the store closed cleanly only if it was",
    arguments: [true, false])
  func reindex(isClosed: Bool) async throws {
    try await makeStore()
    if !isClosed { try remove("d/" + FileName.clean) }
    let path = files(".log")[1]
    let indexes = files(".idx")
    let clean = machine.withState { $0.names.files["d/" + FileName.clean]?.content }
    lose(path, page: 4)
    await expectThrows({ isUnreadable($0, path, page: 4) }) { () throws(LogStoreError) in
      try LogStore.reindex("d", disk: disk, progress: nil)
    }
    #expect(isClosed == (clean != nil))
    #expect(machine.withState { $0.names.files["d/" + FileName.clean]?.content } == clean)
    #expect(files(".idx") == indexes)
  }

  @Test("a repair names an index file that can't be read")
  func index() async throws {
    try await makeStore()
    let path = try #require(files(".idx").first)
    lose(path, page: 0)
    let report = try RepairRun(directory: "d", disk: disk, progress: nil).run(to: "mended")
    #expect(report.findings.map(\.file) == [path] && report.events == 600)
    #expect(report.findings.allSatisfy { $0.reason.contains("can't be read") })
  }

  @Test("a repair calls nothing damaged that it can't read, and says for each loss where", arguments: 1..<16)
  func repair(page: Int) async throws {
    try await makeStore()
    let path = files(".log")[1]
    lose(path, page: page)
    let report = try RepairRun(directory: "d", disk: disk, progress: nil).run(to: "mended")
    let expected = [Damage(file: path, position: UInt64(page) * 4096, reason: unreadableReason(EIO))]
    #expect(report.findings == expected)
    #expect(report.missing.allSatisfy { $0.damage == expected[0] })
    #expect(report.endOffset == 600 && !report.isEndUnknown)
  }

  @Test("a repair says that the log's end may be lost in pages that can't be read")
  func end() async throws {
    try await makeStore()
    for name in [FileName.clean, FileName.tail] { try remove("d/" + name) }
    let path = try #require(files(".log").last)
    let content = try #require(machine.withState { $0.names.files[path]?.content })
    let used = try #require(content.lastIndex { $0 != 0 })
    lose(path, page: used / 4096)
    let report = try RepairRun(directory: "d", disk: disk, progress: nil).run(to: "mended")
    #expect(report.isEndUnknown && report.endOffset < 600)
    #expect(report.findings.map(\.reason) == [unreadableReason(EIO)])
  }

  @Test("a cursor begins where it should while pages of other files can't be read")
  func cursorBesideFaults() async throws {
    // So that the cursor has to skip the events before it in a frame.
    try await makeStore(batch: 50)
    let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk, follows: false)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    let other = [UInt8](repeating: 0, count: 4096)
    let region = try #require(other.withUnsafeBytes { clinux_region_add($0.baseAddress, 4096) })
    let pointer = FaultRegion(pointer: region)
    defer { clinux_region_remove(region) }
    let isDone = SharedFlag()
    let ended = Mailbox<Void>(nil)
    startTestThread("faults") {
      while !isDone.isSet { clinux_region_note(pointer.pointer, 0) }
      _ = ended.send(())
    }
    for round in 0..<2000 {
      let offset = UInt64(100 + round % 80)
      var cursor = reader.cursor(from: offset)
      let first = try cursor.next()?.offset
      if first != offset { Issue.record("a cursor from \(offset) begins with \(first as Any)") }
    }
    isDone.set()
    var taken: [Void] = []
    _ = ended.receive(into: &taken)
  }

  /// Reads everything and passes over what can't be read, while pages of another mapping fail. Returns the offsets of the
  /// events.
  private func readBesideFaults(_ reader: LogReader) throws -> [UInt64] {
    var offsets: [UInt64] = []
    var passed = 0
    let end = try reader.forEach(from: 0, waitsForDisk: false) {
      passed += $0.offsets.count
    } _: { event in
      offsets.append(event.offset)
      OtherMapping.one.fail()
      return true
    }
    #expect(end == reader.endOffset && offsets.count + passed == Int(end))
    return offsets
  }

  @Test("records of a frame that can be read in part are served while pages of other files can't be read")
  func recordsBesideFaults() async throws {
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    for _ in 0..<20 {
      try await store.append(Append((0..<40).map { event("s\($0)", String(repeating: "p", count: 200)) }))
    }
    try await store.waitUntilIndexed()
    try await store.close()
    let path = files(".log")[1]
    let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk, follows: false)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    for page in [0, 3] { lose(path, page: page) }
    let offsets = try readBesideFaults(reader)
    #expect(offsets.count < 800 && offsets.count > 750, "\(offsets.count)")
  }

  @Test("an event is served whose checksum holds though a page of it can't be read, as the page is zeros")
  func zerosBesideFaults() async throws {
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    for number in 0..<8 {
      let payload = String(repeating: number == 4 ? "\0" : "x", count: 20_000)
      try await store.append(Append([event("s", payload), event("t", "next")]))
    }
    try await store.waitUntilIndexed()
    try await store.close()
    // The page in the middle of the zeros, in whichever segment they are.
    let found = machine.withState { state -> (path: String, page: Int)? in
      for path in state.names.files.keys.sorted() where path.hasSuffix(".log") {
        guard let bytes = state.names.files[path]?.content, let end = bytes.lastIndex(where: { $0 != 0 }) else {
          continue
        }
        for page in 2..<end / 4096 - 1
        where bytes[(page * 4096 - 64)..<((page + 1) * 4096 + 64)].allSatisfy({ $0 == 0 }) {
          return (path, page)
        }
      }
      return nil
    }
    let page = try #require(found)
    lose(page.path, page: page.page)
    let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk, follows: false)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    #expect(try readBesideFaults(reader) == Array(0..<16))
  }
}
