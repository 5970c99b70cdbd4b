import Foundation
import Testing

extension LogStoreCommandTests {
  /// The limits that systems have, and people who move what is in use.
  @Suite struct Limits {
    /// A run that was refused something says so in one line and exits with 1.
    private func expectTyped(_ finished: Finished, _ causes: [String], _ comment: Comment) {
      #expect(finished.signal == nil, "\(comment): signal \(finished.signal ?? 0)")
      #expect(finished.exitCode == 1, "\(comment): exit code \(finished.exitCode ?? -1)")
      let lines = finished.errors.split(separator: "\n").filter { !$0.hasPrefix("logstore: note: ") }
      #expect(lines.count == 1 && lines[0].hasPrefix("logstore: "), "\(comment): \(finished.errors)")
      #expect(causes.contains { finished.errors.contains($0) }, "\(comment): \(finished.errors)")
      #expect(finished.errors.contains("; "), "\(comment): not what to do: \(finished.errors)")
    }

    // MARK: - Space

    @Test(
      "a full file system is reported, reading continues, and appends work again with space",
      arguments: FileSystem.allCases)
    func fullFileSystem(fileSystem: FileSystem) async throws {
      guard await Mount.isPossible("a full \(fileSystem.rawValue)") else { return }
      let scratch = try TemporaryDirectory(isInMemory: true)
      let image = scratch.path + "/image"
      try await fileSystem.make(image, byteCount: fileSystem == .ext4 ? 16 << 20 : nil, in: scratch)
      try await Mount.with(image: image, fileSystem, in: scratch) { mount in
        let store = StoreUnderTest(mount.path + "/store", in: scratch)
        try await store.fill(20)
        // Nearly full, by a file that goes later.
        try await Self.fillUp(mount.path + "/filler", leaving: 1 << 20)
        let input = StoreUnderTest.lines(20_000, 400, from: 20)
        let full = try await store.run(["append", "--segment-size", "64KiB", "--batch", "5"], input: input)
        expectTyped(full, ["disk full"], "\(fileSystem.rawValue)")
        let acknowledged = full.lines.prefix { $0.hasPrefix("ok ") }.count
        #expect(full.lines.dropFirst(acknowledged).allSatisfy { $0.hasPrefix("err ") }, "ok after err")
        // btrfs needs room to put anything anywhere.
        #expect(acknowledged > 100 || fileSystem == .btrfs)
        for verb in ["dump", "verify", "stat"] {
          let read = try await store.run(verb)
          #expect(read.exitCode == 0, "\(verb) of a full \(fileSystem.rawValue): \(read.errors)")
        }
        let events = try await store.dump()
        #expect(events.count >= 20 + acknowledged && (events.count - 20) % 5 == 0)
        // Still full. It may take what fits, but nothing is lost by trying.
        let again = try await store.run("append", input: String(decoding: input.prefix(100_000), as: UTF8.self))
        #expect([0, 1].contains(again.exitCode ?? -1), "\(again.errors)")
        let more = again.lines.count { $0.hasPrefix("ok ") }
        try FileManager.default.removeItem(atPath: mount.path + "/filler")
        let after = try await store.run("append", input: "s\tT\tafter\n")
        #expect(after.exitCode == 0, "with space again: \(after.errors)")
        let all = try await store.dump()
        #expect(all.starts(with: events) && all.count >= events.count + more + 1)
        try await store.expectSound()
      }
    }

    private static func fillUp(_ path: String, leaving: UInt64) async throws {
      guard FileManager.default.createFile(atPath: path, contents: nil), let file = FileHandle(forWritingAtPath: path)
      else { throw HarnessError("no \(path)") }
      defer { try? file.close() }
      let piece = Data(repeating: 7, count: 256 << 10)
      while true {
        var status = statvfs()
        guard statvfs((path as NSString).deletingLastPathComponent, &status) == 0 else { throw HarnessError("statvfs") }
        guard UInt64(status.f_bavail) * UInt64(status.f_frsize) > leaving + UInt64(piece.count) else { break }
        do { try file.write(contentsOf: piece) } catch { break }
        fsync(file.fileDescriptor)
      }
    }

    @Test("the limit of a file's size is an error and no signal")
    func fileSize() async throws {
      let store = try StoreUnderTest(isInMemory: true)
      let limited = ["prlimit", "--fsize=40000"]
      let new = try await store.run(
        ["append", "--segment-size", "64KiB"], input: StoreUnderTest.lines(5, 200), under: limited)
      expectTyped(new, ["File too large; raise the limit of the size of files"], "a new store")
      try await store.fill(20)
      let input = StoreUnderTest.lines(400, 200, from: 20)
      let grown = try await store.run(["append", "--segment-size", "64KiB"], input: input, under: limited)
      expectTyped(grown, ["File too large; raise the limit of the size of files"], "a segment that is there")
      let acknowledged = grown.lines.count { $0.hasPrefix("ok ") }
      // Under the limit nothing but the limit stops it.
      let read = try await store.run(["dump"], under: limited)
      #expect(read.exitCode == 0, "\(read.errors)")
      #expect(read.lines.count >= 20 + acknowledged)
      let copy = try await store.run(
        ["backup", "--to", store.scratch.path + "/backup/"], under: ["prlimit", "--fsize=8000"])
      expectTyped(copy, ["File too large; raise the limit of the size of files"], "a backup")
      // Without it, all goes on.
      let after = try await store.run("append", input: "s\tT\tafter\n")
      #expect(after.exitCode == 0, "\(after.errors)")
      try await store.expectSound()
    }

    @Test(
      "with as many descriptors as it needs a call does all that it should, with fewer it says so",
      arguments: [8, 23, 24])
    func descriptors(limit: Int) async throws {
      try await inParallel(Operation.all) { operation in
        let run = try await OperationRun(operation)
        let comment: Comment = "\(operation.name) with \(limit) descriptors"
        let finished = try await run.run(under: ["prlimit", "--nofile=\(limit)"])
        if limit >= 24 {
          #expect(finished.exitCode == 0, "\(comment): \(finished.errors)")
          #expect(try run.isComplete(finished), comment)
        } else {
          expectTyped(finished, ["raise the limit of open files"], comment)
        }
        try await run.expectWhole(finished, comment)
      }
      // Where it may, it helps itself.
      let store = try StoreUnderTest(isInMemory: true)
      let raised = try await store.run(
        ["append"], input: Array("s\tT\tx\n".utf8), under: ["prlimit", "--nofile=\(limit):100"])
      #expect(raised.text == "ok 0\n", "\(raised.errors)")
    }

    @Test("with too little address space for a segment's mapping it says so")
    func addressSpace() async throws {
      let store = try StoreUnderTest(isInMemory: true)
      // Plenty for the process, and too little for a mapping of 512 MiB.
      // (The allocator puts 64 MiB of it aside for each thread, if it isn't told not to.)
      let limited = ["env", "MALLOC_ARENA_MAX=1", "prlimit", "--as=\(500 << 20)"]
      let small = try await store.run(
        ["append", "--segment-size", "64KiB"], input: Array("s\tT\tx\n".utf8), under: limited)
      try #require(small.exitCode == 0, "\(small.errors)")
      let large = try StoreUnderTest(isInMemory: true)
      let made = try await large.run(["append", "--segment-size", "512MiB"], input: StoreUnderTest.lines(3, 100))
      try #require(made.exitCode == 0, "\(made.errors)")
      for verb in ["append", "dump", "verify", "tail"] {
        let finished = try await large.run(
          [verb], input: verb == "append" ? Array("s\tT\tx\n".utf8) : [], under: limited)
        expectTyped(finished, ["Cannot allocate memory; free some memory, or raise its limit"], "\(verb)")
      }
      #expect(try await large.dump().count == 3)
    }

    // MARK: - Rights

    @Test("on a read-only mount reading works, also after a crash, and writing says why not", arguments: [true, false])
    func readOnly(isClean: Bool) async throws {
      guard await Mount.isPossible("a read-only mount") else { return }
      let store = try StoreUnderTest(isInMemory: true)
      try await store.fill(300)
      if !isClean { try await store.fillAndKill(10, from: 300) }
      let count = isClean ? 300 : 310
      try await Mount.with(["--bind", store.path], in: store.scratch) { mount in
        try await system(["mount", "-o", "remount,bind,ro", mount.path], in: store.scratch)
        let frozen = StoreUnderTest(mount.path, in: store.scratch)
        // What was acknowledged last and can't be proven to be on disk is served by nobody who can't see to it.
        let events = try await frozen.dump()
        #expect(isClean ? events.count == count : (300...count).contains(events.count))
        if events.count < count {
          // And never without a word, nor with a wrong one.
          let note = try await frozen.run("verify").errors
          #expect(
            note.contains("acknowledged events may stand here") && !note.contains("nothing acknowledged"), "\(note)")
        }
        for verb in ["verify", "stat"] {
          let read = try await frozen.run(verb)
          #expect(read.exitCode == 0, "\(verb): \(read.errors)")
        }
        let tail = try frozen.start("tail")
        for event in events { #expect(try await tail.line()?.hasPrefix("\(event.offset)\t") == true) }
        tail.signal(SIGTERM)
        #expect(try await tail.endByItself().exitCode == 0)
        let backup = try await frozen.run("backup", "--to", store.scratch.path + "/backup/")
        #expect(backup.exitCode == 0, "\(backup.errors)")
        for words in [["append"], ["reindex"], ["tail", "--cursor", "c"]] {
          let refused = try await frozen.run(words, input: Array("s\tT\tx\n".utf8))
          expectTyped(refused, ["Read-only file system; mount the file system for writing"], "\(words)")
        }
      }
      #expect(try await store.dump().count == count)
    }

    @Test(
      "a user without write permission can read, one without read permission gets an error, and nothing is changed",
      .enabled(if: geteuid() == 0))
    func otherUser() async throws {
      let store = try StoreUnderTest(isInMemory: true)
      try await store.fill(300)
      for path in [store.scratch.path, store.path] { chmod(path, 0o755) }
      // As earlier versions made them; the lock is for those who may write.
      for name in try FileManager.default.contentsOfDirectory(atPath: store.path) where name != "lock" {
        chmod(store.path + "/" + name, 0o644)
      }
      let before = try store.content()
      let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      for verb in ["dump", "verify", "stat"] {
        let read = try await store.run([verb], under: nobody)
        #expect(read.exitCode == 0, "\(verb): \(read.errors)")
      }
      for words in [["append"], ["reindex"], ["tail", "--cursor", "c"]] {
        let refused = try await store.run(words, input: Array("s\tT\tx\n".utf8), under: nobody)
        expectTyped(refused, ["Permission denied; get the right to it"], "\(words)")
      }
      #expect(try store.content() == before)
      chmod(store.path, 0o700)
      for words in [["dump"], ["verify"], ["stat"], ["append"], ["tail"], ["reindex"]] {
        let refused = try await store.run(words, under: nobody)
        expectTyped(refused, ["Permission denied; get the right to it"], "\(words)")
      }
      chmod(store.path, 0o755)
      // Neither is a new store made where there is no right to.
      let elsewhere = StoreUnderTest(store.scratch.path + "/other", in: store.scratch)
      let refused = try await elsewhere.run(["append"], input: Array("s\tT\tx\n".utf8), under: nobody)
      expectTyped(refused, ["Permission denied; get the right to it"], "a new store")
    }

    // MARK: - What is in use is moved

    /// What the writer was asked for after its directory was taken: it is answered until the writer ends.
    private func goOn(_ process: LogStoreProcess, from first: Int) async throws -> (acknowledged: Int, Finished) {
      var acknowledged = 0
      for number in first..<first + 400 {
        guard (try? await process.send("s\tT\t\(number) \(String(repeating: "x", count: 700))\n")) != nil,
          let answer = try await process.line(), answer == "ok \(number)"
        else { break }
        acknowledged += 1
      }
      return (acknowledged, try await process.end())
    }

    @Test("a directory that is renamed beneath its writer: it says so, and all that it acknowledged is where it went")
    func renamed() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", "--segment-size", "64KiB")
      try await process.send("s\tT\tfirst\n")
      #expect(try await process.line() == "ok 0")
      let moved = StoreUnderTest(store.scratch.path + "/moved", in: store.scratch)
      try FileManager.default.moveItem(atPath: store.path, toPath: moved.path)
      let (acknowledged, finished) = try await goOn(process, from: 1)
      expectTyped(finished, ["the directory is not there any more"], "renamed")
      #expect(!FileManager.default.fileExists(atPath: store.path), "it was made anew")
      #expect(try await moved.dump().count >= 1 + acknowledged)
      try await moved.expectSound()
    }

    @Test("a directory that is removed beneath its writer: it says so")
    func removed() async throws {
      let store = try StoreUnderTest()
      let process = try store.start("append", "--segment-size", "64KiB")
      try await process.send("s\tT\tfirst\n")
      #expect(try await process.line() == "ok 0")
      // The writer makes files in the background, which a removal that is under way may meet: it is tried again.
      try await eventually("it is removed", within: .seconds(20)) {
        try? FileManager.default.removeItem(atPath: store.path)
        return !FileManager.default.fileExists(atPath: store.path)
      }
      let (_, finished) = try await goOn(process, from: 1)
      expectTyped(finished, ["the directory is not there any more"], "removed")
      #expect(!FileManager.default.fileExists(atPath: store.path), "it was made anew")
    }

    @Test("where a writer's directory was moved away and another store put in its place, it leaves that alone")
    func replaced() async throws {
      for endsInTime in [true, false] {
        let store = try StoreUnderTest()
        let old = try store.start("append", "--segment-size", "64KiB")
        try await old.send("s\tT\tfirst\n")
        #expect(try await old.line() == "ok 0")
        let moved = StoreUnderTest(store.scratch.path + "/moved", in: store.scratch)
        try FileManager.default.moveItem(atPath: store.path, toPath: moved.path)
        let new = try store.start("append", "--segment-size", "64KiB")
        for number in 0..<40 {
          // About half a segment, so that its next one is being made.
          try await new.send("n\tT\tnew \(number) \(String(repeating: "y", count: 700))\n")
          #expect(try await new.line() == "ok \(number)")
        }
        var acknowledged = 0
        let finished: Finished
        if endsInTime {
          // Ended before its segment is full: only the record of its end is left to write.
          finished = try await old.end()
        } else {
          (acknowledged, finished) = try await goOn(old, from: 1)
        }
        expectTyped(finished, ["was moved away, replaced or removed while it was open", "where it is now"], "replaced")
        for number in 40..<200 {
          try await new.send("n\tT\tnew \(number) \(String(repeating: "y", count: 700))\n")
          #expect(try await new.line() == "ok \(number)")
        }
        #expect(try await new.end().exitCode == 0)
        #expect(try await store.dump().count == 200)
        try await store.expectSound("the new one")
        #expect(try await moved.dump().count >= 1 + acknowledged)
        try await moved.expectSound("the old one")
        try await store.expectSound("the new one")
      }
    }

    // MARK: - Readers beside writers that come and go

    @Test(
      "while writer after writer is killed, a tail and dump after dump see each event once, in order, and none that is lost"
    )
    func readersAcrossWriters() async throws {
      let store = try StoreUnderTest()
      try await store.fill(1)
      let tail = try store.start("tail")
      #expect(try await tail.line()?.hasPrefix("0\t") == true)
      var seen = 1
      for round in 0..<max(4, Kill.rounds / 50) {
        let writer = try store.start("append", "--segment-size", "64KiB")
        var acknowledged = seen
        for number in 0..<20 {
          try await writer.send("s\tT\t\(round) \(number) \(String(repeating: "z", count: 300))\n")
          guard let answer = try await writer.line(), let offset = Int(answer.dropFirst(3)) else {
            throw HarnessError("no answer: \(writer.errorsSoFar)")
          }
          acknowledged = offset + 1
          if number % 7 == 3 { #expect(try await store.dump().count >= acknowledged, "round \(round)") }
        }
        // Killed with appends under way.
        try await writer.send(String(repeating: "s\tT\tlast \(String(repeating: "w", count: 200))\n", count: 30))
        writer.signal(SIGKILL)
        _ = try await writer.end()
        let count = try await store.dump().count
        #expect(count >= acknowledged, "round \(round)")
        // Of what was acknowledged last the tail may be told by the next writer only: this one may have been killed between
        // its answer and its notice to other processes.
        while seen < acknowledged - 1 {
          #expect(try await tail.line()?.hasPrefix("\(seen)\t") == true, "round \(round)")
          seen += 1
        }
      }
      let last = try await store.run("append", input: "s\tT\tend\n")
      let end = try #require(Int(last.text.dropFirst(3).dropLast()))
      while seen <= end {
        #expect(try await tail.line()?.hasPrefix("\(seen)\t") == true)
        seen += 1
      }
      tail.signal(SIGTERM)
      #expect(try await tail.endByItself().exitCode == 0)
    }
  }
}
