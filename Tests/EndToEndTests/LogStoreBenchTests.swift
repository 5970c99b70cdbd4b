import Foundation
import Testing

#if canImport(FoundationXML)
  import FoundationXML
#endif

extension LogStoreCommandTests {
  @Suite struct Bench {
    private static let peers = ["sqlite", "lmdb", "rocksdb"]
    private static let agreed: Set<String> = [
      "workload", "system", "events", "payload_bytes", "writers", "batch", "seconds", "events_per_second",
      "mib_per_second", "p50_us", "p99_us", "limit_events_per_second", "ratio_to_limit",
    ]
    private static let added: Set<String> = [
      "runs", "events_per_second_min", "events_per_second_max", "ratio_to_limit_min", "ratio_to_limit_max", "p90_us",
      "p999_us", "max_us", "bar", "reached", "overhead_bytes_per_event", "ahead_bytes", "overhead_bar",
      "overhead_reached", "busy", "others_cpu_percent", "steal_percent", "settings",
    ]

    private let scratch: TemporaryDirectory
    private var data: String { scratch.path + "/data" }

    init() throws { scratch = try TemporaryDirectory() }

    private func start(_ arguments: [String]) throws -> LogStoreProcess {
      let bench = (StoreUnderTest.command as NSString).deletingLastPathComponent + "/bench"
      return try LogStoreProcess(bench, arguments + ["--dir", data], scratch: scratch)
    }

    /// Runs it to its end, which must be successful. Returns its JSON output.
    private func run(_ arguments: [String]) async throws -> [[String: Any]] {
      let finished = try await start(arguments).end(within: .seconds(180))
      try #require(finished.exitCode == 0, "\(finished.errors)")
      #expect(!FileManager.default.fileExists(atPath: data), "it left its data behind")
      return try finished.lines.map {
        try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] ?? [:]
      }
    }

    @Test(
      "bench prints JSON with the agreed fields, LogStore beside its limit, and removes its data",
      arguments: [
        ["append", "--writers", "3"], ["append", "--durability", "buffered", "--batch", "20"], ["load"], ["tail"],
        ["scan"],
      ])
    func json(arguments: [String]) async throws {
      let objects = try await run(arguments + ["--events", "300", "--payload", "100", "--json"])
      #expect(objects.count >= 2)
      for object in objects {
        #expect(Set(object.keys) == Self.agreed.union(Self.added))
        #expect(object["payload_bytes"] as? Int == 100)
        #expect((object["events_per_second"] as? Double ?? 0) > 0 && (object["ratio_to_limit"] as? Double ?? 0) > 0)
      }
    }

    @Test(
      "bench all measures every peer in every workload but the tail, prints each bar, and writes a complete report")
    func peersAndReport() async throws {
      let report = scratch.path + "/report.html"
      let objects = try await run(
        [
          "all", "--peers", Self.peers.joined(separator: ","), "--events", "2000", "--runs", "2", "--json", "--out",
          report,
        ])
      for object in objects {
        #expect(Set(object.keys) == Self.agreed.union(Self.added))
        #expect(object["runs"] as? Int == 2)
        let least = object["events_per_second_min"] as? Double ?? 0
        let median = object["events_per_second"] as? Double ?? 0
        #expect(least > 0 && least <= median && median <= object["events_per_second_max"] as? Double ?? 0)
      }
      let systems = Dictionary(grouping: objects) { $0["workload"] as? String ?? "" }
        .mapValues { Set($0.compactMap { $0["system"] as? String }) }
      for (workload, systems) in systems {
        let expected: Set = ["logstore", "limit"]
        #expect(systems == (workload.hasPrefix("tail") ? expected : expected.union(Self.peers)), "\(workload)")
      }
      #expect(systems.count == 10)
      let judged = objects.filter { $0["reached"] is Bool }
      #expect(judged.count == 8 && judged.allSatisfy { $0["system"] as? String == "logstore" })
      #expect(objects.filter { $0["overhead_reached"] is Bool }.count == 2)
      try expectWholeReport(report, naming: Self.peers + ["append synced, 1 by 64", "bar 0.90"])
    }

    /// Well-formed, and nothing in it is loaded from elsewhere.
    private func expectWholeReport(_ path: String, naming words: [String]) throws {
      let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
      let parser = XMLParser(data: bytes)
      #expect(parser.parse(), "\(parser.parserError.map { "\($0)" } ?? "") in line \(parser.lineNumber)")
      let text = String(decoding: bytes, as: UTF8.self)
      for foreign in ["http:", "https:", "src=", "href=", "@import", "url("] { #expect(!text.contains(foreign)) }
      for word in words + ["<svg", "prefers-color-scheme", "processor", "file system"] {
        #expect(text.contains(word), "no \(word)")
      }
    }

    @Test("a peer that it doesn't know is wrong usage, and it says which it knows")
    func unknownPeer() async throws {
      let finished = try await start(["append", "--peers", "sqlite,berkeley"]).end()
      #expect(finished.exitCode == 64)
      for peer in Self.peers { #expect(finished.errors.contains(peer)) }
    }

    @Test(
      "bench scale fills, kills, opens, finds what was acknowledged, and removes its data",
      arguments: [[], ["--spread"]])
    func scale(arguments: [String]) async throws {
      let report = scratch.path + "/report.html"
      let objects = try await run(
        ["scale", "--events", "200000", "--seconds", "0.1", "--writers", "8", "--json", "--out", report] + arguments)
      let step = try #require(objects.first)
      #expect(step["events"] as? Int == 200_000)
      for field in [
        "fill_events_per_second", "append_events_per_second", "append_new_stream_events_per_second",
        "append_old_stream_events_per_second", "load_p50_us", "second_load_p50_us", "first_load_p99_us",
        "overhead_bytes_per_event",
        "anonymous_peak_bytes", "open_ms", "open_cold_ms",
      ] {
        #expect((step[field] as? Double ?? 0) > 0, "\(field)")
      }
      #expect(objects.dropFirst().allSatisfy { $0["reached"] is Bool } && objects.count == 4)
      try expectWholeReport(report, naming: ["As the log grows", "bar 200 ms"])
    }

    @Test("bench scale refuses what the disk has no room for, and says what is needed and what is free")
    func noRoom() async throws {
      let finished = try await start(["scale", "--events", "10000000000"]).end()
      #expect(finished.exitCode == 1)
      #expect(finished.errors.contains("needs up to") && finished.errors.contains("are free"))
      #expect(!FileManager.default.fileExists(atPath: data), "it left its data behind")
    }

    @Test("bench mixed does everything at once, prints each window beside the disk's, and removes its data")
    func mixed() async throws {
      let report = scratch.path + "/report.html"
      let objects = try await run(
        ["mixed", "--minutes", "0.05", "--segment-mib", "1", "--writers", "8", "--json", "--out", report])
      let windows = objects.filter { $0["workload"] as? String == "mixed window" }
      #expect(windows.count == 3)
      for field in ["append_max_us", "tail_max_us", "load_max_us", "probe_max_us", "anonymous_bytes"] {
        #expect(windows.allSatisfy { ($0[field] as? Double ?? 0) > 0 }, "\(field)")
      }
      let whole = try #require(objects.last)
      #expect(whole["workload"] as? String == "mixed" && (whole["events"] as? Int ?? 0) > 0)
      #expect(whole["stalls"] as? Int == objects.filter { $0["workload"] as? String == "mixed stall" }.count)
      try expectWholeReport(report, naming: ["Stalls", "bar 256 MiB"])
    }

    @Test("when it is interrupted it removes its data, whatever is running", arguments: [SIGINT, SIGTERM])
    func interrupted(signal: Int32) async throws {
      let process = try start(["mixed", "--minutes", "0.2", "--segment-mib", "1", "--writers", "8", "--json"])
      // The first window is over: everything runs.
      _ = try await process.line()
      process.signal(signal)
      let finished = try await process.end()
      #expect(finished.exitCode == 128 + signal)
      #expect(!FileManager.default.fileExists(atPath: data), "it left its data behind")
    }
  }
}
