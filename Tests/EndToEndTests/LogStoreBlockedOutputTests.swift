import Foundation
import Testing

extension LogStoreCommandTests {
  /// Standard output is a full pipe, and its reader does not read.
  @Suite("The logstore command, while nobody reads what it prints")
  struct LogStoreBlockedOutputTests {
    /// More than the time that the command waits for a reader.
    private static let limit = Duration.seconds(5)

    @Test("tail ends at the first signal", arguments: [SIGTERM, SIGINT, SIGHUP], [false, true])
    func tail(_ signal: Int32, hasCursor: Bool) async throws {
      let store = try StoreUnderTest()
      try await store.fill(3000)
      let tail = hasCursor ? try store.start("tail", "--cursor", "c") : try store.start("tail")
      #expect(try await tail.line()?.hasPrefix("0\t") == true)
      try await onThread { try waitUntilAsleep(tail.pid) }
      tail.signal(signal)
      let finished = try await tail.endUnread(within: Self.limit)
      #expect(finished.exitCode == 0 && finished.errors.isEmpty, "\(finished.errors)")
      // Whole lines, and fewer than there are.
      #expect(finished.output.last == UInt8(ascii: "\n"))
      let next = finished.lines.count + 1
      #expect(next < 3000)
      #expect(finished.lines.last?.hasPrefix("\(next - 1)\t") == true)
      guard hasCursor else { return }
      // Events that were not printed come the next time.
      let again = try store.start("tail", "--cursor", "c")
      let first = try await again.line()
      #expect((first?.split(separator: "\t").first).flatMap { Int($0) }.map { $0 <= next } == true, "\(first ?? "")")
      again.signal(SIGKILL)
      _ = try await again.end()
    }

    @Test("append ends at the first signal, and every event with ok is there", arguments: [1, 100])
    func append(batch: Int) async throws {
      let store = try StoreUnderTest()
      let input = store.scratch.newPath("input")
      try Data(StoreUnderTest.lines(60_000, 10)).write(to: URL(fileURLWithPath: input))
      let append = try LogStoreProcess(
        StoreUnderTest.command, ["append", "--dir", store.path, "--batch", "\(batch)"], scratch: store.scratch,
        inputFile: input)
      #expect(try await append.line() == "ok 0")
      try await onThread { try waitUntilAsleep(append.pid) }
      append.signal(SIGTERM)
      let finished = try await append.endUnread(within: Self.limit)
      // 1 where an unfinished batch was refused.
      #expect(finished.exitCode == 0 || batch > 1 && finished.exitCode == 1, "\(finished.errors)")
      #expect(finished.output.last == UInt8(ascii: "\n"))
      let answers = finished.lines.filter { $0.hasPrefix("ok ") }
      #expect(answers == (1..<answers.count + 1).map { "ok \($0)" })
      let events = try await store.dump().count
      #expect(events > answers.count && events < 60_000, "\(events) events, \(answers.count) answers")
      // It was closed as after any signal.
      #expect(FileManager.default.fileExists(atPath: store.path + "/clean"))
    }

    @Test("responses that are written in pieces end with a whole line")
    func wholeLines() async throws {
      let store = try StoreUnderTest()
      let input = store.scratch.newPath("input")
      // One append whose responses are longer than the pipe: they are written together, in pieces, and not all of them.
      // Nothing is read before, so the pipe holds a number of whole pages. A page then ends inside a line: 6,890 bytes
      // precede `ok 1000`, each line from there on has 8, and no number of pages less 6,890 bytes is a multiple of 8.
      try Data(StoreUnderTest.lines(20_000, 10)).write(to: URL(fileURLWithPath: input))
      let append = try LogStoreProcess(
        StoreUnderTest.command, ["append", "--dir", store.path, "--batch", "20000"], scratch: store.scratch,
        inputFile: input)
      try await append.waitUntilPrinting()
      try await onThread { try waitUntilAsleep(append.pid) }
      append.signal(SIGTERM)
      let finished = try await append.endUnread(within: Self.limit)
      #expect(finished.exitCode == 0, "\(finished.errors)")
      let answers = finished.lines
      #expect(answers == (0..<answers.count).map { "ok \($0)" })
      #expect(answers.count > 1000 && answers.count < 10_000, "\(answers.count) answers")
      #expect(finished.output.last == UInt8(ascii: "\n"), "\(finished.text.suffix(20))")
      #expect(try await store.dump().count == 20_000)
    }

    @Test("a reader that is only slow gets every response after a signal, in order")
    func slowReader() async throws {
      let store = try StoreUnderTest()
      let (input, waits) = (store.scratch.newPath("input"), store.scratch.newPath("waits"))
      try Data(StoreUnderTest.lines(60_000, 10)).write(to: URL(fileURLWithPath: input))
      let append = try LogStoreProcess(
        "env",
        [
          "LD_PRELOAD=\(try await TestTool.patience.value)", "PATIENCE=\(waits)", StoreUnderTest.command, "append",
          "--dir",
          store.path,
        ], scratch: store.scratch, inputFile: input)
      #expect(try await append.line() == "ok 0")
      try await onThread { try waitUntilAsleep(append.pid) }
      #expect(!FileManager.default.fileExists(atPath: waits), "without a signal it waits without a limit")
      append.signal(SIGTERM)
      // Only then is anything read: the signal has come, the pipe is full, and the command waits for the reader.
      try await eventually("it waits for its reader", within: .seconds(20)) {
        FileManager.default.fileExists(atPath: waits)
      }
      let finished = try await append.endByItself()
      #expect(finished.exitCode == 0, "\(finished.errors)")
      let count = try await store.dump().count
      #expect(count > 1 && count < 60_000, "\(count) events")
      #expect(finished.output.last == UInt8(ascii: "\n"))
      #expect(finished.lines == (1..<max(1, count)).map { "ok \($0)" })
    }
  }
}
