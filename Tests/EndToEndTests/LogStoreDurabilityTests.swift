import Foundation
import Testing

extension LogStoreCommandTests {
  /// What only a power cut would show, derived from the order of the system calls.
  @Suite struct Durability {
    @Test("every ok is written after a sync that began after its event was written", arguments: [1, 4])
    func acknowledgedIsSynced(batch: Int) async throws {
      let store = try StoreUnderTest()
      let trace = try await store.traceAppend(900, batch: batch)
      #expect(try trace.unsyncedAcknowledgements() == [])
      #expect(trace.acknowledgements.map(\.offset) == Array(0..<900))
      #expect(try store.segments().count > 2, "the test is meant to roll segments")
    }

    @Test("a file gets its name only when its content is synced, and the name is synced before anything in it counts")
    func namesAreSynced() async throws {
      let store = try StoreUnderTest()
      let trace = try await store.traceAppend(900, batch: 1)
      #expect(trace.renames.contains { $0.to.hasSuffix("/store") }, "no store file was named")
      #expect(trace.renames.filter { $0.to.hasSuffix(".log") }.count > 2, "no segments were named")
      #expect(trace.renames.contains { $0.to.hasSuffix(".idx") }, "no index was named")
      #expect(trace.renames.contains { $0.to.hasSuffix("/clean") }, "no clean end was named")
      #expect(trace.unsyncedNames() == [])
    }

    @Test("the directory of a new store is synced in its parent before the first ok")
    func newDirectoryIsSynced() async throws {
      let store = try StoreUnderTest()
      let trace = try await store.traceAppend(1, batch: 1)
      let first = try #require(trace.acknowledgements.first)
      let parent = (store.path as NSString).deletingLastPathComponent
      #expect((trace.syncEnd(of: parent, after: -1) ?? .max) < first.call.start)
    }

    @Test("the clean mark is removed, and the removal synced, before a frame is written")
    func cleanIsTakenBack() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let trace = try await store.traceAppend(5, batch: 1)
      let removal = try #require(
        trace.calls.first { call in
          call.name.hasPrefix("unlink") && call.result == 0
            && call.strings.contains { String(decoding: $0, as: UTF8.self).hasSuffix("clean") }
        }, "clean was not removed")
      let synced = try #require(trace.syncEnd(of: store.path, after: removal.end), "the removal was not synced")
      let frame = try #require(trace.frames.first { $0.endOffset > 10 })
      #expect(synced < frame.call.start)
    }

    @Test(
      "after kill -9 the tail is written again and synced before it is served or added to",
      arguments: ["dump", "append"])
    func tailIsProvenAgain(verb: String) async throws {
      let store = try StoreUnderTest()
      try await store.fillAndKill(20)
      let before = try store.bytes(store.segments()[0])
      let log = store.scratch.newPath("strace")
      let input = verb == "append" ? StoreUnderTest.lines(1, 50) : []
      let result = try await store.run([verb], input: input, under: SystemCallTrace.tracer(log: log))
      try #require(result.exitCode == 0, "\(result.errors)")
      let trace = try SystemCallTrace(log: log)
      let segment = try store.file(store.segments()[0])
      let output = try #require(trace.calls.first { $0.name == "write" && $0.arguments.hasPrefix("1<") })
      let rewritten = try #require(
        trace.frames.last { $0.path == segment && $0.endOffset == 20 && $0.call.end < output.start },
        "the last frame was not written again")
      #expect((trace.syncEnd(of: segment, after: rewritten.call.end) ?? .max) < output.start)
      if verb == "dump" { #expect(try store.bytes(store.segments()[0]) == before, "a reader changed the log") }
    }

    @Test("another process sees an event within milliseconds of its ok, and not before the sync has returned")
    func visibleWhenDurable() async throws {
      let store = try StoreUnderTest()
      try await store.fill(1)
      let tailLog = store.scratch.newPath("tail-strace")
      let appendLog = store.scratch.newPath("append-strace")
      let tail = try store.start("tail", under: SystemCallTrace.tracer(log: tailLog))
      #expect(try await tail.line() != nil)
      // Each sync takes 150 ms longer: half of it before the kernel gets it, half before the writer gets the result.
      let append = try store.start(
        "append",
        under: SystemCallTrace.tracer(
          log: appendLog, inject: ["fdatasync,fsync:delay_enter=75000:delay_exit=75000"]))
      for number in 1...6 {
        try await append.send("s\tT\t\(number)\n")
        #expect(try await append.line() == "ok \(number)")
        #expect(try await tail.line() == "\(number)\ts\t\(number)\tT\t\(number)")
      }
      _ = try await append.end()
      // To the group: strace would only detach from it.
      tail.signalAll(SIGTERM)
      _ = try await tail.end()
      let writer = try SystemCallTrace(log: appendLog)
      let seen = try SystemCallTrace(log: tailLog).calls.filter { $0.name == "write" && $0.arguments.hasPrefix("1<") }
      for number in UInt64(1)...6 {
        let print = try #require(seen.first { $0.strings.first?.starts(with: Array("\(number)\t".utf8)) == true })
        let frame = try #require(writer.frames.first { $0.firstOffset <= number && $0.endOffset > number })
        let synced = try #require(
          writer.calls.first {
            ($0.name == "fdatasync" || $0.name == "fsync") && $0.path() == frame.path && $0.start > frame.call.end
          })
        #expect(print.startTime >= synced.endTime, "event \(number) was served before its sync returned")
        let acknowledged = try #require(writer.acknowledgements.first { $0.offset == number })
        let milliseconds = (print.startTime - acknowledged.call.startTime) * 1000
        #expect(milliseconds < 50, "event \(number) was seen \(milliseconds) ms after its ok")
      }
    }
  }
}

extension StoreUnderTest {
  /// Appends under strace.
  func traceAppend(_ count: Int, batch: Int, inject: [String] = []) async throws -> SystemCallTrace {
    let log = scratch.newPath("strace")
    let result = try await run(
      ["append", "--batch", "\(batch)", "--segment-size", "64KiB"], input: Self.lines(count, 200),
      under: SystemCallTrace.tracer(log: log, inject: inject))
    if inject.isEmpty { try #require(result.exitCode == 0, "\(result.errors)") }
    return try SystemCallTrace(log: log)
  }
}

extension SystemCallTrace {
  /// Offsets whose `ok` was written although no sync of their frame, begun after it was written, had returned.
  func unsyncedAcknowledgements() throws -> [UInt64] {
    let frames = self.frames
    var durableAt: [UInt64: Int] = [:]
    for frame in frames {
      // A frame in an unnamed file becomes durable by its sync too; the names are another claim.
      guard let synced = syncEnd(of: frame.path, after: frame.call.end) else { continue }
      for offset in frame.firstOffset..<frame.endOffset { durableAt[offset] = min(durableAt[offset] ?? .max, synced) }
    }
    return acknowledgements.filter { (durableAt[$0.offset] ?? .max) >= $0.call.start }.map(\.offset)
  }

  /// Names that were given to unsynced content, or that were not synced themselves before something relied on them.
  func unsyncedNames() -> [String] {
    var faults: [String] = []
    for (call, from, to) in renames {
      let lastWrite = calls.last {
        ($0.name.hasPrefix("pwrite") || $0.name == "write" || $0.name == "ftruncate" || $0.name == "fallocate")
          && $0.path() == from && $0.end < call.start
      }
      if let lastWrite, (syncEnd(of: from, after: lastWrite.end) ?? .max) >= call.start {
        faults.append("\(to) was named before it was synced")
      }
      let directory = (to as NSString).deletingLastPathComponent
      let named = syncEnd(of: directory, after: call.end) ?? .max
      if named == .max { faults.append("the name \(to) was never synced") }
      let base = UInt64((to as NSString).lastPathComponent.prefix(20))
      if to.hasSuffix(".log"), let base, let first = acknowledgements.first(where: { $0.offset >= base }),
        named >= first.call.start
      {
        faults.append("ok \(first.offset) came before the name \(to) was synced")
      }
    }
    return faults
  }
}
