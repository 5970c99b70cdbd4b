import Foundation
import Testing

extension LogStoreCommandTests {
  /// Random damage to stores that were closed, killed, merged: LOGSTORE_DAMAGES sets the number.
  @Suite struct DamageCampaign {
    private static let count = ProcessInfo.processInfo.environment["LOGSTORE_DAMAGES"].flatMap(Int.init) ?? 45

    @Test("no damage crashes a command, hangs it, makes it print a wrong event, or lose a sound one silently")
    func damages() async throws {
      var random = SeededGenerator("damages")
      var wholes: [WholeStore] = []
      for kind in WholeStore.Kind.allCases { wholes.append(try await WholeStore.make(kind)) }
      let store = try StoreUnderTest()
      var tally: [String: Int] = [:]
      for number in 0..<Self.count {
        let whole = wholes[number % wholes.count]
        let damaging = Damaging(whole, using: &random)
        var round = DamageRound(store: store, whole: whole, damaging: damaging, number: number)
        try await round.run(using: &random)
        for word in round.tally { tally[word, default: 0] += 1 }
        if round.isBroken { break }
      }
      print(
        "damages: \(Self.count), \(tally.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", "))"
      )
    }
  }
}

/// One damaged store, and the results of the commands.
private struct DamageRound {
  let store: StoreUnderTest
  let whole: WholeStore
  let damaging: Damaging
  let number: Int
  private(set) var tally: [String] = []
  private(set) var isBroken = false

  init(store: StoreUnderTest, whole: WholeStore, damaging: Damaging, number: Int) {
    self.store = store
    self.whole = whole
    self.damaging = damaging
    self.number = number
  }

  private mutating func expect(
    _ holds: Bool, _ claim: String, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    if !holds { isBroken = true }
    #expect(holds, "damage \(number) (\(whole.kind): \(damaging)): \(claim)", sourceLocation: sourceLocation)
  }

  mutating func run(using random: inout SeededGenerator) async throws {
    try putBack()
    let verified = try await call(["verify"])
    let dumped = try await call(["dump"])
    judgeFindings(verified)
    let served = judgeEvents(dumped)
    let others: [(inout Self, Int, Bool) async throws -> Void] = [
      { try await $0.dumpStream($1, isWhole: $2) }, { try await $0.dumpFrom($1, isWhole: $2) },
      { round, _, _ in _ = try await round.call(["stat"]) }, { try await $0.tail($1, isWhole: $2) },
      { try await $0.backUp($1, isWhole: $2) },
      { try await $0.append($1, isWhole: $2) }, { try await $0.reindex($1, isWhole: $2) },
    ]
    for _ in 0..<2 {
      guard let next = others.randomElement(using: &random) else { return }
      try await next(&self, served, dumped.exitCode == 0)
      try putBack()
    }
  }

  private func putBack() throws {
    try? FileManager.default.removeItem(atPath: store.path)
    try FileManager.default.createDirectory(atPath: store.path, withIntermediateDirectories: true)
    for (name, bytes) in damaging.files { try store.write(name, bytes) }
  }

  /// Ends by itself, with 0, or with 1 and a line that says why.
  @discardableResult
  private mutating func call(_ arguments: [String], input: [UInt8] = []) async throws -> Finished {
    let result = try await store.run(arguments, input: input, within: .seconds(60))
    expect(
      result.exitCode == 0 || result.exitCode == 1,
      "\(arguments) ended with \(result.exitCode ?? -1), signal \(result.signal ?? 0): \(result.errors)")
    if result.exitCode == 1 {
      let said = result.errors.split(separator: "\n").last ?? ""
      expect(said.hasPrefix("logstore: ") && said.contains(store.path), "\(arguments) names a file: \(result.errors)")
    }
    tally.append("\(arguments[0]) \(result.exitCode == 0 ? "0" : "1")")
    return result
  }

  // MARK: - What must hold

  private mutating func judgeFindings(_ verified: Finished) {
    guard verified.exitCode == 0 else {
      let findings = verified.lines.filter { $0.hasPrefix("damaged ") }
      expect(
        !findings.isEmpty || verified.errors.contains("format version"), "verify lists what it found: \(verified.text)")
      for finding in findings { expect(finding.contains(" @"), "a finding names a byte: \(finding)") }
      let isUnharmed = damaging.changed.allSatisfy { $0 == "tail" }
      expect(!isUnharmed, "verify finds nothing in a whole store: \(verified.text)")
      return
    }
    // Differences that may go unnoticed: in disposable files, and at the unproven end after a kill.
    let mayPass = damaging.changed.allSatisfy { name in
      name == "tail" || name.hasSuffix(".idx") && damaging.files[name] == nil
        || name == "clean" && damaging.files[name] == nil || !isClosed && name == whole.segments.last
    }
    expect(mayPass || damaging.isAllOlder || isOlderEnd, "verify finds what was changed: \(damaging.changed.sorted())")
  }

  /// The clean mark is there, unchanged.
  private var isClosed: Bool { damaging.files["clean"] != nil && damaging.files["clean"] == whole.files["clean"] }

  /// Everything after some moment is gone, and with it everything that could show it: segments, indexes, the clean mark.
  private var isOlderEnd: Bool {
    guard !isClosed else { return false }
    let last = damaging.files.keys.filter { $0.hasSuffix(".log") }.max() ?? ""
    return damaging.files.allSatisfy { name, bytes in
      name >= last || name == "tail" || bytes == whole.files[name] || whole.older.contains { $0[name] == bytes }
    }
  }

  /// Returns the number of printed events, all of them right.
  private mutating func judgeEvents(_ dumped: Finished) -> Int {
    guard let count = whole.events.count(in: dumped.output) else {
      expect(false, "dump prints what was appended and nothing else")
      return 0
    }
    if dumped.exitCode == 0, count < whole.events.count {
      tally.append("shorter")
      expect(!isClosed, "after a clean close nothing is missing without a word: \(count) of \(whole.events.count)")
      // Bytes behind the end that was found must themselves be damaged.
      for frame in whole.frames where frame.offsets.upperBound > count && !frame.offsets.isEmpty {
        expect(
          !whole.isWhole(frame, in: damaging.files) || damaging.isAllOlder,
          "the frame of \(frame.offsets) is whole, but the log ends with \(count)")
        if isBroken { break }
      }
      if !damaging.isAllOlder, !dumped.errors.contains("note:") { tally.append("shorter without a note") }
    }
    return count
  }

  /// The number of events of a stream with a lower offset.
  private func count(of name: String, before offset: Int) -> Int {
    // Streams take turns.
    let number = Int(name.dropFirst()) ?? 0
    return max(0, (offset - number + 6) / 7)
  }

  private mutating func dumpStream(_ served: Int, isWhole: Bool) async throws {
    let name = "s\(number % 7)"
    let result = try await call(["dump", "--stream", name])
    let count = whole.streams[name]?.count(in: result.output)
    expect(count != nil, "a stream's events are those that were appended")
    guard isWhole else { return }
    expect(result.exitCode == 0, "what can be scanned can be loaded: \(result.errors)")
    expect(count == self.count(of: name, before: served), "a stream's events are all there")
  }

  private mutating func dumpFrom(_ served: Int, isWhole: Bool) async throws {
    let from = number * 37 % whole.events.count
    let result = try await call(["dump", "--from", "\(from)", "--limit", "40"])
    let count = whole.events.count(in: result.output, from: from)
    expect(count != nil, "events from an offset on are those that were appended")
    guard isWhole else { return }
    expect(result.exitCode == 0, "what can be scanned can be sought: \(result.errors)")
    expect(count == max(0, min(40, served - from)), "all from an offset on are there")
  }

  private mutating func tail(_ served: Int, isWhole: Bool) async throws {
    let tail = try store.start("tail", "--from", "0")
    var printed: [UInt8] = []
    // Not all: reading a pipe line by line is slow here.
    for _ in 0..<min(served, 200) {
      guard let line = try await tail.line(within: .seconds(30)) else {
        expect(!isWhole, "tail prints what dump prints: \(tail.errorsSoFar)")
        break
      }
      printed += line.utf8
      printed.append(UInt8(ascii: "\n"))
    }
    expect(whole.events.count(in: printed) != nil, "tail prints what was appended")
    tail.signal(SIGINT)
    let finished = try await tail.end(within: .seconds(30))
    // With nothing printed, the signal may come before anything waits for it.
    let isInterrupted = served == 0 && finished.signal == SIGINT
    expect(
      finished.exitCode == 0 || finished.exitCode == 1 || isInterrupted,
      "tail ended with signal \(finished.signal ?? 0): \(finished.errors)")
    tally.append("tail \(finished.exitCode ?? -1)")
  }

  private mutating func backUp(_ served: Int, isWhole: Bool) async throws {
    let target = store.scratch.newPath("backup")
    defer { try? FileManager.default.removeItem(atPath: target) }
    let result = try await call(["backup", "--to", target + (number % 2 == 0 ? "/" : "")])
    guard result.exitCode == 0 else { return }
    expect(isWhole, "only what can be read is backed up")
    let restored = try StoreUnderTest()
    let restoring = try await restored.run("restore", "--from", target + (number % 2 == 0 ? "/" : ""))
    expect(restoring.exitCode == 0, "what was backed up can be restored: \(restoring.errors)")
    let copy = try await restored.run("dump")
    expect(
      copy.exitCode == 0 && whole.events.count(in: copy.output) == served,
      "a backup holds what was read")
  }

  private mutating func append(_ served: Int, isWhole: Bool) async throws {
    let before = try store.content()
    let result = try await call(["append"], input: Array("s1\tT\tnew\ns-new\tT\tnew\n".utf8))
    guard result.exitCode == 0 else {
      if result.text.contains("ok ") { return try await expectFirstAlone(result, served, isWhole: isWhole) }
      let isSame = try store.content() == before
      expect(isSame, "refusing changes nothing: \(result.errors)")
      return
    }
    // Opening reads only the last segment: damage in others is found when it is read, so there may be more events than were
    // served.
    let offset = result.lines.first.flatMap { $0.hasPrefix("ok ") ? Int($0.dropFirst(3)) : nil }
    if isWhole {
      expect(offset == served, "an append goes to the end of the log, \(served), not to \(result.lines)")
      let again = try await call(["dump"])
      let behind = again.outputLines.suffix(2).reduce(0) { $0 + $1.count + 1 }
      expect(
        again.exitCode == 0 && whole.events.count(in: Array(again.output.dropLast(behind))) == served,
        "after an append all is there: \(again.errors)")
    } else {
      expect(
        offset.map { $0 > served && $0 <= whole.events.count } ?? false,
        "an append goes behind all that there was, not to \(result.lines)")
    }
    let stream = try await call(["dump", "--stream", "s1"])
    if isWhole {
      expect(
        stream.exitCode == 0 && stream.outputLines.count == count(of: "s1", before: served) + 1,
        "its stream goes on: \(stream.errors)")
    }
  }

  /// The second append met damage on its way to its stream, the first one had not: two appends, each on its own.
  private mutating func expectFirstAlone(_ result: Finished, _ served: Int, isWhole: Bool) async throws {
    expect(!isWhole, "what can be read can be appended to: \(result.errors)")
    let answers = result.lines.filter { $0.hasPrefix("ok ") }
    let offset = answers.first.flatMap { Int($0.dropFirst(3)) } ?? 0
    expect(
      answers.count == 1 && result.lines.first == answers.first && offset > served && offset <= whole.events.count,
      "the first append alone is acknowledged, behind all that there was: \(result.lines)")
    let added = try await call(["dump", "--from", "\(offset)"])
    expect(
      added.exitCode == 0 && added.outputLines.count == 1 && added.text.hasPrefix("\(offset)\ts1\t")
        && added.text.hasSuffix("\tT\tnew\n"), "what was acknowledged is there: \(added.errors)")
  }

  private mutating func reindex(_ served: Int, isWhole: Bool) async throws {
    let result = try await call(["reindex"])
    guard result.exitCode == 0 else {
      expect(!isWhole, "what can be scanned can be indexed: \(result.errors)")
      return
    }
    expect(isWhole, "only what can be read is indexed")
    let name = "s\(number % 7)"
    let loaded = try await call(["dump", "--stream", name])
    expect(
      loaded.exitCode == 0 && whole.streams[name]?.count(in: loaded.output) == count(of: name, before: served),
      "the new index is right")
  }
}
