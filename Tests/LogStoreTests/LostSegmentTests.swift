import Foundation
import Glibc
import Testing

@testable import LogStore

/// The segment file that a store writes to is removed or replaced while the store is open.
@Suite(.timeLimit(.minutes(15))) struct LostSegmentTests {
  let directory = TemporaryDirectory()

  private var segment: String { join(directory.path, FileName.segment(0)) }

  private func lose(_ loss: Loss) throws {
    let files = FileManager.default
    switch loss {
    case .removed: try files.removeItem(atPath: segment)
    case .moved: try files.moveItem(atPath: segment, toPath: directory.file("elsewhere"))
    case .replaced:
      // Replaced by the same bytes, as in a copy from a backup.
      try files.copyItem(atPath: segment, toPath: directory.file("copy"))
      #expect(rename(directory.file("copy"), segment) == 0)
    }
  }

  private func isLost(_ error: LogStoreError?) -> Bool {
    if case .segmentLost(segment, _)? = error { true } else { false }
  }

  @Test(
    "a writer without anything to write notices, waiting readers are notified, and no close is clean",
    arguments: Loss.allCases)
  func idleWriter(_ loss: Loss) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s")))
    let waiting = Task { try await store.reader.waitForEvents(at: 1) }
    try lose(loss)
    let error = await failure(of: waiting)
    #expect(isLost(error), "\(error?.description ?? "there is nothing more to come")")
    #expect(isLost(store.failure))
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.append(Append(event("s")))
    }
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.close() }
    #expect(!FileManager.default.fileExists(atPath: directory.file(FileName.clean)))
  }

  @Test("a writer at work stops, and names the file", arguments: Loss.allCases, [false, true])
  func busyWriter(_ loss: Loss, isBuffered: Bool) async throws {
    // Large enough that it isn't full before the next check.
    var options = LogStore.Options()
    options.segmentBytes = 64 << 20
    let store = try LogStore.open(directory.path, options: options)
    for _ in 0..<10 { _ = try await store.append(Append(event("s"))) }
    try lose(loss)
    let failure = await failureAtWork(of: store, isBuffered: isBuffered)
    switch failure {
    case .segmentLost(segment, _): break
    case .stopped(let cause): #expect(cause.contains(segment))
    default: Issue.record("\(failure?.description ?? "everything was acknowledged")")
    }
    #expect(isLost(store.failure))
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.close() }
  }

  @Test("a store that is closed at once does not say that all is well", arguments: Loss.allCases)
  func closedAtOnce(_ loss: Loss) async throws {
    // No time passes: the last check was at the first append.
    let store = try LogStore.open(directory.path, options: smallSegments(), disk: TimelessDisk())
    _ = try await store.append(Append(event("s")))
    try lose(loss)
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.close() }
    #expect(!FileManager.default.fileExists(atPath: directory.file(FileName.clean)))
  }

  @Test("no segment is begun behind one that is lost", arguments: Loss.allCases)
  func nextSegment(_ loss: Loss) async throws {
    // No time passes, so there is no other check.
    let store = try LogStore.open(directory.path, options: smallSegments(), disk: TimelessDisk())
    _ = try await store.append(Append(event("s")))
    try lose(loss)
    var acknowledged = 0
    do throws(LogStoreError) {
      // More than fits into the segment.
      while acknowledged < 200 {
        _ = try await store.appendBuffered(Append(event("s", String(repeating: "x", count: 3000))))
        acknowledged += 1
      }
      Issue.record("everything was acknowledged")
    } catch {
      #expect(isLost(store.failure), "\(error)")
    }
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: directory.path).allSatisfy {
        !$0.hasSuffix(".log") || $0 == FileName.segment(0)
      })
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.close() }
  }

  @Test("what is left of a store goes on: a segment that is put back has everything that was acknowledged")
  func putBack() async throws {
    let store = try LogStore.open(directory.path, options: smallSegments())
    _ = try await store.append(Append(event("s", "first")))
    try lose(.moved)
    await expectStopped(naming: segment) { () async throws(LogStoreError) in try await store.close() }
    try FileManager.default.moveItem(atPath: directory.file("elsewhere"), toPath: segment)
    let again = try LogStore.open(directory.path, options: smallSegments())
    #expect(try again.reader.stream("s").count == 1)
    _ = try await again.append(Append(event("s", "second")))
    try await again.close()
  }
}
