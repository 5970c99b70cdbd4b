import Foundation
import Testing

extension LogStoreCommandTests {
  @Suite struct Bench {
    @Test(
      "bench prints JSON with the agreed fields, LogStore beside its limit, and removes its data",
      arguments: [
        ["append", "--writers", "3"], ["append", "--durability", "buffered", "--batch", "20"], ["load"], ["tail"],
        ["scan"],
      ])
    func json(arguments: [String]) async throws {
      let scratch = try TemporaryDirectory()
      let data = scratch.path + "/data"
      let bench = (StoreUnderTest.command as NSString).deletingLastPathComponent + "/bench"
      let process = try LogStoreProcess(
        bench, arguments + ["--events", "300", "--payload", "100", "--json", "--dir", data], scratch: scratch)
      let finished = try await process.end()
      try #require(finished.exitCode == 0, "\(finished.errors)")
      let objects = try finished.lines.map {
        try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] ?? [:]
      }
      #expect(objects.count >= 2)
      for object in objects {
        #expect(
          Set(object.keys).isSuperset(of: [
            "workload", "system", "events", "payload_bytes", "writers", "batch", "seconds", "events_per_second",
            "mib_per_second", "p50_us", "p99_us", "limit_events_per_second", "ratio_to_limit",
          ]))
        #expect(object["payload_bytes"] as? Int == 100)
        #expect((object["events_per_second"] as? Double ?? 0) > 0 && (object["ratio_to_limit"] as? Double ?? 0) > 0)
      }
      #expect(!FileManager.default.fileExists(atPath: data), "it left its data behind")
    }
  }
}
