import Foundation
import Glibc
import Synchronization
import Testing

@testable import LogStore

/// The requests to a log, and its responses.
final class History: Sendable {
  struct Attempt: Sendable {
    var payloads: [[UInt8]]
    var streams: [String]
    var acknowledged: Range<UInt64>?
    /// The log said that it wrote nothing.
    var isRefused = false
    var cursor: CursorCommit?
  }

  private let attempts: Mutex<[Attempt]> = Mutex([])

  func begin(_ make: (Int) -> Attempt) -> (number: Int, attempt: Attempt) {
    attempts.withLock { attempts in
      let attempt = make(attempts.count)
      attempts.append(attempt)
      return (attempts.count - 1, attempt)
    }
  }

  func end(_ number: Int, _ change: (inout Attempt) -> Void) {
    attempts.withLock { change(&$0[number]) }
  }

  var all: [Attempt] { attempts.withLock { $0 } }

  /// Compares the log with what was asked for and acknowledged. nil if all is well.
  func check(_ reader: LogReader) throws(LogStoreError) -> String? {
    let events = try reader.events(from: 0, limit: .max)
    var versions: [String: UInt64] = [:]
    var indexes: [Int: [Int]] = [:]
    let attempts = all
    for (index, event) in events.enumerated() {
      guard event.offset == UInt64(index) else { return "offset \(event.offset) as number \(index)" }
      versions[event.stream, default: 0] += 1
      guard event.version == versions[event.stream] else {
        return "version \(event.version) of \(event.stream) at offset \(index), expected \(versions[event.stream] ?? 0)"
      }
      let parts = String(decoding: event.payload.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self).split(
        separator: "/")
      guard parts.count == 2, let number = Int(parts[0]), let ordinal = Int(parts[1]), number < attempts.count,
        ordinal < attempts[number].payloads.count, attempts[number].payloads[ordinal] == event.payload,
        attempts[number].streams[ordinal] == event.stream
      else { return "an event that was never asked for at offset \(index)" }
      indexes[number, default: []].append(index)
    }
    for (number, attempt) in attempts.enumerated() {
      let found = indexes[number] ?? []
      if let acknowledged = attempt.acknowledged {
        guard found.map(UInt64.init) == Array(acknowledged) else {
          return "append \(number) was acknowledged at \(acknowledged), found at \(found)"
        }
      } else if attempt.isRefused {
        guard found.isEmpty else { return "append \(number) was refused, found at \(found)" }
      } else {
        guard found.isEmpty || found == Array(found[0]..<found[0] + attempt.payloads.count) else {
          return "a part of append \(number), found at \(found)"
        }
      }
      if let cursor = attempt.cursor, attempt.acknowledged != nil || !found.isEmpty {
        guard try (reader.cursor(cursor.name) ?? 0) >= cursor.checkpoint else {
          return "cursor \(cursor.name) is behind its events"
        }
      }
    }
    for (stream, version) in versions {
      guard try reader.stream(stream).map(\.version) == Array(1...version) else {
        return "stream \(stream) is not whole"
      }
    }
    return nil
  }
}

@Suite struct CrashTests {
  static let simulations = Int(ProcessInfo.processInfo.environment["LOGSTORE_SIMULATIONS"] ?? "") ?? 150

  /// Appends from several tasks at once until the disk dies.
  func work(_ store: LogStore, _ history: History, seed: UInt64, appends: Int) async {
    await withTaskGroup(of: Void.self) { group in
      for task in 0..<4 {
        group.addTask {
          var generator = SeededGenerator(seed &+ UInt64(task) &* 977)
          for _ in 0..<appends {
            let count = Int.random(in: 1...6, using: &generator)
            let isLarge = Int.random(in: 0..<8, using: &generator) == 0
            let streams = (0..<count).map { _ in "s\(Int.random(in: 0..<5, using: &generator))" }
            let padding = (0..<count).map { _ in Int.random(in: 0..<(isLarge ? 4000 : 300), using: &generator) }
            let cursor =
              Int.random(in: 0..<3, using: &generator) == 0
              ? CursorCommit(name: "consumer-\(task)", checkpoint: store.reader.endOffset) : nil
            let wrongVersion = Int.random(in: 0..<10, using: &generator) == 0
            let (number, attempt) = history.begin { number in
              History.Attempt(
                payloads: (0..<count).map { bytes("\(number)/\($0) " + String(repeating: "x", count: padding[$0])) },
                streams: streams, cursor: cursor)
            }
            var append = Append(
              zip(attempt.streams, attempt.payloads).map { NewEvent(stream: $0, type: "t", payload: $1) },
              cursors: cursor.map { [$0] } ?? [])
            if wrongVersion { append.conditions[streams[0]] = .version(1 << 40) }
            do throws(LogStoreError) {
              let done = try await store.append(append)
              history.end(number) { $0.acknowledged = done.offsets }
            } catch .conflict {
              history.end(number) { $0.isRefused = true }
            } catch {
              return
            }
          }
        }
      }
    }
  }

  @Test(
    "whatever a crash leaves of unsynced writes, sizes and names: all that was acknowledged is there, nothing half, nothing invented"
  )
  func crashes() async throws {
    var seeds = SystemRandomNumberGenerator()
    for _ in 0..<Self.simulations {
      let seed = SeededGenerator.givenSeed ?? seeds.next()
      if let problem = await crash(seed) {
        Issue.record("LOGSTORE_SEED=\(seed): \(problem)")
        return
      }
    }
  }

  /// Runs one history of several crashes on one disk. Returns what is wrong.
  func crash(_ seed: UInt64) async -> String? {
    var generator = SeededGenerator(seed)
    let history = History()
    var disk = SimulatedDisk()
    for generation in 0..<4 {
      let deathAt = Int.random(in: 1...150, using: &generator)
      disk.setFault { number, _, _ in number >= deathAt ? .death : nil }
      var store: LogStore?
      do throws(LogStoreError) {
        store = try LogStore.open("d", options: smallSegments(), disk: disk)
      } catch .damaged(let damage) {
        return "generation \(generation) refused: \(damage)"
      } catch {
        // It died while it was opened.
      }
      if let store {
        do throws(LogStoreError) {
          if let problem = try history.check(store.reader) { return "generation \(generation), opened: \(problem)" }
        } catch {
          if !disk.isDead { return "generation \(generation), reading: \(error)" }
        }
        await work(store, history, seed: generator.next(), appends: 25)
        if Bool.random(using: &generator) {
          try? await store.close()
        } else {
          store.abandon()
        }
      }
      disk = Bool.random(using: &generator) ? disk.afterPowerCut(&generator) : disk.afterKill()
    }
    do throws(LogStoreError) {
      let store = try LogStore.open("d", options: smallSegments(), disk: disk)
      if let problem = try history.check(store.reader) { return "at the end: \(problem)" }
      try await store.close()
      let (follower, commitPoint, recovery) = try Follower.open("d", disk: disk)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      if let problem = try history.check(reader) { return "as a reader at the end: \(problem)" }
      reader.close()
    } catch {
      return "at the end: \(error)"
    }
    return nil
  }

  @Test(
    "after a failed write or sync nothing is acknowledged; opened again, everything acknowledged is there",
    arguments: [EIO, ENOSPC, EINTR])
  func failures(code: Int32) async throws {
    var seeds = SystemRandomNumberGenerator()
    for _ in 0..<max(50, Self.simulations / 8) {
      let seed = SeededGenerator.givenSeed ?? seeds.next()
      var generator = SeededGenerator(seed)
      let history = History()
      let disk = SimulatedDisk()
      let store = try LogStore.open("d", options: smallSegments(), disk: disk)
      let failAt = Int.random(in: 1...60, using: &generator)
      // Only calls on segments: a failure while the next file is prepared may be retried.
      disk.setFault { number, operation, path in
        number == failAt && path.hasSuffix(".log") ? .error(code) : nil
      }
      await work(store, history, seed: generator.next(), appends: 20)
      let failure = store.failure
      if failure != nil {
        await expectThrows({ if case .stopped = $0 { true } else { false } }) { () async throws(LogStoreError) in
          try await store.append(Append(event("late")))
        }
        await expectThrows({ if case .stopped = $0 { true } else { false } }) { () async throws(LogStoreError) in
          try await store.close()
        }
      } else {
        try await store.close()
      }
      // The kernel has dropped the pages that it could not write: a power cut shows what was really on disk.
      for after in [disk.afterKill(), disk.afterPowerCut(&generator)] {
        let reopened = try LogStore.open("d", options: smallSegments(), disk: after)
        #expect(try history.check(reopened.reader) == nil, "LOGSTORE_SEED=\(seed) \(failure?.description ?? "")")
        _ = try await reopened.append(Append([], cursors: [CursorCommit(name: "again", checkpoint: 0)]))
        try await reopened.close()
      }
    }
  }

  @Test("what was found in the page cache after a failed sync is written again before it is served")
  func failedSyncThenReopened() async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    // Longer than a sector, so that no later write takes their bytes along.
    _ = try await store.append(Append(event("s", String(repeating: "kept ", count: 400))))
    disk.setFault { _, operation, _ in operation == .sync ? .error(EIO) : nil }
    await expectThrows({ if case .inputOutput = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("s", String(repeating: "unknown ", count: 400))))
    }
    try? await store.close()
    // The frame is in the cache, clean, and not on the disk. A writer that trusted it would build on nothing.
    disk.setFault(nil)
    var reopened = try LogStore.open("d", options: smallSegments(), disk: disk)
    #expect(reopened.reader.endOffset == 2)
    let done = try await reopened.append(Append(event("s", "built on it")))
    #expect(done.offsets == 2..<3)
    reopened.abandon()
    var generator = SeededGenerator.printed()
    for _ in 0..<20 {
      reopened = try LogStore.open("d", options: smallSegments(), disk: disk.afterPowerCut(&generator))
      #expect(try reopened.reader.stream("s").map(\.version) == [1, 2, 3])
      reopened.abandon()
    }
  }

  @Test(
    "a segment whose writer died before syncing its name is made durable by the next process that opens it",
    arguments: [false, true])
  func unsyncedName(byReader: Bool) async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    // Dies at the first sync of the directory after the second segment got its name.
    let isNamed = Atomic(false)
    disk.setFault { _, operation, path in
      if operation == .rename, path.hasSuffix(".log") { isNamed.store(true, ordering: .relaxed) }
      return operation == .syncDirectory && isNamed.load(ordering: .relaxed) ? .death : nil
    }
    await expectThrows({ if case .inputOutput = $0 { true } else { false } }) { () async throws(LogStoreError) in
      while true { _ = try await store.append(Append(event("s", String(repeating: "n", count: 5000)))) }
    }
    try? await store.close()
    let killed = disk.afterKill()
    // Making the old segment's index would sync the directory too, sooner or later.
    killed.setFault { _, _, path in path.hasSuffix(".idx.tmp") ? .error(EIO) : nil }
    let served: UInt64
    if byReader {
      let (follower, commitPoint, _) = try Follower.open("d", disk: killed)
      served = commitPoint.end.offset
      follower.stop()
    } else {
      let reopened = try LogStore.open("d", options: smallSegments(), disk: killed)
      served = try await reopened.append(Append(event("s"))).offsets.upperBound
      reopened.abandon()
    }
    var generator = SeededGenerator.printed()
    for _ in 0..<10 {
      let after = try LogStore.open("d", options: smallSegments(), disk: killed.afterPowerCut(&generator))
      #expect(after.reader.endOffset >= served)
      after.abandon()
    }
  }

  @Test("a disk without space refuses by name, keeps reading, and goes on when there is space again")
  func diskFull() async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    disk.setFault { _, _, path in path.hasSuffix("next.tmp") ? .error(ENOSPC) : nil }
    var count: UInt64 = 0
    do throws(LogStoreError) {
      while count < 1000 {
        _ = try await store.append(Append(event("s", String(repeating: "f", count: 500))))
        count += 1
      }
      Issue.record("the disk never filled")
    } catch {
      #expect({ if case .diskFull = error { true } else { false } }(), "\(error)")
    }
    #expect(count > 50)
    #expect(store.failure == nil)
    #expect(try store.reader.events(from: 0, limit: .max).count == Int(count))
    disk.setFault(nil)
    #expect(try await store.append(Append(event("s"))).offsets == count..<count + 1)
    try await store.close()
  }

  @Test("a prepared file is not used any more after a larger one could not be created under its name")
  func diskFullForLargeAppend() async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    _ = try await store.append(Append(event("s")))
    while try !disk.exists("d/next.tmp") { await Task.yield() }
    disk.setFault { _, operation, path in
      operation == .allocate && path.hasSuffix("next.tmp") ? .error(ENOSPC) : nil
    }
    await expectThrows({ if case .diskFull = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("s", String(repeating: "l", count: 200_000))))
    }
    disk.setFault(nil)
    for _ in 0..<4 { _ = try await store.append(Append(event("s", String(repeating: "m", count: 40_000)))) }
    try await store.close()
    let reopened = try LogStore.open("d", options: smallSegments(), disk: disk)
    #expect(try reopened.reader.stream("s").map(\.version) == [1, 2, 3, 4, 5])
    try await reopened.close()
  }

  @Test("nobody sees an event before its sync, and a refusal that rests on it falls with it")
  func nothingBeforeTheSync() async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    let reader = store.reader
    let seenAtSync = Mutex<[UInt64]>([])
    disk.setFault { _, operation, path in
      if operation == .sync, path.hasSuffix(".log") { seenAtSync.withLock { $0.append(reader.endOffset) } }
      return nil
    }
    for _ in 0..<5 { _ = try await store.append(Append(event("s"))) }
    #expect(seenAtSync.withLock { $0 } == [0, 1, 2, 3, 4])

    // Both wait while a first append's sync takes its time, and so are in one group, whose sync fails.
    let syncs = Atomic(0)
    disk.setFault { _, operation, path in
      guard operation == .sync, path.hasSuffix(".log") else { return nil }
      if syncs.wrappingAdd(1, ordering: .relaxed).newValue > 1 { return .error(EIO) }
      usleep(100_000)
      return nil
    }
    let outcomes = await withTaskGroup(of: String.self) { group in
      group.addTask { (try? await store.append(Append(event("first")))) == nil ? "lost" : "there" }
      while syncs.load(ordering: .relaxed) == 0 { await Task.yield() }
      for _ in 0..<2 {
        group.addTask {
          do throws(LogStoreError) {
            _ = try await store.append(Append(event("contended"), expecting: .noStream))
            return "acknowledged"
          } catch .conflict {
            return "refused"
          } catch {
            return "failed"
          }
        }
      }
      return await group.reduce(into: []) { $0.append($1) }.sorted()
    }
    #expect(outcomes == ["failed", "failed", "there"])
    #expect(store.reader.endOffset == 6)
    try? await store.close()
  }

  @Test("no append is acknowledged before its bytes are synced, and none in a new segment before its name is")
  func orderOfOperations() async throws {
    let disk = SimulatedDisk()
    let store = try LogStore.open("d", options: smallSegments(), disk: disk)
    for index in 0..<400 {
      _ = try await store.append(Append(event("s", String(repeating: "o", count: 500) + "\(index)")))
      // At the moment of the response nothing of the log is left to be made durable.
      let unsynced = disk.machine.withState { state in
        state.names.files.filter { $0.key.hasSuffix(".log") && !$0.value.isSynced }.map(\.key)
          + state.nameChanges.map(\.path).filter { $0.hasSuffix(".log") }
      }
      #expect(unsynced == [])
    }
    #expect(store.reader.commitPoint.segments.bases.count > 3)
    try await store.close()
  }
}
