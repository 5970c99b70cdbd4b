import Foundation
import Testing

extension LogStoreCommandTests {
  /// Files that are missing, belong to another store, or are older or newer.
  @Suite struct ForeignFiles {
    @Test("a missing segment is refused: the first, one between, the last", arguments: ["first", "middle", "last"])
    func missingSegment(which: String) async throws {
      let store = try await Self.manySegments()
      let segments = try store.segments()
      let name = which == "first" ? segments[0] : which == "last" ? segments[segments.count - 1] : segments[2]
      try store.remove(name)
      try await store.expectRefusedEverywhere()
    }

    @Test("a segment that is cut short is refused", arguments: [0, 100, 4096, 30_000])
    func cutSegment(length: Int) async throws {
      let store = try await Self.manySegments()
      let name = try store.segments()[1]
      try store.change(name) { $0.removeSubrange(length...) }
      try await store.expectRefused(["dump"], naming: name)
      let verified = try await store.run("verify")
      #expect(verified.exitCode == 1 && verified.text.contains("\(name) @"), "\(verified.text) \(verified.errors)")
    }

    @Test("segments that changed places are refused")
    func swappedSegments() async throws {
      let store = try await Self.manySegments()
      let segments = try store.segments()
      let (one, other) = (try store.bytes(segments[1]), try store.bytes(segments[2]))
      try store.write(segments[1], other)
      try store.write(segments[2], one)
      try await store.expectRefusedEverywhere()
    }

    @Test("an older copy of a segment is refused: of a finished one, and of the last after a clean close")
    func olderCopies() async throws {
      let store = try StoreUnderTest()
      try await store.fill(100)
      let first = try store.segments()[0]
      let early = try store.bytes(first)
      try await store.fill(50, from: 100)
      let late = try store.bytes(first)
      try store.write(first, early)
      try await store.expectRefused(["dump"], naming: first)
      try await store.expectRefused(["append"], naming: first)
      try store.write(first, late)
      try await store.fill(600, from: 150)
      try #require(store.segments().count >= 2)
      try store.write(first, early)
      try await store.expectRefused(["dump"], naming: first)
      let verified = try await store.run("verify")
      #expect(verified.exitCode == 1 && verified.text.contains("\(first) @"), "\(verified.text)")
    }

    @Test("a segment of another store is refused")
    func otherStore() async throws {
      let (store, other) = (try StoreUnderTest(), try StoreUnderTest())
      // Synced one by one, so that both stores roll at the same event and the segments have the same names.
      try await store.fillAndKill(400)
      try await other.fillAndKill(400)
      let name = try store.segments()[1]
      try #require(other.segments()[1] == name)
      try store.write(name, other.bytes(name))
      try await store.expectRefusedEverywhere()
    }

    @Test("frames of another store, position or segment are damage")
    func transplantedFrames() async throws {
      let (store, other) = (try StoreUnderTest(), try StoreUnderTest())
      try await store.fill(40)
      try await other.fill(40)
      let name = try store.segments()[0]
      let foreign = try other.bytes(name)
      let own = try store.bytes(name)
      try store.change(name) { $0.replaceSubrange(4096..., with: foreign[4096...]) }
      try await store.expectRefused(["dump"], naming: name)
      // A frame of its own one frame further on: behind a clean end there is nothing but zeros.
      try store.write(name, own)
      let last = try store.lastFrame(of: name)
      try store.change(name) { bytes in
        let copy = Array(bytes[last])
        bytes.replaceSubrange(last.upperBound..<(last.upperBound + copy.count), with: copy)
      }
      #expect(try await store.dump().count == 40)
      let verified = try await store.run("verify")
      // A frame begins with a checksum, whose first byte may be zero.
      let place = try #require(try store.bytes(name)[last.upperBound...].firstIndex { $0 != 0 })
      #expect(verified.exitCode == 1 && verified.text.contains("\(name) @\(place)"), "\(verified.text)")
    }

    @Test(
      "a store file that is deleted, cut or garbled is refused, and no new store is made over the log",
      arguments: ["deleted", "cut", "garbled"])
    func storeFile(how: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      switch how {
      case "deleted": try store.remove("store")
      case "cut": try store.change("store") { $0.removeLast(30) }
      default: try store.change("store") { $0[20] ^= 1 }
      }
      try await store.expectRefusedEverywhere()
    }

    @Test(
      "a newer format version is refused by name, and the files are left alone",
      arguments: ["store", "clean", "segment"])
    func newerFormat(file: String) async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let name = file == "segment" ? try store.segments()[0] : file
      // Segments behind gaps have version 2.
      let version: UInt8 = file == "segment" ? 3 : 2
      try store.change(name) { bytes in
        bytes[8] = version
        let length = file == "segment" ? 4092 : 60
        let checksum = crc32c(bytes[..<length])
        for index in 0..<4 { bytes[length + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index)) }
      }
      for arguments in [["dump"], ["append"], ["stat"]] {
        let before = try store.content()
        let result = try await store.run(arguments, input: Array("s\tT\tx\n".utf8))
        #expect(result.exitCode == 1)
        #expect(result.errors.contains("format version \(version)") && result.errors.contains(name), "\(result.errors)")
        #expect(try store.content() == before)
      }
    }

    @Test("a directory without a store: reading fails and makes nothing")
    func noStore() async throws {
      let store = try StoreUnderTest()
      for verb in ["dump", "tail", "stat", "verify", "reindex"] {
        let result = try await store.run(verb)
        #expect(result.exitCode == 1, "\(verb)")
        #expect(
          result.errors.hasPrefix("logstore: ") && result.errors.contains(store.path), "\(verb): \(result.errors)")
        #expect(!FileManager.default.fileExists(atPath: store.path), "\(verb) made something")
      }
    }

    @Test(
      "a directory that holds anything that isn't a store's is refused by every call, and stays as it is",
      arguments: [
        ["README"], ["a.tmp"], ["next.tmp"], ["store.tmp"], ["lock.tmp"], ["tail"], ["lock"], ["clean"],
        ["00000000000000000000.log"], ["00000000000000000005.log"],
        ["00000000000000000000-00000000000000000005.idx"], ["store"], ["store", "lock", "tail", "next.tmp"],
      ])
    func wrongDirectory(names: [String]) async throws {
      for bytes in [Array("an hour's work\n".utf8), [UInt8](repeating: 0x5A, count: 4096), [0x5A]] {
        let store = try StoreUnderTest()
        try FileManager.default.createDirectory(atPath: store.path, withIntermediateDirectories: true)
        for name in names { try store.write(name, bytes) }
        func state() throws -> [String: (bytes: [UInt8], mode: Int)] {
          var state: [String: (bytes: [UInt8], mode: Int)] = [:]
          for name in try store.files() {
            let attributes = try FileManager.default.attributesOfItem(atPath: store.file(name))
            state[name] = (try store.bytes(name), attributes[.posixPermissions] as? Int ?? 0)
          }
          return state
        }
        let before = try state()
        for arguments in [
          ["append"], ["append", "--stream", "s", "--type", "t", "--data", "d"], ["tail", "--cursor", "c"], ["tail"],
          ["dump"], ["stat"], ["verify"], ["reindex"], ["backup", "--to", store.scratch.newPath("backup")],
        ] {
          let result = try await store.run(arguments, input: Array("s\tT\tx\n".utf8))
          #expect(result.exitCode == 1 && !result.text.contains("ok "), "\(arguments): \(result.text)")
          #expect(result.errors.contains(store.path) || arguments == ["verify"], "\(arguments): \(result.errors)")
          let after = try state()
          #expect(after.keys.sorted() == before.keys.sorted(), "\(arguments)")
          for (name, file) in before { #expect(after[name] ?? ([], 0) == file, "\(arguments): \(name)") }
        }
      }
    }

    @Test("what an interrupted making of a store leaves is no hindrance, nor what a file system puts into a directory")
    func remains() async throws {
      for (name, bytes) in [
        ("lock", Array("process 17\n".utf8)), ("lock", []), ("lock", [0, 0, 0]), ("next.tmp", []),
        ("next.tmp", [UInt8](repeating: 0, count: 70_000)), ("store.tmp", Array("LOGSTORE".utf8)),
        (".nfs0000000000000001", [1]),
      ] {
        let store = try StoreUnderTest()
        try FileManager.default.createDirectory(
          atPath: store.path + "/lost+found", withIntermediateDirectories: true)
        try store.write(name, bytes)
        let appended = try await store.run("append", input: "s\tT\tx\n")
        #expect(appended.text == "ok 0\n", "\(name): \(appended.errors)")
        #expect(FileManager.default.fileExists(atPath: store.path + "/lost+found"))
        try await store.expectSound()
      }
    }

    @Test("in a store's directory files of others stay: their names, and what only has the name of an unfinished file")
    func others() async throws {
      let store = try StoreUnderTest()
      try await store.fill(10)
      let foreign = Array("an hour's work\n".utf8)
      for name in ["README", "notes.tmp", "next.tmp", "store.tmp", "x.idx.tmp"] { try store.write(name, foreign) }
      #expect(try await store.run("append", input: "s\tT\tx\n").text == "ok 10\n")
      for name in ["README", "notes.tmp", "next.tmp.kept-1", "store.tmp.kept-1", "x.idx.tmp"] {
        #expect(try store.bytes(name) == foreign, "\(name)")
      }
      for name in ["next.tmp", "store.tmp"] { #expect(try !store.files().contains(name)) }
      try await store.expectSound()
    }

    @Test("bytes made up at random in place of any file are only data", arguments: 0..<4)
    func randomBytes(_ part: Int) async throws {
      let store = try await Self.manySegments()
      var random = SeededGenerator("random bytes \(part)")
      for name in try store.files() {
        let original = try store.bytes(name)
        let length = [0, 7, 64, original.count][part]
        // The start stays, so that the bytes behind it are checked.
        let kept = Bool.random(using: &random) ? min(16, length) : 0
        try store.write(
          name, Array(original.prefix(kept)) + (kept..<length).map { _ in UInt8.random(in: 0...255, using: &random) })
        for verb in ["dump", "verify", "stat"] {
          let result = try await store.run([verb], within: .seconds(20))
          #expect(result.signal == nil, "\(verb) with a made-up \(name) ended with signal \(result.signal ?? 0)")
          #expect(result.exitCode == 0 || result.exitCode == 1)
        }
        try store.write(name, original)
      }
      try await store.expectSound()
    }

    private static func manySegments() async throws -> StoreUnderTest {
      let store = try StoreUnderTest()
      try await store.fill(1200)
      try #require(store.segments().count >= 4)
      return store
    }
  }
}

extension StoreUnderTest {
  /// Exit code 1, one line that names the file (the store's directory if none is given), and nothing changed.
  func expectRefused(
    _ arguments: [String], naming name: String? = nil, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    let before = try content()
    let result = try await run(arguments, input: Array("s\tT\tx\n".utf8))
    #expect(result.exitCode == 1, "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
    #expect(
      result.errors.hasPrefix("logstore: ") && result.errors.split(separator: "\n").count == 1
        && result.errors.contains(name ?? path), "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
    #expect(!result.text.contains("ok "), sourceLocation: sourceLocation)
    #expect(try content() == before, "\(arguments) changed files", sourceLocation: sourceLocation)
  }

  /// Reading it all, writing and verifying all refuse.
  func expectRefusedEverywhere(sourceLocation: SourceLocation = #_sourceLocation) async throws {
    try await expectRefused(["dump"], sourceLocation: sourceLocation)
    try await expectRefused(["append"], sourceLocation: sourceLocation)
    try await expectRefused(["verify"], sourceLocation: sourceLocation)
  }
}

/// CRC-32C bit by bit; slow, and independent of the product's.
func crc32c(_ bytes: some Sequence<UInt8>) -> UInt32 {
  var crc: UInt32 = .max
  for byte in bytes {
    crc ^= UInt32(byte)
    for _ in 0..<8 { crc = crc >> 1 ^ (crc & 1 == 1 ? 0x82F6_3B78 : 0) }
  }
  return ~crc
}
