import Foundation
import Testing

/// The faults of a store's disk, for each of its files, and what every command does then.
private enum Kind: String, CaseIterable, Sendable {
  case finished = "a finished segment"
  case last = "the last segment"
  case index = "an index file"
  case store = "`store`"
  case clean = "`clean`"
  case tail = "`tail`"
  case lock = "`lock`"

  /// The file of a store with several segments, and where in it a reader looks.
  func file(of store: StoreUnderTest) throws -> (name: String, size: Int, sector: Int) {
    let names = try store.files()
    let segments = names.filter { $0.hasSuffix(".log") }
    let name =
      switch self {
      case .finished: segments[1]
      case .last: segments[segments.count - 1]
      case .index: names.first { $0.hasSuffix(".idx") } ?? ""
      case .store: "store"
      case .clean: "clean"
      case .tail: "tail"
      case .lock: "lock"
      }
    let size = try store.bytes(name).count
    return (name, size, self == .finished || self == .last ? 8192 : 0)
  }
}

private enum Way: String, CaseIterable, Sendable {
  case whole = "all of it"
  case sector = "one sector"
}

private let commands = [
  "append", "dump", "dump --stream", "tail", "stat", "verify", "repair", "backup", "reindex", "restore",
]

extension LogStoreCommandTests {
  @Suite struct UnreadableTests {
    /// The observations, each a row of docs/DURABILITY.md.
    struct Row: Sendable {
      var kind: String
      var way: String
      var command: String
      var finished: Finished
      var said: String
    }

    @Test("each file × each way it can't be read × each command: one line and exit 1, or done; never a signal")
    func everyCommand() async throws {
      guard await Mount.isPossible("every command on a disk that can't be read") else { return }
      let scratch = try TemporaryDirectory()
      var rows: [Row] = []
      try await FaultyDisk.with(in: scratch) { disk in
        let store = StoreUnderTest(disk.path + "/store", in: scratch)
        try await store.fill(800)
        let whole = try await store.dump()
        let backup = scratch.path + "/backup"
        try #require(try await store.run("backup", "--to", backup).exitCode == 0)
        for kind in Kind.allCases {
          for way in Way.allCases {
            for command in commands {
              let file = try kind.file(of: store)
              try disk.spoil([rule(file, way)])
              let finished = try await run(command, store, disk, backup, scratch)
              rows.append(
                Row(
                  kind: kind.rawValue, way: way.rawValue, command: command, finished: finished, said: said(finished)))
              check(finished, command, kind, file.name)
              // Nothing is lost, and everything works once the disk is well.
              try disk.heal()
              let after = try await store.dump()
              #expect(Array(after.prefix(whole.count)) == whole, "\(kind), \(way), \(command)")
              #expect(after.count <= whole.count + rows.count)
              try await store.expectSound("\(kind), \(way), \(command)")
            }
          }
        }
      }
      try Self.write(rows)
    }

    private func rule(_ file: (name: String, size: Int, sector: Int), _ way: Way) -> FaultyDisk.Rule {
      let range = way == .whole ? 0..<max(file.size, 1) : file.sector..<file.sector + 4096
      return FaultyDisk.Rule(file: file.name, range: range)
    }

    private func run(
      _ command: String, _ store: StoreUnderTest, _ disk: FaultyDisk, _ backup: String, _ scratch: TemporaryDirectory
    ) async throws -> Finished {
      switch command {
      case "append": return try await store.run("append", input: "after\tType\tpayload\n")
      case "dump --stream": return try await store.run("dump", "--stream", "s3")
      case "tail":
        let process = try store.start("tail", "--from", "0")
        // Until it has printed all that there is, or has ended.
        var lines = 0
        while lines < 800, try await process.line() != nil { lines += 1 }
        process.signal(SIGINT)
        return try await process.end()
      case "repair": return try await store.run("repair", "--to", scratch.newPath("repaired"))
      case "backup": return try await store.run("backup", "--to", scratch.newPath("backup"))
      case "restore":
        // Onto the disk, and from a backup that is there: of a file with the name that can't be read.
        let target = StoreUnderTest(disk.path + "/restored", in: scratch)
        defer { try? FileManager.default.removeItem(atPath: disk.backing + "/restored") }
        return try await target.run("restore", "--from", backup)
      default: return try await store.run(command)
      }
    }

    private func said(_ finished: Finished) -> String {
      let lines = (finished.errors + finished.text).split(separator: "\n").filter { $0.contains("can't be read") }
      return lines.first.map(String.init) ?? ""
    }

    private func check(_ finished: Finished, _ command: String, _ kind: Kind, _ name: String) {
      #expect(finished.signal == nil, "\(kind), \(command): \(finished.errors)")
      #expect(finished.exitCode == 0 || finished.exitCode == 1, "\(kind), \(command): \(finished.errors)")
      guard finished.exitCode == 1 else { return }
      #expect(said(finished).contains("\(name) @"), "\(kind), \(command): \(finished.errors)\(finished.text)")
      #expect(finished.errors.split(separator: "\n").count == 1, "\(kind), \(command): \(finished.errors)")
    }

    /// Where LOGSTORE_UNREADABLE_TABLE says, so that the document can be compared with what was seen.
    private static func write(_ rows: [Row]) throws {
      guard let path = ProcessInfo.processInfo.environment["LOGSTORE_UNREADABLE_TABLE"] else { return }
      var text = ""
      for row in rows {
        let code = row.finished.exitCode.map { "\($0)" } ?? "signal \(row.finished.signal ?? 0)"
        text += "| \(row.kind) | \(row.way) | \(row.command) | \(code) | \(row.said.suffix(160)) |\n"
      }
      try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    }

    @Test("verify lists every place that can't be read, once, and repair and --allow-damaged give all the rest")
    func everyPlace() async throws {
      guard await Mount.isPossible("every place that can't be read") else { return }
      let scratch = try TemporaryDirectory()
      try await FaultyDisk.with(in: scratch) { disk in
        let store = StoreUnderTest(disk.path + "/store", in: scratch)
        try await store.fill(800)
        let segments = try store.segments()
        let places = [(segments[0], 8192), (segments[1], 20480), (segments[1], 40960), (segments[2], 4096)]
        try disk.spoil(places.map { FaultyDisk.Rule(file: $0.0, range: $0.1..<$0.1 + 4096) })
        let verified = try await store.run("verify")
        #expect(verified.exitCode == 1)
        #expect(
          verified.lines == places.map { "damaged \(store.file($0.0)) @\($0.1): can't be read: Input/output error" })
        let left = try await store.run("dump", "--allow-damaged")
        #expect(left.exitCode == 0 || left.exitCode == 1)
        let repaired = StoreUnderTest(scratch.path + "/repaired", in: scratch)
        #expect(try await store.run("repair", "--to", repaired.path).signal == nil)
        let saved = try await repaired.dump()
        #expect(saved.count > 700 && saved.count < 800)
        try disk.heal()
        let all = Set(try await store.dump())
        #expect(saved.allSatisfy(all.contains))
        try await store.expectSound()
      }
    }

    @Test(
      "a store that is cut while it is dumped or backed up, or that can't be read for a while, ends in an error",
      arguments: ["dump", "backup"])
    func whileMapped(command: String) async throws {
      guard await Mount.isPossible("a file that is cut while it is mapped") else { return }
      let scratch = try TemporaryDirectory()
      try await FaultyDisk.with(in: scratch) { disk in
        let store = StoreUnderTest(disk.path + "/store", in: scratch)
        try await store.fill(2000)
        let all = try await store.dump()
        let last = try #require(try store.segments().last)
        let bytes = try store.bytes(last)
        for isCut in [true, false] {
          let process =
            command == "dump" ? try store.start("dump") : try store.start("backup", "--to", "-")
          // It waits now for a reader.
          if command == "dump" { _ = try await process.line() }
          try await waitUntilBlocked(process)
          if isCut {
            try #require(truncate(store.file(last), 8192) == 0)
          } else {
            try disk.spoil([FaultyDisk.Rule(file: last, range: 8192..<bytes.count)])
          }
          let finished = try await process.end()
          #expect(finished.signal == nil && finished.exitCode == 1, "\(finished.errors)")
          #expect(finished.errors.contains("\(last) @"), "\(finished.errors)")
          #expect(finished.errors.contains("can't be read"), "\(finished.errors)")
          if isCut { try store.write(last, bytes) } else { try disk.heal() }
          #expect(try await store.dump() == all)
        }
      }
    }

    /// Until a process sleeps in a write to a pipe that is full.
    private func waitUntilBlocked(_ process: LogStoreProcess) async throws {
      let deadline = ContinuousClock.now + .seconds(30)
      while ContinuousClock.now < deadline {
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(process.pid)/task")) ?? []
        for task in tasks {
          let place = try? String(contentsOfFile: "/proc/\(process.pid)/task/\(task)/wchan", encoding: .utf8)
          if place?.contains("pipe_write") == true { return }
        }
        try await Task.sleep(for: .milliseconds(5))
      }
      throw HarnessError("the process never waited for its pipe: \(process.errorsSoFar)")
    }

    @Test("a tail that runs while the disk fails ends with one line, and a new one continues")
    func tail() async throws {
      guard await Mount.isPossible("a tail on a disk that fails") else { return }
      let scratch = try TemporaryDirectory()
      try await FaultyDisk.with(in: scratch) { disk in
        let store = StoreUnderTest(disk.path + "/store", in: scratch)
        try await store.fill(100)
        let writer = try store.start("append", "--segment-size", "64KiB")
        try await writer.send("s1\tType\tone\n")
        #expect(try await writer.line() == "ok 100")
        let tail = try store.start("tail", "--from", "100")
        #expect(try await tail.line()?.hasSuffix("one") == true)
        let last = try #require(try store.segments().last)
        try disk.spoil([FaultyDisk.Rule(file: last, range: 0..<65536), FaultyDisk.Rule(file: "tail", range: 0..<40)])
        // The writer does not read what it writes, so it goes on.
        try await writer.send("s1\tType\ttwo\n")
        #expect(try await writer.line() == "ok 101")
        let ended = try await tail.endByItself()
        #expect(ended.signal == nil && ended.exitCode == 1 && ended.errors.contains("can't be read"), "\(ended.errors)")
        try disk.heal()
        let again = try store.start("tail", "--from", "100")
        #expect(try await again.line()?.hasSuffix("one") == true)
        #expect(try await again.line()?.hasSuffix("two") == true)
        again.signal(SIGINT)
        _ = try await again.end()
        #expect(try await writer.end().exitCode == 0)
        try await store.expectSound()
      }
    }

    @Test("a device that loses its end: a loop device over a file that is cut, and whole again")
    func device() async throws {
      guard await Mount.isPossible("a device that loses its end") else { return }
      let scratch = try TemporaryDirectory(isInMemory: true)
      let image = scratch.path + "/image"
      try await FileSystem.ext4.make(image, in: scratch)
      var names: [String] = []
      try await Mount.with(image: image, .ext4, in: scratch) { mount in
        let store = StoreUnderTest(mount.path, in: scratch)
        try await store.fill(800)
        names = try store.segments()
      }
      let blocks = try await system(["debugfs", "-R", "blocks /\(names[1])", image], in: scratch)
        .split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
      let sizes = try await system(["debugfs", "-R", "stats", image], in: scratch).split(separator: "\n")
      let size = sizes.first { $0.hasPrefix("Block size:") }.flatMap { Int($0.dropFirst(11).filter(\.isNumber)) }
      let start = try #require(blocks.dropFirst(20).first) * (try #require(size))
      try await Mount.with(image: image, .ext4, options: ["ro", "noload"], in: scratch) { mount in
        let store = StoreUnderTest(mount.path, in: scratch)
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: image))
        try file.seek(toOffset: UInt64(start))
        let rest = try #require(try file.readToEnd())
        try file.truncate(atOffset: UInt64(start))
        for command in ["verify", "dump", "stat", "reindex"] {
          let finished = try await store.run(command)
          #expect(finished.signal == nil, "\(command): \(finished.errors)")
          if command == "verify" || command == "dump" {
            #expect(finished.exitCode == 1)
            #expect((finished.text + finished.errors).contains("can't be read: Input/output error"))
          }
        }
        let repaired = StoreUnderTest(scratch.path + "/repaired", in: scratch)
        #expect(try await store.run("repair", "--to", repaired.path).exitCode == 0)
        #expect(try await repaired.dump().count > 200)
        try file.seek(toOffset: UInt64(start))
        try file.write(contentsOf: rest)
        try file.close()
        try await store.expectSound()
        #expect(try await store.dump().count == 800)
      }
    }

    @Test(
      "a SIGBUS of another mapping is handled as before",
      arguments: [
        ("previous-with-info", "known\ntold\nknown\n", nil), ("previous-plain", "known\ntold\nknown\n", nil),
        ("previous-once", "known\ntold\n", SIGBUS), ("ignored-sent", "known\nignored\n", nil),
        ("ignored-fault", "known\n", SIGBUS), ("default-fault", "known\n", SIGBUS),
        ("default-sent", "known\n", SIGBUS), ("released", "known\n", SIGBUS), ("reused", "known\nknown\n", nil),
      ] as [(String, String, Int32?)])
    func notOurs(name: String, output: String, signal: Int32?) async throws {
      let scratch = try TemporaryDirectory()
      let program = try await TestTool.faults.value
      let finished = try await LogStoreProcess(program, [name, scratch.path + "/file"], scratch: scratch).end()
      #expect(finished.signal == signal, "exit \(String(describing: finished.exitCode))")
      #expect(finished.text == output)
      if signal == nil { #expect(finished.exitCode == 0) }
    }
  }
}
