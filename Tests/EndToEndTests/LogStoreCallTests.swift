import Foundation
import Testing

extension LogStoreCommandTests {
  /// The contract of the calls: what goes in, what comes out, the exit codes.
  @Suite struct Calls {
    @Test(
      "wrong usage exits with 64",
      arguments: [
        ["append"], ["append", "--dir", "x", "--batch", "0"], ["append", "--dir", "x", "--stream", "s"],
        ["append", "--dir", "x", "--expect", "3"], ["append", "--dir", "x", "--segment-size", "1"],
        ["append", "--dir", "x", "--stream", "s", "--type", "t", "--data", "d", "--expect", "sometimes"],
        ["append", "--dir", "x", "--stream", "s", "--type", "t", "--data", "d", "--id", "no-uuid"],
        ["append", "--dir", "x", "--stream", "s", "--type", "t", "--data", "d", "--batch", "2"],
        ["dump", "--dir", "x", "--from", "-1"], ["dump", "--dir", "x", "--format", "xml"], ["dump", "--dir", ""],
        ["tail", "--dir", "x", "--from", "start"], ["tail", "--dir", "x", "--cursor", ""],
        ["dump", "--dir", "x", "--stream", ""], ["append", "--dir", "x", "--stream", "", "--type", "t", "--data", "d"],
        ["append", "--dir", "x", "--stream", "s", "--type", "", "--data", "d"],
        ["backup", "--dir", "x", "--to", "d/", "--replace"], ["frobnicate"], ["stat", "--dir", "x", "--yaml"],
      ])
    func wrongUsage(arguments: [String]) async throws {
      let scratch = try TemporaryDirectory()
      let process = try LogStoreProcess(StoreUnderTest.command, arguments, scratch: scratch)
      let finished = try await process.end()
      #expect(finished.exitCode == 64)
      #expect(!finished.errors.isEmpty && finished.output.isEmpty)
    }

    @Test("any bytes in any field come back as they were: through append, dump and its escapes")
    func escapesRoundTrip() async throws {
      let store = try StoreUnderTest()
      var random = SeededGenerator("round trip")
      let allBytes = Array(UInt8.min...UInt8.max)
      let names = [
        "plain", "tab\tnewline\nreturn\rback\\slash", "zero\0byte", "ünïcode 🐟", String(repeating: "n", count: 255),
      ]
      var events: [(name: String, payload: [UInt8])] = [
        ("empty payload", []), ("all bytes", allBytes), ("crlf", Array("line\r\n".utf8)),
      ]
      for _ in 0..<40 {
        events.append(
          (
            names.randomElement(using: &random) ?? "",
            (0..<Int.random(in: 0...600, using: &random)).map { _ in
              // Special bytes are likely, alone and adjacent.
              Bool.random(using: &random)
                ? UInt8.random(in: 0...255, using: &random) : [9, 10, 13, 92, 116].randomElement(using: &random) ?? 0
            }
          ))
      }
      var input: [UInt8] = []
      for event in events {
        input +=
          escaped(Array(event.name.utf8)) + [9] + escaped(Array(event.name.utf8)) + [9] + escaped(event.payload) + [10]
      }
      let result = try await store.run(["append"], input: input)
      #expect(result.text == events.indices.map { "ok \($0)\n" }.joined(), "\(result.errors)")
      let dumped = try await store.dump()
      #expect(dumped.map(\.payload) == events.map(\.payload))
      #expect(dumped.map(\.stream) == events.map { Array($0.name.utf8) })
      #expect(dumped.map(\.type) == events.map { Array($0.name.utf8) })
      // Append accepts what dump prints.
      let copy = try StoreUnderTest()
      let text = try await store.run("dump")
      let lines = text.outputLines.map { line -> [UInt8] in
        let fields = line.split(separator: 9, maxSplits: 4, omittingEmptySubsequences: false)
        return Array(fields[1]) + [9] + Array(fields[3]) + [9] + Array(fields[4]) + [10]
      }
      try await copy.run(["append", "--batch", "7"], input: Array(lines.joined()))
      #expect(try await copy.run("dump").output == text.output)
    }

    @Test("an event with --id may be sent again, and the id can't be used for another event or place")
    func sameID() async throws {
      let store = try StoreUnderTest()
      let id = "0192b3c4-0000-7000-8000-000000000001"
      func append(_ data: String, type: String = "T", stream: String = "s", expect: String) async throws -> [String] {
        let result = try await store.run([
          "append", "--stream", stream, "--type", type, "--data", data, "--expect", expect, "--id", id,
        ])
        #expect(result.exitCode == (result.lines[0].hasPrefix("ok ") ? 0 : 1))
        return result.lines
      }
      for expect in ["none", "none", "0", "any", "exists"] {
        #expect(try await append("d", expect: expect) == ["ok 0"])
      }
      let known =
        "err event id \(id) is used already, by version 1 of stream s, of type T, at offset 0; this append has it"
      let advice = "; nothing was written, a new event needs an id of its own"
      for expect in [1, 2, 3] {
        #expect(try await append("d", expect: "\(expect)") == ["\(known) for version \(expect + 1)\(advice)"])
      }
      let other = "\(known) with another payload (in bytes: 1, in the log 1), different from byte 0 on\(advice)"
      #expect(try await append("e", expect: "any") == [other])
      #expect(try await append("e", expect: "none") == [other])
      #expect(try await append("d", type: "U", expect: "any") == ["\(known) with type U\(advice)"])
      #expect(try await append("d", stream: "t", expect: "none") == ["\(known) for stream t\(advice)"])
      #expect(try await store.dump().count == 1)
    }

    @Test("a refused line gets its response in order, the others are appended, and the exit code is 1")
    func refusedLines() async throws {
      let store = try StoreUnderTest()
      let long = String(repeating: "x", count: 256)
      let input =
        "a\tT\tone\nno tabs\na\tonly one tab\n\tT\tempty stream\na\t\tempty type\na\tT\tbad \\x escape\n"
        + "a\tT\tends in \\\n\(long)\tT\tlong\na\tT\ta raw\ttab is data\na\tT\tcarriage\r\n\u{FEFF}a\tT\tmark\n"
        + "a\tT\tcarriage\\r\na\tT\traw \rdata\na\tT\tno newline at the end"
      let result = try await store.run(["append"], input: Array(input.utf8))
      #expect(result.exitCode == 1)
      #expect(
        result.lines.map { $0.prefix(3) } == [
          "ok ", "err", "err", "err", "err", "err", "err", "err", "ok ", "err", "err", "ok ", "ok ", "ok ",
        ])
      #expect(result.lines[3] == "err stream is empty")
      #expect(result.lines[9].contains("carriage return") && result.lines[10].contains("byte order mark"))
      #expect(result.lines[7] == "err stream is 256 bytes, the limit is 255")
      #expect(result.errors.split(separator: "\n").count == 1 && result.errors.hasPrefix("logstore: "))
      #expect(
        try await store.dump().map(\.payload)
          == ["one", "a raw\ttab is data", "carriage\r", "raw \rdata", "no newline at the end"].map { Array($0.utf8) })
      let notText = try await store.run(["append"], input: [0xFF, 9, 84, 9, 0xFF, 10, 115, 9, 84, 9, 0xFF, 10])
      #expect(notText.lines == ["err stream is not valid UTF-8", "ok 5"])
    }

    @Test("N good lines are one atomic append; a refused line is no part of it; the last may be shorter")
    func batches() async throws {
      let store = try StoreUnderTest()
      let log = store.scratch.newPath("strace")
      let result = try await store.run(
        ["append", "--batch", "3"], input: Array("s\tT\t0\ns\tT\t1\nbad\ns\tT\t2\ns\tT\t3\n".utf8),
        under: SystemCallTrace.tracer(log: log))
      #expect(
        result.lines == ["ok 0", "ok 1", "err expected STREAM, TYPE and PAYLOAD separated by tabs", "ok 2", "ok 3"])
      let frames = try SystemCallTrace(log: log).frames
      #expect(frames.contains { $0.firstOffset == 0 && $0.endOffset >= 3 }, "the three are not in one frame")
    }

    @Test("a batch over the limit of one append is refused, each of its lines, and the next goes on")
    func oversizedBatch() async throws {
      let store = try StoreUnderTest()
      let megabytes = String(repeating: "m", count: 15 << 20)
      let large = "s\tT\t\(megabytes)\n"
      let result = try await store.run(
        ["append", "--batch", "6"], input: Array(String(repeating: large, count: 6).utf8) + Array("s\tT\tsmall\n".utf8))
      #expect(result.lines.count == 7)
      #expect(result.lines.prefix(6).allSatisfy { $0.hasPrefix("err ") && $0.contains("use a smaller --batch") })
      #expect(result.lines.last == "ok 0")
    }

    @Test("large lines in any number need little memory, and one that is too long is refused")
    func boundedMemory() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", "--segment-size", "64MiB")
      let large = Array("s\tT\t".utf8) + [UInt8](repeating: 0x61, count: 8 << 20) + [10]
      let sending = Task {
        for _ in 0..<24 { try await process.send(large) }
        try await process.send(Array("s\tT\t".utf8) + [UInt8](repeating: 0x62, count: 40 << 20) + [10])
        try await process.send("s\tT\tlast\n")
      }
      for number in 0..<24 { #expect(try await process.line() == "ok \(number)") }
      #expect(try await process.line()?.hasPrefix("err ") == true)
      #expect(try await process.line() == "ok 24")
      try await sending.value
      // 192 MiB went through; a few in flight, and what the log has mapped, may be seen.
      let peak = try #require(
        String(contentsOfFile: "/proc/\(process.pid)/status", encoding: .utf8)
          .split(separator: "\n").first { $0.hasPrefix("VmHWM:") }?.split(separator: " ").dropFirst().first.flatMap {
            Int($0)
          })
      #expect(peak < 320 << 10, "\(peak) KiB")
      #expect(try await process.end().exitCode == 1)
    }

    @Test("each line gets its response as soon as it is durable, without more input")
    func answersAtOnce() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append")
      for number in 0..<5 {
        try await process.send("s\tT\t\(number)\n")
        #expect(try await process.line() == "ok \(number)")
      }
      #expect(try await process.end().exitCode == 0)
    }

    @Test(
      "SIGTERM, SIGINT and SIGHUP finish what is in flight and close cleanly", arguments: [SIGTERM, SIGINT, SIGHUP])
    func stopsOnSignal(number: Int32) async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", "--batch", "2")
      try await process.send("s\tT\t0\ns\tT\t1\n")
      #expect(try await process.line() == "ok 0")
      #expect(try await process.line() == "ok 1")
      process.signal(number)
      let finished = try await process.endByItself()
      #expect(finished.exitCode == 0, "\(finished.errors)")
      #expect(try store.files().contains("clean"))
    }

    @Test("under nohup a SIGHUP changes nothing")
    func ignoresHangup() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", under: ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"])
      try await process.send("s\tT\t0\n")
      #expect(try await process.line() == "ok 0")
      process.signal(SIGHUP)
      try await process.send("s\tT\t1\n")
      #expect(try await process.line() == "ok 1")
      #expect(try await process.end().exitCode == 0)
    }

    @Test(
      "standard descriptors that are closed at the start get no file of the store", arguments: ["0", "1", "2", "0 1 2"])
    func closedDescriptors(numbers: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let closing = numbers.split(separator: " ").map { "\($0)>&-" }.joined(separator: " ")
      // The second writer of one store complains on standard error.
      for more in [[], ["--expect", "none"]] {
        _ = try await store.run(
          ["append", "--stream", "s", "--type", "T", "--data", "x"] + more,
          under: ["sh", "-c", "exec \"$@\" \(closing)", "sh"])
      }
      #expect(try await store.dump().count == 11)
      try await store.expectSound()
      // Nobody got the copy, so the backup has failed.
      let lost = try await store.run(
        ["backup", "--to", "-"], under: ["sh", "-c", "exec \"$@\" 1>&-", "sh"])
      #expect(lost.exitCode == 1)
    }

    @Test("interrupted within a batch, its lines are refused and nothing of it is appended")
    func interruptedBatch() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", "--batch", "3")
      try await process.send("s\tT\t0\ns\tT\t1\ns\tT\t2\ns\tT\tpending\n")
      for number in 0..<3 { #expect(try await process.line() == "ok \(number)") }
      try await onThread { try waitUntilAsleep(process.pid) }
      process.signal(SIGTERM)
      let finished = try await process.endByItself()
      #expect(finished.text == "err interrupted before the batch was complete\n" && finished.exitCode == 1)
      #expect(try await store.dump().count == 3)
      #expect(try store.files().contains("clean"))
    }

    @Test("one event: its condition, its id, and the exit codes")
    func oneEvent() async throws {
      let store = try StoreUnderTest()
      func append(_ data: String, _ more: String...) async throws -> Finished {
        try await store.run(["append", "--stream", "S", "--type", "T", "--data", data] + more)
      }
      #expect(try await append("a\tb\\n", "--expect", "none").text == "ok 0\n")
      let conflict = try await append("x", "--expect", "none")
      #expect(conflict.text == "err conflict: stream S is at version 1, expected no stream\n")
      #expect(conflict.exitCode == 1)
      #expect(try await append("b", "--expect", "1").text == "ok 1\n")
      #expect(try await append("c", "--expect", "exists").text == "ok 2\n")
      #expect(try await append("x", "--expect", "2").text == "err conflict: stream S is at version 3, expected 2\n")
      let id = "0d2f6a3c-95b0-4c1e-8a4f-1f9e6b7c8d90"
      #expect(try await append("d", "--expect", "3", "--id", id).text == "ok 3\n")
      let repeated = try await append("d", "--expect", "3", "--id", id)
      #expect(repeated.text == "ok 3\n" && repeated.exitCode == 0)
      #expect(try await append("e", "--expect", "any").text == "ok 4\n")
      #expect(
        try await store.dump().map { String(decoding: $0.payload, as: UTF8.self) } == ["a\tb\\n", "b", "c", "d", "e"])
    }

    @Test("a second writer is refused with the name of the store's holder; readers aren't")
    func secondWriter() async throws {
      let store = try StoreUnderTest()
      let first = try store.start("append")
      try await first.send("s\tT\t0\n")
      #expect(try await first.line() == "ok 0")
      for verb in [["append"], ["reindex"], ["tail", "--cursor", "c"]] {
        let second = try await store.run(verb, input: Array("s\tT\tx\n".utf8))
        #expect(second.exitCode == 1 && second.output.isEmpty)
        #expect(second.errors.contains("\(first.pid)") && second.errors.contains(store.path), "\(second.errors)")
      }
      #expect(try await store.dump().count == 1)
      #expect(try await store.run("stat").exitCode == 0)
      #expect(try await store.run("verify").exitCode == 0)
      // The lock ends with its process.
      first.signal(SIGKILL)
      _ = try await first.end()
      #expect(try await store.run("append", input: "s\tT\t1\n").text == "ok 1\n")
    }

    @Test("output into a closed pipe ends quietly", arguments: ["dump", "tail", "append"])
    func closedPipe(verb: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(3000)
      let process = try store.start(verb)
      if verb == "append" { try await process.send("s\tT\tx\n") }
      #expect(try await process.line() != nil)
      process.closeOutput()
      if verb == "append" { try await process.send("s\tT\ty\n") }
      let finished = try await process.endByItself()
      #expect(finished.exitCode == 0 && finished.errors.isEmpty, "\(finished.errors)")
    }

    @Test("dump begins at an offset, keeps to a stream and a limit")
    func dumpSelections() async throws {
      let store = try StoreUnderTest()
      try await store.fill(900)
      let all = try await store.dump()
      #expect(all.map(\.offset) == Array(0..<900))
      #expect(try await store.dump("--from", "444") == Array(all[444...]))
      #expect(try await store.dump("--from", "444", "--limit", "2") == Array(all[444..<446]))
      #expect(try await store.dump("--from", "900") == [])
      #expect(try await store.dump("--from", "18446744073709551615") == [])
      #expect(try await store.dump("--limit", "0") == [])
      let stream = all.filter { $0.stream == Array("s4".utf8) }
      #expect(try await store.dump("--stream", "s4") == stream)
      #expect(try await store.dump("--stream", "s4", "--limit", "5") == Array(stream.prefix(5)))
      #expect(try await store.dump("--stream", "s4", "--from", "500") == stream.filter { $0.offset >= 500 })
      #expect(try await store.dump("--stream", "unknown") == [])
    }

    @Test("JSON: one object a line, bytes that are no text in base64")
    func json() async throws {
      let store = try StoreUnderTest()
      try await store.run(
        ["append"], input: Array("a \"q\"\tT\t{\"x\": 1}\\n\na\tT\t".utf8) + [0xFF, 0x00, 0x01] + [10])
      let lines = try await store.run("dump", "--format", "json").outputLines
      let objects = try lines.map { try JSONSerialization.jsonObject(with: Data($0)) as? [String: Any] ?? [:] }
      try #require(objects.count == 2)
      #expect(objects[0]["stream"] as? String == "a \"q\"")
      #expect(objects[0]["payload"] as? String == "{\"x\": 1}\n")
      #expect(objects[1]["payload_base64"] as? String == "/wAB")
      #expect(objects[1]["offset"] as? Int == 1 && objects[1]["version"] as? Int == 1)
      #expect((objects[0]["id"] as? String).flatMap(UUID.init(uuidString:)) != nil)
      let formatter = ISO8601DateFormatter()
      formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
      let time = try #require((objects[0]["timestamp"] as? String).flatMap(formatter.date(from:)))
      #expect(abs(time.timeIntervalSinceNow) < 120)
    }

    @Test("stat and verify say what there is, as text and as JSON")
    func statistics() async throws {
      let store = try StoreUnderTest()
      try await store.fill(900)
      let text = try await store.run("stat").text
      #expect(text.contains("events      900\n") && text.contains("streams     7\n"), "\(text)")
      let stat = try await store.run("stat", "--json")
      let object = try #require(try JSONSerialization.jsonObject(with: Data(stat.output)) as? [String: Any])
      #expect(object["events"] as? Int == 900 && object["streams"] as? Int == 7 && object["end_offset"] as? Int == 900)
      #expect(try object["segments"] as? Int == store.segments().count)
      #expect((object["index_bytes"] as? Int ?? 0) > 0 && (object["log_bytes"] as? Int ?? 0) > 900 * 200)
      let verified = try await store.run("verify", "--json")
      let report = try #require(try JSONSerialization.jsonObject(with: Data(verified.output)) as? [String: Any])
      #expect(report["sound"] as? Bool == true && report["events"] as? Int == 900)
      #expect((report["findings"] as? [Any])?.isEmpty == true)
    }
  }
}
