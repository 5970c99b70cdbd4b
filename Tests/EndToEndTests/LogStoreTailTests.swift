import Foundation
import Testing

extension LogStoreCommandTests {
  @Suite struct Tail {
    @Test("tail prints what is there and continues while another process appends, across segments")
    func follows() async throws {
      let store = try StoreUnderTest()
      try await store.fill(30)
      let tail = try store.start("tail")
      for number in 0..<30 { #expect(try await tail.line()?.hasPrefix("\(number)\t") == true) }
      let append = try store.start("append", "--segment-size", "64KiB")
      let lines = StoreUnderTest.lines(800, 200, from: 30)
      let sending = Task { try await append.send(lines) }
      for number in 30..<830 {
        let line = try await tail.line()
        #expect(line?.hasPrefix("\(number)\t") == true, "expected \(number), got \(line?.prefix(20) ?? "the end")")
      }
      try await sending.value
      // A writer that dies doesn't end the reader; the next one's events are seen as well.
      append.signal(SIGKILL)
      _ = try await append.end()
      try await store.run("append", input: "s\tT\tafter\n")
      #expect(try await tail.line()?.hasSuffix("\tafter") == true)
      tail.signal(SIGINT)
      let finished = try await tail.end()
      #expect(finished.exitCode == 0 && finished.errors.isEmpty, "\(finished.errors)")
    }

    @Test("tail begins at an offset, also one that is not there yet, or at the end")
    func begins() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let fromSeven = try store.start("tail", "--from", "7")
      let fromTwelve = try store.start("tail", "--from", "12")
      let fromEnd = try store.start("tail", "--from", "end")
      for number in 7..<10 { #expect(try await fromSeven.line()?.hasPrefix("\(number)\t") == true) }
      // Only when it waits is it known to have opened the store at the end.
      try await onThread { try waitUntilAsleep(fromEnd.pid) }
      try await store.fill(5, from: 10)
      #expect(try await fromSeven.line()?.hasPrefix("10\t") == true)
      #expect(try await fromEnd.line()?.hasPrefix("10\t") == true)
      #expect(try await fromTwelve.line()?.hasPrefix("12\t") == true)
      for tail in [fromSeven, fromTwelve, fromEnd] {
        tail.signal(SIGTERM)
        #expect(try await tail.end().exitCode == 0)
      }
    }

    @Test("a store is opened for reading again and again while its writer begins segment after segment")
    func opensWhileSegmentsBegin() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let input = store.scratch.newPath("input")
      try Data(StoreUnderTest.lines(150_000, 200)).write(to: URL(fileURLWithPath: input))
      let writer = try LogStoreProcess(
        StoreUnderTest.command, ["append", "--dir", store.path, "--batch", "200", "--segment-size", "64KiB"],
        scratch: store.scratch, inputFile: input, outputFile: "/dev/null")
      let before = try store.segments().count
      var opened = 0
      var last: UInt64 = 0
      while try store.segments().count < before + 400 {
        let result = try await store.run("dump", "--from", "\(last)", "--limit", "1")
        #expect(result.exitCode == 0, "\(result.errors)")
        opened += 1
        last += 200
        guard result.exitCode == 0 else { break }
      }
      #expect(opened > 5)
      writer.signal(SIGKILL)
      _ = try await writer.end()
    }

    @Test("a tail whose every poll fails prints all the same, and does not spin")
    func pollFails() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let append = try store.start("append")
      let log = store.scratch.newPath("polls")
      let fault = Shim.Fault(call: "poll", number: 1, andLater: true, action: .error(ENOMEM))
      let words = try await Shim.words(root: store.path, faults: [fault], log: log)
      let tail = try store.start("tail", under: words)
      for _ in 0..<10 { #expect(try await tail.line() != nil) }
      let start = ContinuousClock.now
      let before = try Self.pollCount(log)
      for number in 10..<30 {
        try await append.send("s\tT\t\(number)\n")
        #expect(try await tail.line()?.hasPrefix("\(number)\t") == true)
      }
      // Time is what is measured over.
      try await Task.sleep(for: .seconds(1))
      let count = try Self.pollCount(log) - before
      let milliseconds = Int((ContinuousClock.now - start) / .milliseconds(1))
      // It rests for 2 ms after each.
      #expect(count > 10 && count <= milliseconds / 2 + 10, "\(count) polls in \(milliseconds) ms")
      tail.signal(SIGKILL)
      _ = try await tail.end()
      _ = try await append.end()
    }

    private static func pollCount(_ log: String) throws -> Int {
      try ShimRecord.read(log).count { $0.call == "poll" && $0.phase == .failed }
    }

    @Test("a tail that waits for a writer to finish opening ends with a signal", arguments: [SIGINT, SIGTERM])
    func endsWhileItWaits(signal: Int32) async throws {
      let store = try StoreUnderTest()
      try await store.fill(1)
      // What a writer that is opening looks like: it holds the lock and has written no `tail` yet.
      let lock = open(store.path + "/lock", O_RDWR | O_CLOEXEC)
      try #require(lock >= 0 && flock(lock, LOCK_EX) == 0)
      defer { close(lock) }
      try FileManager.default.removeItem(atPath: store.path + "/tail")
      let tail = try store.start("tail")
      try await waitUntilItPauses(tail.pid)
      tail.signal(signal)
      let finished = try await tail.end(within: .seconds(10))
      #expect(finished.signal == signal && finished.text.isEmpty)
    }

    @Test("a waiting tail burns no core")
    func waitsQuietly() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let append = try store.start("append")
      try await append.send("s\tT\tx\n")
      #expect(try await append.line() == "ok 10")
      let tail = try store.start("tail")
      for _ in 0..<11 { #expect(try await tail.line() != nil) }
      let before = try cpuTicks(tail.pid)
      // The time itself is what is measured over.
      try await Task.sleep(for: .seconds(2))
      let used = try cpuTicks(tail.pid) - before
      #expect(used <= 20, "\(used) of 200 hundredths of a second")
      tail.signal(SIGTERM)
      _ = try await tail.end()
      _ = try await append.end()
    }

    @Test("a durable cursor continues where it was, also after kill -9, and stat prints its lag")
    func cursor() async throws {
      let store = try StoreUnderTest()
      try await store.fill(20)
      let first = try store.start("tail", "--cursor", "c")
      for number in 0..<20 { #expect(try await first.line()?.hasPrefix("\(number)\t") == true) }
      first.signal(SIGTERM)
      #expect(try await first.end().exitCode == 0)
      #expect(try await store.run("stat").text.contains("cursor c: at 20, 0 behind\n"))
      try await store.fill(5, from: 20)
      #expect(try await store.run("stat").text.contains("cursor c: at 20, 5 behind\n"))
      let second = try store.start("tail", "--cursor", "c")
      for number in 20..<25 { #expect(try await second.line()?.hasPrefix("\(number)\t") == true) }
      second.signal(SIGKILL)
      _ = try await second.end()
      let third = try store.start("tail", "--cursor", "c")
      third.signal(SIGTERM)
      let rest = try await third.end()
      // At least once: what was printed when the process died may come again, but never anything before it.
      #expect(rest.lines.allSatisfy { (UInt64($0.prefix { $0 != "\t" }) ?? 0) >= 20 })
      // The cursors are in the log, and other events around them are untouched.
      #expect(try await store.dump().count == 25)
      let events = try await store.run("tail", "--cursor", "other", "--from", "nonsense")
      #expect(events.exitCode == 64)
    }
  }
}

/// The fields of a `stat` file of `/proc` from the third, the state, on: what comes after the name in parentheses, which may
/// have spaces and parentheses itself.
private func statFields(_ path: String) throws -> [Substring] {
  let text = try String(contentsOfFile: path, encoding: .utf8)
  guard let name = text.lastIndex(of: ")") else { throw HarnessError("\(path) has no name: \(text)") }
  return text[text.index(after: name)...].split(separator: " ")
}

/// Waits until a process sleeps for a time of its own, as one does that looks again and again.
private func waitUntilItPauses(_ pid: pid_t) async throws {
  let deadline = ContinuousClock.now + .seconds(20)
  while ContinuousClock.now < deadline {
    // A process or thread that is about to begin, or has ended, waits for nothing.
    let threads = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")) ?? []
    let waits = threads.compactMap { try? String(contentsOfFile: "/proc/\(pid)/task/\($0)/wchan", encoding: .utf8) }
    if waits.contains(where: { $0.contains("nanosleep") }) { return }
    try await Task.sleep(for: .milliseconds(5))
  }
  throw HarnessError("process \(pid) does not pause")
}

/// User and system time of a process in hundredths of a second.
private func cpuTicks(_ pid: pid_t) throws -> Int {
  let fields = try statFields("/proc/\(pid)/stat")
  return (Int(fields[11]) ?? 0) + (Int(fields[12]) ?? 0)
}

/// Waits until every thread of a process has slept for some looks in a row.
func waitUntilAsleep(_ pid: pid_t) throws {
  let deadline = Date().addingTimeInterval(20)
  var asleep = 0
  while asleep < 20 {
    guard Date() < deadline else { throw HarnessError("process \(pid) does not come to rest") }
    let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
    // A thread that has ended since has no state, and the next look counts.
    let states = threads.map { (try? statFields("/proc/\(pid)/task/\($0)/stat"))?.first ?? "?" }
    // More than the first thread: the command has started its watchers by then.
    asleep = threads.count > 1 && states.allSatisfy { $0 == "S" } ? asleep + 1 : 0
    usleep(5_000)
  }
}
