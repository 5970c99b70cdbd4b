import Foundation
import Synchronization
import Testing

@testable import LogStore

/// A machine that has no thread left.
@Suite struct ThreadTests {
  let directory = TemporaryDirectory()

  private func isMissing(_ error: LogStoreError) -> Bool {
    if case .inputOutput("start the thread", _, EAGAIN) = error { true } else { false }
  }

  /// Tries with one thread more each time until it succeeds; returns how often it failed.
  private func failures<Opened>(_ open: (ThreadlessDisk) throws(LogStoreError) -> Opened) async throws -> Int {
    for threads in 0..<8 {
      let disk = ThreadlessDisk(threads)
      do throws(LogStoreError) {
        let opened = try open(disk)
        withExtendedLifetime(opened) {}
        return threads
      } catch {
        #expect(isMissing(error), "\(error)")
      }
      // What was started before has ended.
      while disk.running > 0 { await Task.yield() }
      // Nobody holds the lock, and all descriptors in the directory are closed.
      if FileManager.default.fileExists(atPath: directory.file("lock")) {
        let lock = try RealDisk().lock(directory.file("lock"), exclusive: true)
        #expect(lock != nil)
        lock?.release()
        let whole = try RealDisk().lockDirectory(directory.path, exclusive: true)
        #expect(whole != nil)
        whole?.release()
      }
      #expect(try openNames() == [])
      #expect(directory.names(".tmp") == [])
    }
    return 8
  }

  /// Names in the directory that this process has open.
  private func openNames() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
      // It may have been closed meanwhile.
      try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")
    }.filter { $0.hasPrefix(directory.path) }
  }

  @Test("a store whose threads can't be had is an error, new or not, and leaves no thread, lock or descriptor")
  func store() async throws {
    let path = directory.path
    let options = smallSegments()
    // The second try makes the first segment, with a thread that ends, so the others find a store.
    #expect(
      try await failures { disk throws(LogStoreError) in try LogStore.open(path, options: options, disk: disk) } == 3)
    // It was let go of in the background.
    while true {
      if case .success(let store) = Result(catching: { try LogStore.open(path, options: options) }) {
        _ = try await store.append(Append(event("s")))
        try await store.close()
        break
      }
      await Task.yield()
    }
    #expect(
      try await failures { disk throws(LogStoreError) in try LogStore.open(path, options: options, disk: disk) } == 3)
  }

  @Test("so is a reader, and a scrub")
  func reader() async throws {
    let path = directory.path
    try await LogStore.open(path, options: smallSegments()).close()
    #expect(try await failures { disk throws(LogStoreError) in try Follower.open(path, disk: disk).follower } == 1)
    let disk = ThreadlessDisk(3)
    let store = try LogStore.open(path, options: smallSegments(), disk: disk)
    await expectThrows({ isMissing($0) }) { () async throws(LogStoreError) in try store.scrub { _ in } }
    _ = try await store.append(Append(event("s")))
    try await store.close()
    while disk.running > 0 { await Task.yield() }
  }
}

/// The machine's own disk, on a machine that can start only a number of threads.
final class ThreadlessDisk: RealDiskDouble {
  let real = RealDisk()
  private let left: Mutex<Int>
  private let started = Mutex(0)

  init(_ threads: Int) { left = Mutex(threads) }

  /// Threads that have not ended.
  var running: Int { started.withLock { $0 } }

  func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws(LogStoreError) {
    let isThere = left.withLock { left in
      left -= 1
      return left >= 0
    }
    guard isThere else { throw .inputOutput(operation: "start the thread", path: name, code: EAGAIN) }
    started.withLock { $0 += 1 }
    try startThread(name, nil) { [self] in
      body()
      started.withLock { $0 -= 1 }
    }
  }
}
