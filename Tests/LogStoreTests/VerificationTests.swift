import Foundation
import Testing

@testable import LogStore

/// LOGSTORE_DAMAGES sets how many bits are flipped, beside all bytes of the small files.
private let flips = Int(ProcessInfo.processInfo.environment["LOGSTORE_DAMAGES"] ?? "") ?? 150

@Suite struct VerificationTests {
  @Test("verify finds a flipped bit in any byte of any file of a closed store, and names the file")
  func everyByte() async throws {
    var generator = SeededGenerator.printed()
    let store = try await DamageableStore(&generator, isClosed: true, isIndexed: true, count: 700)
    let path = store.directory.path
    try #require(try LogStore.verify(path).findings.isEmpty)
    var positions: [(name: String, position: Int)] = []
    for name in [FileName.store, FileName.clean] { for position in 0..<64 { positions.append((name, position)) } }
    let large = store.directory.names(".log") + store.directory.names(".idx")
    for name in large {
      let count = store.originals[name]?.count ?? 0
      // The ends of the file's parts, and any other positions.
      for position in [0, 8, 68, 4091, 4092, 4095, 4096, 4143, count / 2, count - 65, count - 1] where position < count
      {
        positions.append((name, position))
      }
    }
    for _ in 0..<flips {
      let name = large.randomElement(using: &generator)!
      positions.append((name, Int.random(in: 0..<(store.originals[name]?.count ?? 1), using: &generator)))
    }
    for (name, position) in positions {
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: store.directory.file(name)))
      try file.seek(toOffset: UInt64(position))
      let byte = try #require(try file.read(upToCount: 1)?.first)
      func put(_ byte: UInt8) throws {
        try file.seek(toOffset: UInt64(position))
        try file.write(contentsOf: [byte])
      }
      try put(byte ^ 1 << UInt8.random(in: 0..<8, using: &generator))
      let findings = try LogStore.verify(path).findings
      #expect(findings.contains { $0.file.hasSuffix("/" + name) }, "\(name) @\(position): \(findings)")
      try put(byte)
      try file.close()
    }
    #expect(try LogStore.verify(path).findings.isEmpty)
  }

  @Test("verify finds bytes behind the end of a file", arguments: [FileName.store, FileName.clean])
  func longer(name: String) async throws {
    var generator = SeededGenerator.printed()
    let store = try await DamageableStore(&generator, isClosed: true, isIndexed: false, count: 60)
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: store.directory.file(name)))
    try file.seekToEnd()
    try file.write(contentsOf: [0])
    try file.close()
    #expect(try LogStore.verify(store.directory.path).findings.map(\.position) == [64])
  }

  /// Verifies a store of several segments, and does something beside it once the first of them was read.
  private func verify(
    _ path: String, meanwhile body: @escaping @Sendable () async throws -> Void
  ) async throws -> [Damage] {
    let (moments, moment) = AsyncStream.makeStream(of: Void.self)
    let isDone = DispatchSemaphore(value: 0)
    return try await withThrowingTaskGroup(of: [Damage].self) { group in
      group.addTask {
        defer { isDone.signal() }
        for await _ in moments {
          try await body()
          break
        }
        return []
      }
      group.addTask {
        try await withUnsafeThrowingContinuation { continuation in
          startTestThread("verify") {
            let result = Result { () throws(LogStoreError) in
              var isFirst = true
              return try LogStore.verify(path) { _, _ in
                guard isFirst else { return }
                isFirst = false
                moment.yield()
                isDone.wait()
              }.findings
            }
            moment.finish()
            continuation.resume(with: result)
          }
        }
      }
      var findings: [Damage] = []
      for try await found in group { findings += found }
      return findings
    }
  }

  /// A first segment that is full, and a second that holds a cursor and no event.
  private func storeEndingWithCursors(_ directory: TemporaryDirectory) async throws -> LogStore {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s", String(repeating: "x", count: 60_000))))
    var checkpoint: UInt64 = 0
    // The first that goes into the second segment stands in its snapshot, the next one in a frame of its own.
    var isSecond = false
    while !isSecond {
      isSecond = directory.names(".log").count == 2
      checkpoint = 1 - checkpoint
      _ = try await store.append(Append([], cursors: [CursorCommit(name: "c", checkpoint: checkpoint, isReset: true)]))
    }
    return store
  }

  @Test("a segment without events that is replaced while verify runs is no damage")
  func replaced() async throws {
    let directory = TemporaryDirectory()
    let store = try await storeEndingWithCursors(directory)
    let last = directory.file(try #require(directory.names(".log").last))
    let number = try FileManager.default.attributesOfItem(atPath: last)[.systemFileNumber] as? Int
    let findings = try await verify(directory.path) {
      _ = try await store.append(Append(event("s", String(repeating: "y", count: 63_000))))
    }
    #expect(findings.isEmpty)
    #expect(try FileManager.default.attributesOfItem(atPath: last)[.systemFileNumber] as? Int != number)
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }

  @Test("a writer that appends and closes while verify runs leaves no damage")
  func closed() async throws {
    let directory = TemporaryDirectory()
    let store = try await storeEndingWithCursors(directory)
    let findings = try await verify(directory.path) {
      _ = try await store.append(Append(event("s", "more")))
      try await store.close()
    }
    #expect(findings.isEmpty)
    #expect(try LogStore.verify(directory.path).events == 2)
  }

  @Test("a first segment that does not begin with offset 0 is refused: lookups trapped after it")
  func firstSegment() async throws {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    try await store.close()
    let first = directory.file(FileName.segment(0))
    var file = [UInt8](try Data(contentsOf: URL(fileURLWithPath: first)))
    var header = try file.withUnsafeBytes { try SegmentHeader($0.part(0, SegmentHeader.byteCount)) }
    header.baseOffset = 5
    file.replaceSubrange(0..<SegmentHeader.byteCount, with: header.encoded())
    try Data(file).write(to: URL(fileURLWithPath: directory.file(FileName.segment(5))))
    try FileManager.default.removeItem(atPath: first)
    try FileManager.default.removeItem(atPath: directory.file(FileName.clean))
    await expectThrows({ if case .damaged(let damage) = $0 { damage.position == 32 } else { false } }) {
      () async throws(LogStoreError) in try LogReader.open(directory.path)
    }
    #expect(try LogStore.verify(directory.path).findings.contains { $0.position == 32 })
  }
}
