import Foundation
import Testing

extension LogStoreCommandTests {
  /// `kill -9` at any moment and any call. LOGSTORE_KILL_ROUNDS sets how often.
  @Suite struct Kill {
    static let rounds = ProcessInfo.processInfo.environment["LOGSTORE_KILL_ROUNDS"].flatMap(Int.init) ?? 200

    @Test("killed at a random moment, every ok is there and no batch is half there", arguments: [1, 4, 16])
    func atRandomMoments(batch: Int) async throws {
      var random = SeededGenerator("kill at random moments, batches of \(batch)")
      var round = KillRounds(batch: batch)
      var killed = 0
      // How long a round takes when it isn't killed: the moments are spread over that.
      var whole = KillRounds(batch: batch, store: try StoreUnderTest())
      let duration = try await ContinuousClock().measure { _ = try await whole.append(using: &random) }
      for number in 0..<max(1, Self.rounds / 6) {
        if number % 8 == 0 { round = KillRounds(batch: batch, store: try StoreUnderTest()) }
        let moment = duration * Double.random(in: 0..<1, using: &random)
        let finished = try await round.append(killAfter: moment, using: &random)
        if finished.signal == SIGKILL { killed += 1 }
        try await round.check("round \(number), killed after \(moment)")
      }
      #expect(killed > 0, "no round was killed before its end")
    }

    /// System calls on the way of an append, each with how many of them a round may see.
    static let calls: [(name: String, most: Int)] = [
      ("pwrite64,pwritev,pwritev2", 120), ("fdatasync,fsync", 60), ("rename,renameat,renameat2", 8),
      ("unlink,unlinkat", 2), ("openat,open", 60), ("ftruncate,fallocate", 4), ("write,writev", 40), ("mmap", 60),
      ("flock,fcntl", 2),
    ]

    @Test("killed before a chosen system call, every ok is there and no batch is half there", arguments: [1, 4, 16])
    func beforeSystemCalls(batch: Int) async throws {
      var random = SeededGenerator("kill before system calls, batches of \(batch)")
      var round = KillRounds(batch: batch)
      var killed = 0
      let rounds = max(1, Self.rounds / 6)
      for number in 0..<rounds {
        if number % 8 == 0 { round = KillRounds(batch: batch, store: try StoreUnderTest()) }
        // The first ones are those that matter most; every run sees them all.
        let call = Self.calls[number < 2 ? number : Int.random(in: 0..<Self.calls.count, using: &random)]
        let place = Int.random(in: 1...call.most, using: &random)
        let finished = try await round.append(
          under: strace(call.name, "signal=KILL:when=\(place)"), using: &random)
        if finished.signal == SIGKILL { killed += 1 }
        try await round.check("round \(number), killed before \(call.name) number \(place)")
      }
      #expect(killed > 0, "no round was killed before its end")
    }

    @Test("killed while 64 tasks append, with conditions, ids and cursors: all that was acknowledged or seen is there")
    func underManyWriters() async throws {
      var random = SeededGenerator("kill under 64 writers")
      var rounds = ManyWriterRounds(store: try StoreUnderTest())
      var events = 0
      for number in 1...max(5, Self.rounds / 20) {
        // Each round reads all that the rounds before have written to its store.
        if number % 4 == 0 { rounds = ManyWriterRounds(store: try StoreUnderTest()) }
        try await rounds.run(number, killAfter: .milliseconds(Int.random(in: 100...900, using: &random)), &random)
        events += rounds.acknowledgedInLastRound
      }
      #expect(events > 1000, "too few events for a test of many: \(events)")
    }
  }
}

/// Rounds of `ManyWriters` on one store, each killed, and what must hold after each.
private struct ManyWriterRounds {
  let store: StoreUnderTest
  private(set) var acknowledgedInLastRound = 0
  /// Of all rounds: mark and number of events, by their first offset.
  private var acknowledged: [UInt64: (mark: String, count: Int)] = [:]
  private var cursors: [String: UInt64] = [:]
  private var known: [DumpedEvent] = []

  init(store: StoreUnderTest) { self.store = store }

  mutating func run(_ round: Int, killAfter: Duration, _ random: inout SeededGenerator) async throws {
    let comment: Comment = "round \(round), killed after \(killAfter)"
    let output = store.scratch.newPath("output")
    let program = (StoreUnderTest.command as NSString).deletingLastPathComponent + "/ManyWriters"
    let process = try LogStoreProcess(
      program, [store.path, "\(round)", "\(random.next())"], scratch: store.scratch, outputFile: output)
    // A random moment is what this is for; nothing is waited for.
    try await Task.sleep(for: killAfter)
    process.signal(SIGKILL)
    let finished = try await process.end()
    try? FileManager.default.removeItem(atPath: output)
    #expect(finished.signal == SIGKILL, "\(comment): ended with \(finished.exitCode ?? -1): \(finished.errors)")
    var seen: UInt64?
    acknowledgedInLastRound = 0
    for line in finished.lines {
      let words = line.split(separator: " ")
      switch words.first {
      case "ack" where words.count == 4:
        let offset = try #require(UInt64(words[1]))
        let count = try #require(Int(words[2]))
        acknowledged[offset] = (String(words[3]), count)
        acknowledgedInLastRound += count
      case "cursor" where words.count == 3:
        let place: UInt64 = try #require(UInt64(words[2]))
        cursors[String(words[1])] = place
      case "seen" where words.count == 2: seen = max(seen ?? 0, try #require(UInt64(words[1])))
      default: Issue.record("\(comment): \(line)")
      }
    }
    guard FileManager.default.fileExists(atPath: store.file("store")) else {
      #expect(acknowledged.isEmpty, "the store is gone: \(comment)")
      return
    }
    try await check(seen: seen, comment)
  }

  private mutating func check(seen: UInt64?, _ comment: Comment) async throws {
    let events = try await store.dump()
    #expect(events.indices.allSatisfy { events[$0].offset == UInt64($0) }, "offsets have gaps: \(comment)")
    #expect(events.starts(with: known), "what was there has changed: \(comment)")
    #expect(seen ?? 0 < UInt64(max(events.count, 1)), "event \(seen ?? 0) was seen, and is not there: \(comment)")
    let marks = events.map {
      $0.payload.split(separator: UInt8(ascii: "/")).map { String(decoding: $0, as: UTF8.self) }
    }
    for (offset, append) in acknowledged {
      let isThere = (0..<append.count).allSatisfy { index in
        let at = Int(offset) + index
        guard at < events.count else { return false }
        return marks[at].prefix(5).elementsEqual(
          append.mark.split(separator: "/").map(String.init) + ["\(index)", "\(append.count)"])
      }
      #expect(isThere, "the acknowledged events \(offset) + \(append.count) are not there: \(comment)")
      if !isThere { break }
    }
    // Batches are whole and in one piece: each event but a first one follows the one before it.
    let isWhole = events.indices.allSatisfy { at in
      guard marks[at].count >= 5, let index = Int(marks[at][3]), let count = Int(marks[at][4]) else { return false }
      let isStart =
        index == 0 || (at > 0 && marks[at - 1].prefix(3) == marks[at].prefix(3) && marks[at - 1][3] == "\(index - 1)")
      let isEnd = index == count - 1 || at + 1 < events.count
      return isStart && isEnd
    }
    #expect(isWhole, "half a batch, or one with others' events in it: \(comment)")
    expectVersionsInOrder(events, "\(comment)")
    // Each writer's appends are in the order in which it made them.
    var last: [String: Int] = [:]
    for mark in marks where mark.count >= 5 && mark[3] == "0" {
      let number = Int(mark[2].dropFirst()) ?? 0
      let writer = "\(mark[0])/\(mark[1])"
      if number <= last[writer] ?? 0 {
        Issue.record("append \(mark) comes after number \(last[writer] ?? 0): \(comment)")
        break
      }
      last[writer] = number
    }
    let statistics = try await store.run("stat", "--json")
    let object = try JSONSerialization.jsonObject(with: Data(statistics.output)) as? [String: Any]
    var checkpoints: [String: UInt64] = [:]
    for cursor in object?["cursors"] as? [[String: Any]] ?? [] {
      if let name = cursor["name"] as? String, let checkpoint = cursor["checkpoint"] as? UInt64 {
        checkpoints[name] = checkpoint
      }
    }
    for (name, checkpoint) in cursors {
      #expect(
        checkpoints[name] ?? 0 >= checkpoint,
        "cursor \(name) is at \(checkpoints[name] ?? 0), was at \(checkpoint): \(comment)")
    }
    try await store.expectSound()
    known = events
  }
}

/// `strace` that does something at a system call, and writes down nothing.
func strace(_ calls: String, _ injection: String) -> [String] {
  // A question mark: names that this kind of machine doesn't have are no error. (--seccomp-bpf would be faster, but
  // strace doesn't inject with it.)
  let names = calls.split(separator: ",").map { "?\($0)" }.joined(separator: ",")
  return [
    "strace", "-f", "-qqq", "-e", "signal=none", "-e", "trace=\(names)", "-e", "inject=\(names):\(injection)",
    "-o", "/dev/null",
  ]
}

/// Each stream's events have versions from 1 on, without gaps.
private func expectVersionsInOrder(_ events: [DumpedEvent], _ comment: String) {
  var versions: [[UInt8]: UInt64] = [:]
  for event in events {
    versions[event.stream, default: 0] += 1
    if event.version != versions[event.stream] {
      Issue.record("version \(event.version) at offset \(event.offset): \(comment)")
      return
    }
  }
}

/// Rounds of appending and dying on one store, and what must hold after each.
private struct KillRounds {
  let batch: Int
  private let store: StoreUnderTest?
  /// Every event that was there after the round before; they must never change.
  private var known: [DumpedEvent] = []
  /// Acknowledged by the round, by offset.
  private var acknowledged: [UInt64: [UInt8]] = [:]
  private var round = 0

  init(batch: Int, store: StoreUnderTest? = nil) {
    self.batch = batch
    self.store = store
  }

  /// One process that appends marked batches until it is killed or done.
  mutating func append(
    killAfter: Duration? = nil, under tracer: [String] = [], using random: inout SeededGenerator
  ) async throws -> Finished {
    let store = try #require(store)
    round += 1
    acknowledged = [:]
    var payloads: [[UInt8]] = []
    var input: [UInt8] = []
    for number in 0..<(600 / batch) {
      for index in 0..<batch {
        // Marked with its round and batch; the filler has lengths and bytes that a parser could stumble over.
        var payload = Array("r\(round)/b\(number)/\(index)/".utf8)
        payload.append(
          contentsOf: (0..<Int.random(in: 0...120, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random)
          })
        payloads.append(payload)
        input.append(contentsOf: "s\(number % 5)-\(index % 3)\tMarked\t".utf8)
        input.append(contentsOf: escaped(payload))
        input.append(UInt8(ascii: "\n"))
      }
    }
    let finished = try await store.run(
      ["append", "--batch", "\(batch)", "--segment-size", "64KiB"], input: input, under: tracer, killAfter: killAfter)
    for (line, payload) in zip(finished.lines, payloads) {
      guard line.hasPrefix("ok "), let offset = UInt64(line.dropFirst(3)) else {
        throw HarnessError("unexpected answer \(line); standard error: \(finished.errors)")
      }
      acknowledged[offset] = payload
    }
    if finished.signal == nil {
      #expect(finished.exitCode == 0, "\(finished.errors)")
      #expect(finished.lines.count == payloads.count)
    }
    return finished
  }

  /// What a reader finds afterwards.
  mutating func check(_ comment: String) async throws {
    let store = try #require(store)
    // Killed before the store was made: then nothing was acknowledged, and there may be nothing to read.
    if known.isEmpty, acknowledged.isEmpty, !FileManager.default.fileExists(atPath: store.file("store")) { return }
    let events = try await store.dump()
    #expect(events.indices.allSatisfy { events[$0].offset == UInt64($0) }, "offsets have gaps: \(comment)")
    #expect(events.starts(with: known), "what was there has changed: \(comment)")
    for (offset, payload) in acknowledged {
      let isThere = offset < UInt64(events.count) && events[Int(offset)].payload == payload
      #expect(isThere, "ok \(offset) is lost: \(comment)")
      if !isThere { break }
    }
    var sizes: [[UInt8]: Int] = [:]
    for event in events { sizes[mark(event), default: 0] += 1 }
    #expect(sizes.values.allSatisfy { $0 == batch }, "half a batch: \(comment)")
    expectVersionsInOrder(events, "\(comment)")
    try await store.expectSound()
    known = events
  }

  /// `r1/b2`, which a batch's events share.
  private func mark(_ event: DumpedEvent) -> [UInt8] {
    Array(
      event.payload.split(separator: UInt8(ascii: "/"), maxSplits: 2).prefix(2).joined(separator: [UInt8(ascii: "/")]))
  }
}
