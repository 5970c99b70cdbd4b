import Foundation
import Testing

extension LogStoreCommandTests {
  /// docs/FORMAT.md suffices: Support/read_store.py was written from it alone.
  @Suite struct Format {
    @Test("an independent reader, written from the document, agrees with dump on random stores", arguments: 0..<4)
    func agrees(_ part: Int) async throws {
      let store = try StoreUnderTest()
      var random = SeededGenerator("random store \(part)")
      for session in 0..<3 {
        var input: [UInt8] = []
        for _ in 0..<Int.random(in: 1...700, using: &random) {
          let stream = "s\(Int.random(in: 0..<40, using: &random))"
          let payload = (0..<Int.random(in: 0...300, using: &random)).map { _ in
            UInt8.random(in: 0...255, using: &random)
          }
          input += Array("\(stream)\tT\(session)\\n\t".utf8) + escaped(payload) + [10]
        }
        let batch = "\(Int.random(in: 1...20, using: &random))"
        try await store.run(["append", "--segment-size", "64KiB", "--batch", batch], input: input)
        let id = "\(UUID())".lowercased()
        try await store.run("append", "--stream", "with id", "--type", "T", "--data", "x", "--id", id)
        try await Self.expectAgreement(store)
      }
    }

    @Test("they agree on cursors")
    func cursors() async throws {
      let store = try StoreUnderTest()
      try await store.fill(300)
      for name in ["a", "b\tc"] {
        let tail = try store.start("tail", "--cursor", name, "--from", "290")
        for _ in 290..<300 { _ = try await tail.line() }
        tail.signal(SIGTERM)
        _ = try await tail.end()
      }
      // A new segment begins with a copy of them.
      try await store.fill(600, from: 300)
      let read = try await Self.read(store, "--cursors")
      #expect(read.text == "a\t300\nb\\tc\t300\n", "\(read.errors)")
      try await Self.expectAgreement(store)
    }

    @Test("they agree after kill -9, beside a living writer, and on a torn end")
    func afterKill() async throws {
      let store = try StoreUnderTest()
      try await store.fillAndKill(60)
      try await Self.expectAgreement(store)
      let segment = try store.segments()[0]
      let last = try store.lastFrame(of: segment)
      try store.change(segment) { for at in (last.lowerBound + 50)..<last.upperBound { $0[at] = 0 } }
      let read = try await Self.read(store)
      #expect(read.lines.count == 59 && read.errors.contains("torn"), "\(read.errors)")
      try await Self.expectAgreement(store)
      let process = try store.start("append")
      try await process.send("s\tT\t1\n")
      #expect(try await process.line() == "ok 59")
      try await Self.expectAgreement(store)
      _ = try await process.end()
      try await Self.expectAgreement(store)
    }

    @Test("they agree on what is damage: a byte flipped before the end, in a sealed segment or the last")
    func damage() async throws {
      let store = try StoreUnderTest()
      try await store.fill(600)
      for name in try store.segments() {
        try store.flip(name, at: 9000)
        let read = try await Self.read(store)
        let dumped = try await store.run("dump")
        try store.flip(name, at: 9000)
        #expect(read.exitCode == 1 && dumped.exitCode == 1)
        #expect(
          read.errors.contains("\(name) @") && dumped.errors.contains("\(name) @"), "\(read.errors) \(dumped.errors)")
      }
      try await Self.expectAgreement(store)
    }

    static func read(_ store: StoreUnderTest, _ arguments: String...) async throws -> Finished {
      let output = store.scratch.newPath("output")
      let process = try LogStoreProcess(
        "python3", [StoreUnderTest.support + "/read_store.py", store.path] + arguments, scratch: store.scratch,
        outputFile: output)
      return try await process.end()
    }

    private static func expectAgreement(
      _ store: StoreUnderTest, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
      let read = try await read(store)
      let dumped = try await store.run("dump")
      #expect(
        read.exitCode == 0 && dumped.exitCode == 0, "\(read.errors) \(dumped.errors)", sourceLocation: sourceLocation)
      #expect(read.output == dumped.output, "they print different events", sourceLocation: sourceLocation)
      #expect(!read.output.isEmpty, sourceLocation: sourceLocation)
    }
  }
}
