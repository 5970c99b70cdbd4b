import Foundation
import Testing

extension LogStoreCommandTests {
  /// Files that are not what was written.
  @Suite struct Damaged {
    @Test(
      "a flipped byte in the middle of the last segment: dump and append refuse with file and byte, and leave it",
      arguments: [true, false])
    func flippedByte(closedCleanly: Bool) async throws {
      let store = try StoreUnderTest()
      if closedCleanly { try await store.fill(40) } else { try await store.fillAndKill(40) }
      let segment = try #require(store.segments().last)
      try store.flip(segment, at: 4096 + 5000)
      try await store.expectRefusal(["dump"], naming: segment)
      try await store.expectRefusal(["append"], input: "s\tT\tx\n", naming: segment)
      try await store.expectFinding(segment)
    }

    @Test("a flipped byte in a finished segment is refused by dump and reported by verify, which goes on behind it")
    func flippedInFinishedSegment() async throws {
      let store = try StoreUnderTest()
      try await store.fill(1200)
      let segments = try store.segments()
      try #require(segments.count >= 4)
      try store.flip(segments[1], at: 30_000)
      try store.flip(segments[2], at: 30_001)
      try await store.expectRefusal(["dump"], naming: segments[1])
      let verified = try await store.run("verify")
      #expect(verified.exitCode == 1)
      for segment in segments[1...2] {
        #expect(verified.lines.contains { $0.hasPrefix("damaged ") && $0.contains("\(segment) @") }, "\(verified.text)")
      }
      // What lies before the damage was printed.
      let first = try await store.run("dump")
      #expect(first.lines.count > 0 && first.lines.count < 1200)
    }

    @Test("every byte counts: one flipped anywhere in the written log is found")
    func flippedAnywhere() async throws {
      let store = try StoreUnderTest()
      try await store.fill(60)
      var random = SeededGenerator("flips")
      let segment = try store.segments()[0]
      let end = try store.lastFrame(of: segment).upperBound
      for flip in 0..<24 {
        // The header page in one case of six: most of it is zeros, which count as well.
        let position =
          flip % 6 == 0 ? Int.random(in: 0..<4096, using: &random) : Int.random(in: 4096..<end, using: &random)
        try store.flip(segment, at: position)
        let dumped = try await store.run("dump")
        let verified = try await store.run("verify")
        try store.flip(segment, at: position)
        #expect(dumped.exitCode == 1, "dump, byte \(position)")
        #expect(verified.exitCode == 1, "verify, byte \(position)")
      }
      try await store.expectSound()
    }

    @Test(
      "the last frame cut off after kill -9 is left out, reported, and written over",
      arguments: ["truncated", "zeroed", "flipped"])
    func tornTail(how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fillAndKill(12)
      let segment = try store.segments()[0]
      let last = try store.lastFrame(of: segment)
      switch how {
      case "truncated": try store.change(segment) { $0.removeSubrange((last.lowerBound + 60)...) }
      case "zeroed": try store.change(segment) { for at in (last.lowerBound + 60)..<last.upperBound { $0[at] = 0 } }
      default: try store.flip(segment, at: last.lowerBound + 100)
      }
      let dumped = try await store.run("dump")
      #expect(dumped.exitCode == 0, "\(dumped.errors)")
      #expect(dumped.lines.count == 11)
      #expect(dumped.errors.contains("logstore: note:") && dumped.errors.contains(segment), "\(dumped.errors)")
      let appended = try await store.run("append", input: "s\tT\tnew\n")
      #expect(appended.text == "ok 11\n", "\(appended.errors)")
      #expect(appended.errors.contains("logstore: note:") && appended.errors.contains(segment), "\(appended.errors)")
      #expect(try await store.dump().map(\.payload).last == Array("new".utf8))
      try await store.expectSound()
    }

    @Test("the last frame cut off after a clean close is refused as damage", arguments: ["truncated", "zeroed"])
    func cutAfterCleanClose(how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(12)
      let segment = try store.segments()[0]
      let last = try store.lastFrame(of: segment)
      try store.change(segment) { bytes in
        if how == "truncated" {
          bytes.removeSubrange((last.lowerBound + 60)...)
        } else {
          for at in last { bytes[at] = 0 }
        }
      }
      try await store.expectRefusal(["dump"], naming: segment)
      try await store.expectRefusal(["append"], input: "s\tT\tx\n", naming: segment)
      try await store.expectFinding(segment)
    }

    @Test(
      "an index that is deleted, emptied, cut or garbled costs nothing, and reindex restores it",
      arguments: ["deleted", "emptied", "cut", "garbled"])
    func index(how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(1200)
      let events = try await store.dump()
      let stream = try await store.dump("--stream", "s3")
      try #require(stream.count > 100)
      let names = try store.files().filter { $0.hasSuffix(".idx") }
      try #require(names.count >= 2)
      let before = try names.map { try store.bytes($0) }
      for name in names {
        switch how {
        case "deleted": try store.remove(name)
        case "emptied": try store.write(name, [])
        case "cut": try store.change(name) { $0.removeLast($0.count / 2) }
        default: try store.change(name) { for at in stride(from: 0, to: $0.count, by: 37) { $0[at] ^= 0x55 } }
        }
      }
      #expect(try await store.dump() == events)
      #expect(try await store.dump("--stream", "s3") == stream)
      #expect(try await store.dump("--from", "700", "--limit", "3") == Array(events[700..<703]))
      let indexed = try await store.run("reindex")
      #expect(indexed.exitCode == 0, "\(indexed.errors)")
      #expect(try names.map { try store.bytes($0) } == before)
      #expect(try await store.dump("--stream", "s3") == stream)
      try await store.expectSound()
      let appended = try await store.run("append", input: "s3\tT\tx\n")
      #expect(appended.text == "ok 1200\n", "\(appended.errors)")
    }

    @Test("one wrong byte anywhere in an index, or another segment's index in its place, is noticed and costs nothing")
    func indexNotTrusted() async throws {
      let store = try StoreUnderTest()
      try await store.fill(900)
      let names = try store.files().filter { $0.hasSuffix(".idx") }
      try #require(names.count >= 2)
      let events = try await store.dump()
      let (index, other) = (try store.bytes(names[0]), try store.bytes(names[1]))
      // Blocks are at the end: the last bytes are in one of them, the first in the header.
      for position in stride(from: 0, to: index.count, by: max(1, index.count / 12)) + [index.count - 1] {
        try store.flip(names[0], at: position)
        for stream in ["s0", "s3", "s6"] {
          #expect(
            try await store.dump("--stream", stream) == events.filter { $0.stream == Array(stream.utf8) },
            "byte \(position) of \(index.count)")
        }
        #expect(try await store.dump("--from", "100", "--limit", "2") == Array(events[100..<102]), "byte \(position)")
        let verified = try await store.run("verify")
        #expect(verified.exitCode == 1 && verified.text.contains("\(names[0]) @"), "verify, byte \(position)")
        try store.flip(names[0], at: position)
      }
      try store.write(names[0], other)
      #expect(try await store.dump("--stream", "s3") == events.filter { $0.stream == Array("s3".utf8) })
      #expect(try await store.run("reindex").exitCode == 0)
      #expect(try store.bytes(names[0]) == index)
    }

    @Test(
      "tail and lock files that are deleted, emptied or garbled cost nothing", arguments: ["tail", "lock"],
      ["deleted", "emptied", "garbled"])
    func helperFiles(name: String, how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      switch how {
      case "deleted": try store.remove(name)
      case "emptied": try store.write(name, [])
      default: try store.write(name, Array(repeating: 0xA5, count: 57))
      }
      #expect(try await store.dump().count == 10)
      let appended = try await store.run("append", input: "s\tT\tx\n")
      #expect(appended.text == "ok 10\n", "\(appended.errors)")
      try await store.expectSound()
    }

    @Test("without the clean mark nothing is lost")
    func cleanDeleted() async throws {
      let store = try StoreUnderTest()
      try await store.fill(300)
      try store.remove("clean")
      #expect(try await store.dump().count == 300)
      #expect(try await store.run("append", input: "s\tT\tx\n").text == "ok 300\n")
    }

    @Test("a damaged clean mark is refused", arguments: ["emptied", "garbled", "cut"])
    func cleanGarbled(how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      try store.change("clean") { bytes in
        switch how {
        case "emptied": bytes = []
        case "cut": bytes.removeLast(20)
        default: bytes[33] ^= 0x10
        }
      }
      try await store.expectRefusal(["dump"], naming: "clean")
      try await store.expectRefusal(["append"], input: "s\tT\tx\n", naming: "clean")
    }
  }
}

extension StoreUnderTest {
  func flip(_ name: String, at position: Int) throws {
    // In place: the file keeps its identity, as on a disk that rots.
    let handle = try FileHandle(forUpdating: URL(fileURLWithPath: file(name)))
    defer { try? handle.close() }
    try handle.seek(toOffset: UInt64(position))
    guard let byte = try handle.read(upToCount: 1)?.first else { throw HarnessError("no byte \(position) in \(name)") }
    try handle.seek(toOffset: UInt64(position))
    try handle.write(contentsOf: Data([byte ^ 0x04]))
  }

  /// The position of the last frame of a segment, found by following the lengths from the first.
  func lastFrame(of name: String) throws -> Range<Int> {
    let bytes = try bytes(name)
    var position = 4096
    var last = position..<position
    while position + 48 <= bytes.count {
      let length = (0..<4).reduce(0) { $0 | Int(bytes[position + 4 + $1]) << (8 * $1) }
      guard length >= 48 else { break }
      last = position..<(position + length)
      position += length
    }
    return last
  }

  /// The call exits with 1 and one line that names the file and a byte, and changes nothing.
  func expectRefusal(
    _ arguments: [String], input: String = "", naming name: String, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    let before = try content()
    let result = try await run(arguments, input: Array(input.utf8))
    #expect(result.exitCode == 1, "\(arguments) \(result.errors)", sourceLocation: sourceLocation)
    let lines = result.errors.split(separator: "\n")
    #expect(lines.count == 1, "\(result.errors)", sourceLocation: sourceLocation)
    #expect(
      result.errors.hasPrefix("logstore: ") && result.errors.contains(name), "\(result.errors)",
      sourceLocation: sourceLocation)
    if name.hasSuffix(".log") {
      #expect(result.errors.contains("\(name) @"), "no byte in: \(result.errors)", sourceLocation: sourceLocation)
    }
    #expect(!result.text.contains("ok "), sourceLocation: sourceLocation)
    #expect(try content() == before, "\(arguments) changed files", sourceLocation: sourceLocation)
  }

  /// `verify` exits with 1 and reports the file.
  func expectFinding(_ name: String, sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let before = try content()
    let result = try await run("verify")
    #expect(result.exitCode == 1, sourceLocation: sourceLocation)
    #expect(
      result.lines.contains { $0.hasPrefix("damaged ") && $0.contains("\(name) @") }, "\(result.text) \(result.errors)",
      sourceLocation: sourceLocation)
    #expect(try content() == before, "verify changed files", sourceLocation: sourceLocation)
  }
}
