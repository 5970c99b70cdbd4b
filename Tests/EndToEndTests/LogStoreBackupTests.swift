import Foundation
import Testing

extension LogStoreCommandTests {
  /// `backup` and `restore` as processes: beside a writer, killed, on a full disk. LOGSTORE_BACKUP_ROUNDS sets how many
  /// backups made under load are restored, and how many are killed; without it LOGSTORE_KILL_ROUNDS does.
  @Suite struct Backups {
    private static let given = ProcessInfo.processInfo.environment["LOGSTORE_BACKUP_ROUNDS"].flatMap(Int.init)
    /// A few of them in an ordinary run.
    private static let rounds = given ?? max(4, Kill.rounds / 50)
    /// Stores with three backups each.
    private static let loads = given.map { ($0 + 2) / 3 } ?? max(1, (Kill.rounds + 299) / 300)

    /// The offset in `backed up events 0..<OFFSET, …`, the only line.
    private func offset(_ line: String, _ verb: String) throws -> UInt64 {
      let prefix = "\(verb) events 0..<"
      try #require(line.hasPrefix(prefix) && line.hasSuffix("\n") && line.split(separator: "\n").count == 1, "\(line)")
      return try #require(UInt64(line.dropFirst(prefix.count).prefix { $0.isNumber }))
    }

    /// Backs up, which must succeed, and returns the backup's end.
    private func backUp(_ store: StoreUnderTest, to target: String) async throws -> UInt64 {
      let result = try await store.run("backup", "--to", target)
      try #require(result.exitCode == 0, "\(result.errors)")
      return try offset(result.text, "backed up")
    }

    /// Restores into a new store, which must succeed and be sound, and returns it.
    private func restore(_ source: String, input: [UInt8] = []) async throws -> (store: StoreUnderTest, offset: UInt64)
    {
      let restored = try StoreUnderTest()
      let result = try await restored.run(["restore", "--from", source], input: input)
      try #require(result.exitCode == 0, "\(result.errors)")
      try await restored.expectSound()
      return (restored, try offset(result.text, "restored"))
    }

    /// The source's events before an offset are the restored store's events.
    private func expectEqual(
      _ restored: StoreUnderTest, _ source: StoreUnderTest, upTo offset: UInt64, _ comment: Comment
    ) async throws {
      let copy = try await restored.run("dump")
      let original = try await source.run("dump", "--limit", "\(offset)")
      #expect(copy.exitCode == 0 && original.exitCode == 0, "\(comment): \(copy.errors) \(original.errors)")
      #expect(copy.outputLines.count == Int(offset), comment)
      #expect(copy.output == original.output, comment)
    }

    @Test("while 64 tasks append, a backup to each kind of target is the log up to the offset that it prints")
    func underLoad() async throws {
      // A new store from time to time: each round reads all of it, and the writers never stop.
      for _ in 0..<Self.loads { try await threeRoundsUnderLoad() }
    }

    private func threeRoundsUnderLoad() async throws {
      let store = try StoreUnderTest()
      let directory = store.scratch.newPath("backup") + "/"
      let file = store.scratch.newPath("backup")
      let program = (StoreUnderTest.command as NSString).deletingLastPathComponent + "/ManyWriters"
      let output = store.scratch.newPath("output")
      let writers = try LogStoreProcess(
        program, [store.path, "1", "1"], scratch: store.scratch, outputFile: output)
      defer { writers.signal(SIGKILL) }
      // Until the first are acknowledged.
      while try FileManager.default.attributesOfItem(atPath: output)[.size] as? Int == 0 {
        await Task.yield()
      }
      var last: UInt64 = 0
      for round in 0..<3 {
        let offset: UInt64
        let restored: (store: StoreUnderTest, offset: UInt64)
        switch round % 3 {
        case 1:
          offset = try await backUp(store, to: file)
          restored = try await restore(file)
        case 2:
          let result = try await store.run("backup", "--to", "-")
          try #require(result.exitCode == 0, "\(result.errors)")
          offset = try self.offset(String(result.errors.trimmingPrefix("logstore: ")), "backed up")
          restored = try await restore("-", input: result.output)
        default:
          offset = try await backUp(store, to: directory)
          restored = try await restore(directory)
        }
        #expect(restored.offset == offset)
        #expect(offset >= last, "round \(round): the log had offset \(last) before")
        try await expectEqual(restored.store, store, upTo: offset, "round \(round), up to \(offset)")
        last = offset
        print("backup under load: \(offset) events, restored and compared")
      }
      #expect(last > 100, "too few events for a test of load: \(last)")
      writers.signal(SIGKILL)
      let ended = try await writers.end()
      #expect(ended.signal == SIGKILL, "the writers ended: \(ended.lines.last ?? "")")
      // After the kill: everything, and the restored store takes appends.
      let offset = try await backUp(store, to: directory)
      let restored = try await restore(directory)
      try await expectEqual(restored.store, store, upTo: offset, "after the kill")
      let appended = try await restored.store.run("append", input: "s\tT\tmore\n")
      #expect(appended.text == "ok \(offset)\n")
    }

    /// System calls of a backup or a restoration, each with how many of them a round may see.
    private static let calls: [(name: String, most: Int)] = [
      ("rename,renameat,renameat2", 6), ("fdatasync,fsync", 12), ("pwrite64", 8), ("openat,open", 50),
      ("unlink,unlinkat", 3), ("ftruncate", 4),
    ]

    @Test("a backup killed at any moment leaves the previous one valid, and the next one continues")
    func killedBackup() async throws {
      var random = SeededGenerator("killed backups")
      var store = try StoreUnderTest()
      var target = store.scratch.newPath("backup")
      var (events, before, killed, resumed) = (0, UInt64(0), 0, 0)
      for round in 0..<2 * Self.rounds {
        if round % 10 == 0 {
          store = try StoreUnderTest()
          target = store.scratch.newPath("backup") + "/"
          (events, before) = (0, 0)
        }
        let more = Int.random(in: 100...900, using: &random)
        try await store.fill(more, from: events)
        events += more
        let call = Self.calls[round < Self.calls.count ? round : Int.random(in: 0..<Self.calls.count, using: &random)]
        let place = Int.random(in: 1...call.most, using: &random)
        let comment: Comment = "round \(round), killed before \(call.name) number \(place)"
        let finished = try await store.run(
          ["backup", "--to", target], under: strace(call.name, "signal=KILL:when=\(place)"))
        let isKilled = finished.signal == SIGKILL
        if isKilled { killed += 1 } else { #expect(finished.exitCode == 0, comment) }
        let isThere = FileManager.default.fileExists(atPath: target + "manifest")
        #expect(isThere || before == 0, comment)
        if isThere {
          let restored = try await restore(target)
          #expect(restored.offset == before || restored.offset == events, comment)
          try await expectEqual(restored.store, store, upTo: restored.offset, comment)
          before = restored.offset
        }
        if Bool.random(using: &random) { continue }
        before = try await backUp(store, to: target)
        #expect(before == events, comment)
        if isKilled { resumed += 1 }
        let names = try FileManager.default.contentsOfDirectory(atPath: target)
        let segments = try store.segments().count
        #expect(names.count { $0.hasSuffix(".segment") } == segments && names.count == segments + 2, "\(names)")
        let restored = try await restore(target)
        try await expectEqual(restored.store, store, upTo: before, comment)
      }
      #expect(killed > 0, "no round was killed before its end")
      print("backups: \(killed) killed, \(resumed) of them gone on with at once, of \(2 * Self.rounds)")
    }

    @Test("what a killed backup has copied is not copied again")
    func resumed() async throws {
      let store = try StoreUnderTest()
      try await store.fill(1500)
      let target = store.scratch.newPath("backup") + "/"
      // Each segment is renamed when it is complete; the fifth one no longer is.
      let killed = try await store.run(
        ["backup", "--to", target], under: strace("rename,renameat,renameat2", "signal=KILL:when=5"))
      #expect(killed.signal == SIGKILL)
      let result = try await store.run("backup", "--to", target)
      let segments = try store.segments().count
      #expect(segments > 5)
      #expect(result.text.hasSuffix(", 4 of \(segments) segments were there already\n"), "\(result.text)")
    }

    @Test("a restoration killed at any moment leaves no store, and the next one creates it")
    func killedRestore() async throws {
      var random = SeededGenerator("killed restorations")
      let store = try StoreUnderTest()
      try await store.fill(1200)
      let target = store.scratch.newPath("backup")
      _ = try await backUp(store, to: target)
      var killed = 0
      for round in 0..<2 * Self.rounds {
        let restored = try StoreUnderTest()
        let call = Self.calls[round < Self.calls.count ? round : Int.random(in: 0..<Self.calls.count, using: &random)]
        let place = Int.random(in: 1...call.most, using: &random)
        let comment: Comment = "round \(round), killed before \(call.name) number \(place)"
        let finished = try await restored.run(
          ["restore", "--from", target], under: strace(call.name, "signal=KILL:when=\(place)"))
        if finished.signal == SIGKILL { killed += 1 } else { #expect(finished.exitCode == 0, comment) }
        // Present only if complete: with a kill after it got its name.
        if !FileManager.default.fileExists(atPath: restored.path) {
          let again = try await restored.run("restore", "--from", target)
          #expect(again.exitCode == 0, "\(comment): \(again.errors)")
        }
        try await restored.expectSound(comment)
        try await expectEqual(restored, store, upTo: 1200, comment)
        #expect(!FileManager.default.fileExists(atPath: restored.path + ".restoring"), comment)
      }
      #expect(killed > 0, "no round was killed before its end")
      print("restorations: \(killed) killed, of \(2 * Self.rounds)")
    }

    @Test(
      "a full disk is reported with the path; the previous backup stays valid, nothing is restored, the space is freed")
    func fullDisk() async throws {
      guard geteuid() == 0 else {
        print("a full disk: not tested, since only root can mount a small one")
        return
      }
      let store = try StoreUnderTest()
      try await store.fill(1000)
      let small = store.scratch.newPath("small")
      try FileManager.default.createDirectory(atPath: small, withIntermediateDirectories: false)
      let mount = try LogStoreProcess(
        "mount", ["-t", "tmpfs", "-o", "size=512k", "tmpfs", small], scratch: store.scratch)
      try #require(try await mount.end().exitCode == 0, "mount failed")
      let result: Result<Void, any Error>
      do {
        try await fillUp(small, store)
        result = .success(())
      } catch {
        result = .failure(error)
      }
      let unmount = try LogStoreProcess("umount", ["-l", small], scratch: store.scratch)
      _ = try await unmount.end()
      try result.get()
    }

    private func fillUp(_ small: String, _ store: StoreUnderTest) async throws {
      _ = try await backUp(store, to: small + "/directory/")
      try await store.fill(1500, from: 1000)
      for (target, place) in [("directory/", "directory/"), ("file", "file.tmp")] {
        let full = try await store.run("backup", "--to", "\(small)/\(target)")
        #expect(full.exitCode == 1 && full.text.isEmpty)
        #expect(
          full.errors.hasPrefix("logstore: disk full: ") && full.errors.contains("\(small)/\(place)"), "\(full.errors)")
        #expect(full.errors.split(separator: "\n").count == 1)
      }
      #expect(try FileManager.default.contentsOfDirectory(atPath: small) == ["directory"])
      let names = try FileManager.default.contentsOfDirectory(atPath: small + "/directory")
      #expect(!names.contains { $0.hasSuffix(".tmp") }, "\(names)")
      let restored = try await restore(small + "/directory")
      try await expectEqual(restored.store, store, upTo: 1000, "the backup before")
      let elsewhere = store.scratch.newPath("backup")
      _ = try await backUp(store, to: elsewhere)
      let process = try LogStoreProcess(
        StoreUnderTest.command, ["restore", "--from", elsewhere, "--dir", small + "/store"], scratch: store.scratch)
      let full = try await process.end()
      #expect(full.exitCode == 1 && full.errors.hasPrefix("logstore: disk full: "), "\(full.errors)")
      #expect(try FileManager.default.contentsOfDirectory(atPath: small) == ["directory"])
      // With space again it works.
      try FileManager.default.removeItem(atPath: small + "/directory")
      let mount = try LogStoreProcess("mount", ["-o", "remount,size=8m", small], scratch: store.scratch)
      try #require(try await mount.end().exitCode == 0)
      #expect(try await backUp(store, to: small + "/directory/") == 2500)
    }

    @Test("a closed reader of standard output fails the backup, in one line")
    func closedPipe() async throws {
      let store = try StoreUnderTest()
      try await store.fill(2000)
      let process = try store.start("backup", "--to", "-")
      process.closeOutput()
      let ended = try await process.endByItself()
      #expect(ended.exitCode == 1)
      #expect(
        ended.errors
          == "logstore: write standard output failed: Broken pipe; whoever read it has gone away; start both again\n")
    }

    @Test("errors are one line and exit with 1, wrong usage with 64")
    func errors() async throws {
      let store = try StoreUnderTest()
      let missing = try await store.run("backup", "--to", store.scratch.newPath("backup"))
      #expect(missing.exitCode == 1 && missing.errors.contains("holds no LogStore"), "\(missing.errors)")
      try await store.fill(10)
      let target = store.scratch.newPath("backup") + "/"
      let inside = try await store.run("backup", "--to", store.path)
      #expect(inside.exitCode == 1 && inside.errors.contains("inside the store"), "\(inside.errors)")
      #expect(try await backUp(store, to: target) == 10)
      let restored = try await store.run("restore", "--from", target)
      #expect(restored.exitCode == 1 && restored.errors.contains("the directory holds"), "\(restored.errors)")
      for arguments in [["backup"], ["restore"], ["backup", "--to", ""], ["restore", "--from", "x", "--until", "-1"]] {
        #expect(try await store.run(arguments).exitCode == 64, "\(arguments)")
      }
    }
  }
}
