import Foundation
import Testing

@testable import LogStore

/// Two copies of a store that were both written to: the same store id, and all checks pass in both.
private struct Diverged {
  let own = TemporaryDirectory()
  let other = TemporaryDirectory()
  var events: [Event] = []

  /// - Parameter otherCount: appends to the other copy after they parted.
  init(otherCount: Int = 300) async throws {
    try await Self.fill(own.path, "shared", 200)
    try FileManager.default.copyItem(atPath: own.path, toPath: other.path)
    try await Self.fill(own.path, "mine", 300)
    try await Self.fill(other.path, "copy", otherCount)
    events = try LogReader.open(own.path).events(from: 0, limit: .max)
  }

  private static func fill(_ path: String, _ type: String, _ count: Int) async throws {
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
  @Test("a segment of a copy that was written to apart takes no sound event's place, whatever its name")
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

  @Test("a copy's segment in the place of the store's own is a gap, and not taken for it")
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
}
