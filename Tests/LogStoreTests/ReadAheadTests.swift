import Foundation
import Synchronization
import Testing

@testable import LogStore

@Suite("reading ahead")
struct ReadAheadTests {
  let directory = TemporaryDirectory()

  @Test(
    "lookups that wait for the disk request a whole group at once, and decide the same as without",
    arguments: [false, true])
  func groups(isSlow: Bool) async throws {
    var generator = SeededGenerator.printed()
    let disk = AdvisedDisk(isSlow: isSlow)
    let store = try LogStore.open(directory.path, options: smallSegments(), disk: disk)
    var versions: [String: UInt64] = [:]
    for first in stride(from: 0, to: 3000, by: 60) {
      let events = (first..<first + 60).map { event("s\($0 % 1000)", filler) }
      _ = try await store.appendBuffered(Append(events))
      for event in events { versions[event.stream, default: 0] += 1 }
    }
    try await store.waitUntilIndexed()
    for _ in 0..<20 {
      // Each stream once, so that the decision does not depend on the order.
      var streams = (0..<1100).map { "s\($0)" }.shuffled(using: &generator)
      var appends: [(streams: [String], append: Append)] = []
      for _ in 0..<64 {
        let chosen = Array(streams.suffix(Int.random(in: 1...3, using: &generator)))
        streams.removeLast(chosen.count)
        var append = Append(chosen.map { event($0, filler) })
        for stream in chosen {
          append.conditions[stream] =
            switch Int.random(in: 0..<6, using: &generator) {
            case 0: .noStream
            case 1: .streamExists
            case 2: .version(UInt64.random(in: 0...4, using: &generator))
            case 3, 4: .version(versions[stream] ?? 0)
            default: .any
            }
        }
        appends.append((chosen, append))
      }
      let answers = await withTaskGroup(of: (Int, [UInt64]?).self) { group in
        for (number, append) in appends.map(\.append).enumerated() {
          group.addTask {
            do throws(LogStoreError) {
              return (number, try await store.append(append).versions)
            } catch {
              if case .conflict = error { return (number, nil) }
              Issue.record("\(error)")
              return (number, nil)
            }
          }
        }
        return await group.reduce(into: [Int: [UInt64]?]()) { $0[$1.0] = $1.1 }
      }
      for (number, (chosen, append)) in appends.enumerated() {
        let isMet = chosen.allSatisfy { append.conditions[$0]?.isMet(by: versions[$0] ?? 0) ?? true }
        let expected = isMet ? chosen.map { (versions[$0] ?? 0) + 1 } : nil
        #expect(answers[number] == .some(expected), "\(chosen)")
        if isMet { for stream in chosen { versions[stream, default: 0] += 1 } }
      }
    }
    // While nothing waits, nothing is read ahead.
    #expect((disk.readAheadCount > 0) == isSlow)
    for (stream, version) in versions.shuffled(using: &generator).prefix(200) {
      #expect(try store.reader.streamVersion(stream) == version)
    }
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings == [])
  }

  @Test("the filters that every lookup queries are read into memory when a store is opened for writing")
  func filters() async throws {
    var generator = SeededGenerator.printed()
    var model = IndexModel()
    var store = try LogStore.open(directory.path, options: smallSegments())
    try await model.append(6000, to: store, &generator)
    try await store.waitUntilIndexed()
    try await store.close()
    let disk = AdvisedDisk(isSlow: false)
    store = try LogStore.open(directory.path, options: smallSegments(), disk: disk)
    try await store.waitUntilIndexed()
    #expect(disk.keptReadyCount == directory.indexRanges.count)
    try await store.close()
  }

  @Test("what an index says falsely is never asked for outside of a mapping")
  func damagedIndexes() async throws {
    var generator = SeededGenerator.printed()
    var model = IndexModel()
    let store = try LogStore.open(directory.path, options: smallSegments())
    try await model.append(4000, to: store, &generator)
    try await store.waitUntilIndexed()
    try await store.close()
    for name in directory.names(".idx") {
      var content = [UInt8](try Data(contentsOf: URL(fileURLWithPath: directory.file(name))))
      for at in content.indices.dropFirst(400) where Int.random(in: 0..<20, using: &generator) == 0 {
        content[at] = UInt8.random(in: 0...255, using: &generator)
      }
      try Data(content).write(to: URL(fileURLWithPath: directory.file(name)))
    }
    // The disk checks that a position is in its mapping.
    let disk = AdvisedDisk(isSlow: true)
    let (follower, commitPoint, recovery) = try Follower.open(directory.path, disk: disk)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    let hashes = model.offsets.keys.map { StreamKey(Array($0.utf8)).hash }
    for _ in 0..<3 {
      commitPoint.segments.readAhead(lastEventsOf: hashes)
      #expect(try model.check(reader, lookUps: 50, &generator) == nil)
    }
    reader.close()
  }

  private let filler = String(repeating: "f", count: 300)
}

/// The machine's own disk. It counts the advice that it gets, and its clock makes every read seem slow.
final class AdvisedDisk: RealDiskDouble {
  private final class AdvisedFile: File {
    private let file: any File
    private let disk: AdvisedDisk

    init(_ file: any File, _ disk: AdvisedDisk) {
      self.file = file
      self.disk = disk
    }

    var path: String { file.path }
    func byteCount() throws(LogStoreError) -> UInt64 { try file.byteCount() }
    func read(into buffer: UnsafeMutableRawBufferPointer, at position: UInt64) throws(LogStoreError) -> Int {
      try file.read(into: buffer, at: position)
    }
    func write(_ bytes: UnsafeRawBufferPointer, at position: UInt64) throws(LogStoreError) {
      try file.write(bytes, at: position)
    }
    func sync() throws(LogStoreError) { try file.sync() }
    func allocate(byteCount: UInt64) throws(LogStoreError) -> Bool { try file.allocate(byteCount: byteCount) }
    func startWriteback(at position: UInt64, byteCount: UInt64) {
      file.startWriteback(at: position, byteCount: byteCount)
    }
    func resize(to byteCount: UInt64) throws(LogStoreError) { try file.resize(to: byteCount) }

    func map(byteCount: Int) throws(LogStoreError) -> Mapping {
      let mapping = try file.map(byteCount: byteCount)
      let disk = disk
      return Mapping(bytes: mapping.bytes) { advice in
        switch advice {
        case .randomAccess: mapping.expectRandomAccess()
        case .readAhead(let range):
          #expect(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= byteCount)
          mapping.readAhead(at: range.lowerBound, byteCount: range.count)
          disk.readAheads.wrappingAdd(1, ordering: .relaxed)
        case .keepReady(let range):
          #expect(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= byteCount)
          mapping.keepReady(at: range.lowerBound, byteCount: range.count)
          disk.keptReady.wrappingAdd(1, ordering: .relaxed)
        }
      } release: { _ in
        withExtendedLifetime(mapping) {}
      }
    }
  }

  private let isSlow: Bool
  let real = RealDisk()
  private let clock = Atomic<UInt64>(1_700_000_000_000_000)
  private let readAheads = Atomic<Int>(0)
  private let keptReady = Atomic<Int>(0)

  init(isSlow: Bool) {
    self.isSlow = isSlow
  }

  var readAheadCount: Int { readAheads.load(ordering: .relaxed) }
  var keptReadyCount: Int { keptReady.load(ordering: .relaxed) }

  func now() -> UInt64 {
    clock.wrappingAdd(isSlow ? 10_000 : 0, ordering: .relaxed).newValue
  }

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    AdvisedFile(try real.open(path, mode), self)
  }
}
