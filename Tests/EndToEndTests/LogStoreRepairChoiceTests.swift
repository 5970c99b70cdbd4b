import Foundation
import Testing

extension LogStoreCommandTests {
  /// `repair` of a directory with files of two copies of a store, as after a restore by hand into the wrong directory.
  @Suite struct RepairChoices {
    /// How far the copies diverged.
    enum Apart: CaseIterable { case inOneSegment, overManySegments }

    /// A directory that has all segments of one copy, and under other names all segments of the other that differ.
    struct Mixed {
      let store: StoreUnderTest
      /// What each copy held, the directory's own one first.
      let own: [DumpedEvent]
      let other: [DumpedEvent]
      /// The names of the files that only one of them has.
      let ownFiles: Set<String>
      let otherFiles: Set<String>

      init(_ apart: Apart, isWitnessed: Bool = false) async throws {
        store = try StoreUnderTest()
        try await store.fill(100, payloadBytes: 900)
        let copy = StoreUnderTest(store.scratch.newPath("copy"), in: store.scratch)
        try FileManager.default.copyItem(atPath: store.path, toPath: copy.path)
        // The copy has more events: their number must not decide.
        for (written, name, count) in [(store, "own", 20), (copy, "other", 25)] {
          let lines = (0..<(apart == .inOneSegment ? count : count * 10)).map {
            "s\($0 % 3)\tT\t\(name)-\($0)-" + String(repeating: "x", count: 900) + "\n"
          }
          let appended = try await written.run("append", "--segment-size", "64KiB", input: lines.joined())
          try #require(appended.exitCode == 0, "\(appended.errors)")
        }
        own = try await store.dump()
        other = try await copy.dump()
        var ownFiles: Set<String> = []
        var otherFiles: Set<String> = []
        let names = try store.segments()
        for name in try copy.segments() {
          let bytes = try copy.bytes(name)
          if names.contains(name) {
            if try store.bytes(name) == bytes { continue }
            ownFiles.insert(name)
          }
          otherFiles.insert("found-" + name)
          try store.write("found-" + name, bytes)
        }
        self.ownFiles = ownFiles.union(
          names.filter { !otherFiles.contains("found-" + $0) && $0 > (ownFiles.min() ?? "") })
        self.otherFiles = otherFiles
        try #require(apart == .inOneSegment ? otherFiles.count == 1 : otherFiles.count > 2, "\(otherFiles)")
        // The marks that name the segment of the directory's last writer.
        if !isWitnessed { for name in ["clean", "tail"] { try store.remove(name) } }
      }

      /// Repairs into a directory that does not exist yet.
      func repair(_ arguments: String...) async throws -> (Finished, StoreUnderTest) {
        let target = StoreUnderTest(store.scratch.newPath("repaired"), in: store.scratch)
        return (try await store.run(["repair", "--to", target.path] + arguments), target)
      }
    }

    private static func name(_ path: some StringProtocol) -> String { (String(path) as NSString).lastPathComponent }

    /// The file to name for each history, by the lines `history N: …; --keep FILE`.
    private static func choices(_ result: Finished) throws -> [String] {
      try result.lines.filter { $0.contains("; --keep ") }.map {
        String(try #require($0.components(separatedBy: "; --keep ").last))
      }
    }

    @Test(
      "where nothing decides which copy is meant, repair creates nothing, names files of both and exits with 3",
      arguments: Apart.allCases)
    func undecided(_ apart: Apart) async throws {
      let mixed = try await Mixed(apart)
      let before = try mixed.store.content()
      let (result, target) = try await mixed.repair()
      #expect(result.exitCode == 3, "\(result.text) \(result.errors)")
      let choices = try Self.choices(result).map(Self.name)
      #expect(choices.count == 2)
      #expect(
        choices.count { mixed.ownFiles.contains($0) } == 1 && choices.count { mixed.otherFiles.contains($0) } == 1)
      // All files that only one of them has.
      let listed = result.lines.filter { $0.hasPrefix("history ") && !$0.contains("--keep") }.map(Self.name)
      #expect(Set(listed) == mixed.ownFiles.union(mixed.otherFiles), "\(result.text)")
      // One line says what to do.
      #expect(result.errors.split(separator: "\n").count == 1)
      #expect(
        choices.allSatisfy { result.errors.contains($0) } && result.errors.contains("nothing was made"),
        "\(result.errors)")
      #expect(result.errors.contains("name a file of the one to keep"), "\(result.errors)")
      #expect(try mixed.store.content() == before)
      #expect(!FileManager.default.fileExists(atPath: target.path))
      #expect(!FileManager.default.fileExists(atPath: target.path + ".repairing"))
      let (json, _) = try await mixed.repair("--json")
      let object = try JSONSerialization.jsonObject(with: Data(json.output)) as? [String: [[String: Any]]]
      let histories = try #require(object?["histories"], "\(json.text)")
      #expect(json.exitCode == 3 && histories.compactMap { $0["keep"] as? String }.map(Self.name) == choices)
    }

    @Test(
      "--keep takes the copy whose file it names, and leaves the other's files where they are",
      arguments: Apart.allCases)
    func kept(_ apart: Apart) async throws {
      let mixed = try await Mixed(apart)
      let before = try mixed.store.content()
      let (undecided, _) = try await mixed.repair()
      for (number, choice) in try Self.choices(undecided).enumerated() {
        let isOwn = mixed.ownFiles.contains(Self.name(choice))
        // The path as it is printed, and the name alone.
        for file in [choice, Self.name(choice)] {
          let (result, target) = try await mixed.repair("--keep", file)
          #expect(result.exitCode == 2, "\(file): \(result.text) \(result.errors)")
          // As many events as the line of the history says.
          let saved = try #require(result.lines.last?.split(separator: " ").dropFirst().first)
          #expect(undecided.text.contains("history \(number + 1): \(saved) events, "), "\(saved): \(undecided.text)")
          let leftOut = result.lines.filter { $0.hasPrefix("left out ") }
          let others = isOwn ? mixed.otherFiles : mixed.ownFiles
          #expect(
            leftOut.count == others.count
              && others.allSatisfy { name in leftOut.contains { $0.contains("/\(name) ") } },
            "\(file): \(leftOut)")
          try await target.expectSound()
          #expect(try await target.dump() == (isOwn ? mixed.own : mixed.other), "\(file)")
          let end = isOwn ? mixed.own.count : mixed.other.count
          #expect(try await target.run("append", input: "s\tT\tmore\n").text == "ok \(end)\n")
        }
      }
      #expect(try mixed.store.content() == before)
    }

    @Test("--keep with a file that is in no copy is refused, and nothing is made")
    func refused() async throws {
      let mixed = try await Mixed(.inOneSegment)
      let before = try mixed.store.content()
      let foreign = mixed.store.scratch.newPath("elsewhere.log")
      try Data("no segment".utf8).write(to: URL(fileURLWithPath: foreign))
      for file in ["00000000000000009999.log", foreign, ""] {
        let (result, target) = try await mixed.repair("--keep", file)
        #expect(result.exitCode == 1, "\(file): \(result.text) \(result.errors)")
        #expect(result.errors.contains("no such file to keep"), "\(result.errors)")
        #expect(!FileManager.default.fileExists(atPath: target.path))
      }
      #expect(try mixed.store.content() == before)
    }

    @Test("--keep with a file that all copies have decides nothing")
    func decidesNothing() async throws {
      let mixed = try await Mixed(.inOneSegment)
      let shared = try #require(try mixed.store.segments().first { !mixed.ownFiles.contains($0) })
      let (result, target) = try await mixed.repair("--keep", shared)
      #expect(result.exitCode == 1 || result.exitCode == 3, "\(result.text) \(result.errors)")
      #expect(!FileManager.default.fileExists(atPath: target.path))
    }

    @Test(
      "--keep with a file of the store that is no segment is refused, also where there is nothing to choose",
      arguments: [false, true])
    func keepsNoOtherFile(isMixed: Bool) async throws {
      let store: StoreUnderTest
      if isMixed {
        store = try await Mixed(.inOneSegment).store
      } else {
        store = try StoreUnderTest()
        try await store.fill(1000)
      }
      try store.write("notes.txt", Array("no segment\n".utf8))
      let names = try FileManager.default.contentsOfDirectory(atPath: store.path)
      let index = try #require(names.first { $0.hasSuffix(".idx") })
      for name in ["store", "lock", "notes.txt", index] {
        #expect(names.contains(name))
        let target = store.scratch.newPath("repaired")
        let result = try await store.run("repair", "--to", target, "--keep", name)
        #expect(result.exitCode == 1 && result.text.isEmpty, "\(result.text) \(result.errors)")
        #expect(
          result.errors.contains("/\(name): ") && result.errors.contains("name a segment file")
            && result.errors.contains("`clean` or `tail`"), "\(result.errors)")
        #expect(!FileManager.default.fileExists(atPath: target))
      }
    }

    @Test(
      "where clean and tail decide which copy is the directory's, it is used without --keep", arguments: Apart.allCases)
    func decided(_ apart: Apart) async throws {
      let mixed = try await Mixed(apart, isWitnessed: true)
      let (result, target) = try await mixed.repair()
      #expect(result.exitCode == 2, "\(result.text) \(result.errors)")
      try await target.expectSound()
      #expect(try await target.dump() == mixed.own)
    }
  }
}
