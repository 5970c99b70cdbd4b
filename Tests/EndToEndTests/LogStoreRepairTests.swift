import Foundation
import Testing

extension LogStoreCommandTests {
  /// `repair`, and reading with `--allow-damaged`, as processes. LOGSTORE_KILL_ROUNDS sets how often one is killed.
  @Suite struct Repairs {
    private static let rounds = max(12, Kill.rounds / 20)

    /// A store whose event at an offset was overwritten in the middle of its payload.
    private func damaged(_ offset: Int, of count: Int = 1500) async throws -> StoreUnderTest {
      let store = try StoreUnderTest()
      try await store.fill(count)
      try await damage(store, offset)
      return store
    }

    private func damage(_ store: StoreUnderTest, _ offset: Int) async throws {
      let wanted = Array("\(offset):xx".utf8)
      for name in try store.segments() {
        let bytes = try store.bytes(name)
        guard let found = Data(bytes).range(of: Data(wanted)) else { continue }
        try store.change(name) { $0[found.upperBound + 3] ^= 0x10 }
        return
      }
      Issue.record("offset \(offset) is nowhere")
    }

    private func repair(_ store: StoreUnderTest, _ arguments: String...) async throws -> (Finished, StoreUnderTest) {
      let target = try StoreUnderTest()
      return (try await store.run(["repair", "--to", target.path] + arguments), target)
    }

    @Test("repair saves the rest, lists what is lost, and every reader sees the gap")
    func saves() async throws {
      let store = try await damaged(700)
      let original = try await store.run("dump", "--allow-damaged")
      let before = try store.content()
      let (result, target) = try await repair(store)
      #expect(result.exitCode == 0, "\(result.errors)")
      let lines = result.text.split(separator: "\n").map(String.init)
      #expect(lines.contains { $0.hasPrefix("missing 700..700: damaged \(store.path)/") }, "\(lines)")
      #expect(lines.contains("lost 700\ts0\t101"), "\(lines)")
      #expect(lines.last?.hasPrefix("saved 1499 of 1500 events in ") == true, "\(lines)")
      #expect(try store.content() == before)
      try await target.expectSound()
      let dump = try await target.run("dump")
      #expect(dump.exitCode == 0 && dump.errors == "missing 700..700\n", "\(dump.errors)")
      #expect(dump.output == original.output && dump.outputLines.count == 1499)
      let stat = try await target.run("stat", "--json")
      #expect(
        stat.text.contains(#""events":1499"#) && stat.text.contains(#""missing_events":1,"gaps":1"#), "\(stat.text)")
      let stream = try await target.run("dump", "--stream", "s0")
      #expect(stream.exitCode == 1 && stream.errors.contains("version 101"), "\(stream.errors)")
      let rest = try await target.run("dump", "--stream", "s0", "--skip-missing")
      #expect(rest.exitCode == 0 && rest.outputLines.count == 214, "\(rest.errors)")
      let from = try await target.run("dump", "--stream", "s0", "--skip-missing", "--from", "700", "--limit", "1")
      #expect(from.text.hasPrefix("707\ts0\t102\t"), "\(from.text)")
      // Another reader, made from the document.
      let reader = try LogStoreProcess(
        "python3", [StoreUnderTest.support + "/read_store.py", target.path], scratch: target.scratch,
        outputFile: target.scratch.newPath("output"))
      let read = try await reader.end()
      #expect(read.exitCode == 0 && read.output == dump.output && read.errors == "missing 700..700\n", "\(read.errors)")
      let appended = try await target.run("append", input: "s0\tT\tmore\n")
      #expect(appended.text == "ok 1500\n")
    }

    @Test("the list as JSON has the same")
    func json() async throws {
      let store = try await damaged(700)
      let (result, _) = try await repair(store, "--json")
      let object = try #require(
        try JSONSerialization.jsonObject(with: Data(result.output)) as? [String: Any], "\(result.text)")
      #expect(object["events"] as? Int == 1499 && object["end_offset"] as? Int == 1500)
      let missing = try #require((object["missing"] as? [[String: Any]])?.first)
      #expect(missing["first"] as? Int == 700 && missing["last"] as? Int == 700)
      #expect((missing["events"] as? [[String: Any]])?.first?["stream"] as? String == "s0")
      #expect((object["findings"] as? [[String: Any]])?.count == 1)
    }

    @Test("a damaged store is refused, unless what is sound is asked for")
    func allowDamaged() async throws {
      let store = try await damaged(300)
      let refused = try await store.run("dump")
      #expect(refused.exitCode == 1 && refused.errors.contains("damaged \(store.path)/"), "\(refused.errors)")
      let allowed = try await store.run("dump", "--allow-damaged")
      #expect(allowed.exitCode == 0 && allowed.outputLines.count == 1499)
      #expect(
        allowed.errors.contains("missing 300..300\n") && allowed.errors.contains("\ndamaged "), "\(allowed.errors)")
      let stat = try await store.run("stat", "--allow-damaged", "--json")
      #expect(stat.text.contains(#""events":1499"#) && stat.errors.contains("damaged "), "\(stat.text) \(stat.errors)")
      let part = try await store.run("dump", "--allow-damaged", "--from", "299", "--limit", "2")
      #expect(part.lines.map { $0.prefix(4) } == ["299\t", "301\t"], "\(part.text)")
      let tail = try store.start("tail", "--allow-damaged", "--from", "299")
      for offset in [299] + Array(301..<1500) {
        let line = try await tail.line()
        try #require(line?.hasPrefix("\(offset)\t") == true, "\(line ?? "nothing")")
      }
      // The end is sound, so it continues there.
      try await store.run("append", input: "s\tT\tmore\n")
      #expect(try await tail.line()?.hasPrefix("1500\t") == true)
      tail.signal(SIGTERM)
      _ = try await tail.end()
    }

    @Test("wrong usage, a target that is there, and a store of which nothing is left are refused")
    func refusals() async throws {
      let store = try await damaged(300)
      #expect(try await store.run("repair").exitCode == 64)
      let other = try StoreUnderTest()
      try await other.fill(3)
      let there = try await store.run("repair", "--to", other.path)
      #expect(there.exitCode == 1 && there.errors.contains("holds"), "\(there.errors)")
      #expect(try await other.dump().count == 3)
      let writer = try store.start("append")
      try await writer.send("s\tT\t1\n")
      _ = try await writer.line()
      let (locked, _) = try await repair(store)
      #expect(locked.exitCode == 1 && locked.errors.contains("writer"), "\(locked.errors)")
      writer.closeInput()
      _ = try await writer.end()
      for name in try store.files() { try store.change(name) { $0 = $0.map { _ in 7 } } }
      let (nothing, target) = try await repair(store)
      #expect(nothing.exitCode == 1 && nothing.errors.split(separator: "\n").count == 1, "\(nothing.errors)")
      #expect(!FileManager.default.fileExists(atPath: target.path))
    }

    /// System calls of a repair, each with how many of them a round may see.
    private static let calls: [(name: String, most: Int)] = [
      ("rename,renameat,renameat2", 3), ("fdatasync,fsync", 12), ("pwrite64", 300), ("openat,open", 60),
      ("unlink,unlinkat", 2), ("ftruncate", 6), ("mkdir,mkdirat", 1),
    ]

    @Test("a repair killed at any moment leaves a whole store or none, and the damaged one as it was")
    func killed() async throws {
      var random = SeededGenerator("killed repairs")
      let store = try await damaged(1200)
      let before = try store.content()
      let (whole, first) = try await repair(store)
      try #require(whole.exitCode == 0, "\(whole.errors)")
      let expected = try await first.run("dump").output
      var killed = 0
      for round in 0..<Self.rounds {
        let call = Self.calls[round < Self.calls.count ? round : Int.random(in: 0..<Self.calls.count, using: &random)]
        let place = Int.random(in: 1...call.most, using: &random)
        let comment: Comment = "round \(round), killed before \(call.name) number \(place)"
        let target = try StoreUnderTest()
        let finished = try await store.run(
          ["repair", "--to", target.path], under: strace(call.name, "signal=KILL:when=\(place)"))
        if finished.signal == SIGKILL { killed += 1 } else { #expect(finished.exitCode == 0, comment) }
        #expect(try store.content() == before, comment)
        if !FileManager.default.fileExists(atPath: target.path) {
          let again = try await store.run("repair", "--to", target.path)
          #expect(again.exitCode == 0, "\(comment): \(again.errors)")
        }
        #expect(try await target.run("dump").output == expected, comment)
        try await target.expectSound(comment)
      }
      #expect(killed > Self.rounds / 3, "\(killed) of \(Self.rounds) were killed")
    }
  }
}
