import Foundation
import Synchronization
import Testing

@testable import LogStore

/// The file that is prepared for the next segment is removed or replaced while the store is open.
@Suite(.timeLimit(.minutes(15))) struct PreparedSegmentTests {
  enum Replacement: CaseIterable { case none, notes, zeros, olderSegment, directory, link, pipe }

  let directory = TemporaryDirectory()
  private var prepared: String { directory.file(FileName.next) }
  private let notes = Array("an hour's work".utf8)

  private func replace(by replacement: Replacement) throws {
    let files = FileManager.default
    // It may not be there at the moment.
    try? files.removeItem(atPath: prepared)
    switch replacement {
    case .none: break
    case .notes: try Data(notes).write(to: URL(fileURLWithPath: prepared))
    case .zeros: try Data(count: 65536).write(to: URL(fileURLWithPath: prepared))
    case .olderSegment: try files.copyItem(atPath: directory.file(FileName.segment(0)), toPath: prepared)
    case .directory: try files.createDirectory(atPath: prepared + "/a", withIntermediateDirectories: true)
    case .link: #expect(symlink("nowhere", prepared) == 0)
    case .pipe: #expect(mkfifo(prepared, 0o600) == 0)
    }
  }

  private func fill(_ store: LogStore, segments: Int) async throws {
    while directory.names(".log").count < segments {
      _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000))))
    }
  }

  /// Every event is there, also after the next opening, and no file has the name of a segment that is none.
  private func expectWhole(_ store: LogStore) async throws {
    let count = store.reader.endOffset
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
    let again = try LogStore.open(directory.path, options: smallSegments())
    #expect(try again.reader.events(from: 0, limit: .max).count == Int(count))
    _ = try await again.append(Append(event("s")))
    try await again.close()
  }

  @Test(
    "appends go on without the prepared file, and what is in its place is not lost", arguments: Replacement.allCases)
  func replaced(_ replacement: Replacement) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    var segments = 1
    for _ in 0..<3 {
      _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000))))
      // Its preparation has begun with the append.
      while !FileManager.default.fileExists(atPath: prepared) { await Task.yield() }
      try replace(by: replacement)
      segments += 1
      try await fill(store, segments: segments)
    }
    try await expectWhole(store)
    switch replacement {
    case .notes:
      #expect(try [UInt8](Data(contentsOf: URL(fileURLWithPath: prepared + ".kept-1"))) == notes)
    case .directory: #expect(FileManager.default.fileExists(atPath: prepared + ".kept-1/a"))
    default: #expect(!directory.names(".kept-1").contains { _ in true })
    }
  }

  /// Opens the store on a disk that replaces the prepared file a number of times whenever it is asked for the time, as the
  /// writer does when it has taken the file, and before it gives the name.
  private func openReplacing(by replacement: Replacement, _ timesLeft: Counter) throws -> LogStore {
    let disk = HookedDisk {
      guard FileManager.default.fileExists(atPath: prepared), timesLeft.takeOne() else { return }
      do { try replace(by: replacement) } catch { Issue.record("\(error)") }
    }
    return try LogStore.open(directory.path, options: smallSegments(), disk: disk)
  }

  @Test("a file that is replaced just before it gets its name does not get it", arguments: Replacement.allCases)
  func replacedLate(_ replacement: Replacement) async throws {
    let timesLeft = Counter()
    let store = try openReplacing(by: replacement, timesLeft)
    while directory.names(".log").count < 4 {
      timesLeft.set(2)
      _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000))))
    }
    timesLeft.set(0)
    try await expectWhole(store)
  }

  @Test("an append whose segment is replaced again and again is refused, and the next one is not")
  func replacedAlways() async throws {
    let timesLeft = Counter()
    let store = try openReplacing(by: .zeros, timesLeft)
    var failure: LogStoreError?
    while failure == nil, directory.names(".log").count < 2 {
      timesLeft.set(1000)
      do throws(LogStoreError) {
        _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000))))
      } catch {
        failure = error
      }
    }
    if case .segmentLost(prepared, _)? = failure {
    } else {
      Issue.record("\(failure?.description ?? "it was not refused")")
    }
    timesLeft.set(0)
    try await fill(store, segments: 3)
    try await expectWhole(store)
  }

  @Test("a file that the writer did not make is not removed when it closes")
  func closed() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s", String(repeating: "x", count: 3000))))
    while !FileManager.default.fileExists(atPath: prepared) { await Task.yield() }
    try replace(by: .notes)
    try await store.close()
    #expect(try [UInt8](Data(contentsOf: URL(fileURLWithPath: prepared))) == notes)
  }
}

private final class Counter: Sendable {
  private let count = Mutex(0)

  func set(_ value: Int) { count.withLock { $0 = value } }

  func takeOne() -> Bool {
    count.withLock {
      guard $0 > 0 else { return false }
      $0 -= 1
      return true
    }
  }
}

/// A disk that calls a closure whenever it is asked for the time.
private struct HookedDisk: RealDiskDouble {
  let real = RealDisk()
  let hook: @Sendable () -> Void

  func now() -> UInt64 {
    hook()
    return real.now()
  }
}
