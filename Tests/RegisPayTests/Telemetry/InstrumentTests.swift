import Foundation
import NIOEmbedded
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

@Suite("What metrics are measured with")
struct InstrumentTests {
  @Test("no value is lost when many threads record at once")
  func concurrent() async {
    let histogram = DurationHistogram(milliseconds: [1, 2])
    let counter = MetricCounter()
    await withTaskGroup(of: Void.self) { group in
      for task in 0..<8 {
        group.addTask {
          for _ in 0..<10_000 {
            histogram.record(nanoseconds: UInt64(task) * 500_000)
            counter.add()
          }
        }
      }
    }
    #expect(counter.value == 80_000)
    // 0, 0.5 and 1 ms; 1.5 and 2 ms; 2.5, 3 and 3.5 ms.
    #expect(histogram.snapshot.counts == [30_000, 20_000, 30_000])
    #expect(abs(histogram.snapshot.sum - 140) < 1e-9)
  }

  @Test("a request counts for its route's path, its method and its status, and never for its own path")
  func requests() {
    let metrics = HTTPMetrics(routes: [("/a/{id}", ["GET", "POST"]), ("/b/{id}", ["GET"])])
    metrics.record(route: "/a/{id}", .get, status: 200, nanoseconds: 1)
    metrics.record(route: "/a/{id}", .get, status: 200, nanoseconds: 1)
    metrics.record(route: "/a/{id}", .head, status: 404, nanoseconds: 1)
    metrics.record(route: "/b/{id}", .get, status: 299, nanoseconds: 1)
    metrics.record(route: nil, .init("BREW")!, status: 404, nanoseconds: 1)
    // A route's path without the method, and a route that is not known.
    metrics.record(route: "/b/{id}", .post, status: 405, nanoseconds: 1)
    metrics.record(route: "/c/{id}", .get, status: 9_999, nanoseconds: 1)
    metrics.countRefusal(status: 431)
    let text = String(decoding: MetricsText.bytes(metrics.families, .prometheus), as: UTF8.self)
    func count(_ method: String, _ status: String, _ route: String?) -> Bool {
      let path = route.map { ",http_route=\"\($0)\"" } ?? ""
      let labels = "http_request_method=\"\(method)\",http_response_status_code=\"\(status)\"\(path)"
      return text.contains(
        "http_server_request_duration_seconds_count{\(labels)} \(route == "/a/{id}" && status == "200" ? 2 : 1)\n")
    }
    #expect(count("GET", "200", "/a/{id}") && count("HEAD", "404", "/a/{id}") && count("GET", "_OTHER", "/b/{id}"))
    #expect(count("_OTHER", "404", nil) && count("POST", "405", nil) && count("GET", "_OTHER", nil))
    #expect(text.split(separator: "\n").count { $0.contains("_count{") } == 6, "nothing else is shown")
    #expect(text.contains("regispay_http_refusals_total{http_response_status_code=\"431\"} 1\n"))
  }

  @Test("a loop's task that comes late counts with how late it is, and one that is overdue shows before it runs")
  func loops() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let delays = LoopDelays(group, interval: .milliseconds(1))
    func text() -> String { String(decoding: MetricsText.bytes(delays.families, .prometheus), as: UTF8.self) }
    func number(_ name: String) -> Double {
      text().split(separator: "\n").first { $0.hasPrefix(name + " ") }.flatMap { Double($0.dropFirst(name.count + 1)) }
        ?? -1
    }
    delays.start()
    try await eventually("the loop is measured") { number("regispay_event_loop_delay_seconds_count") > 3 }
    let gate = DispatchSemaphore(value: 0)
    group.next().execute { gate.wait() }
    try await eventually("the held loop is overdue") { number("regispay_event_loop_overdue_seconds") > 0.05 }
    let before = number("regispay_event_loop_delay_seconds_sum")
    gate.signal()
    try await eventually("its delay is counted") { number("regispay_event_loop_delay_seconds_sum") > before + 0.05 }
    delays.stop()
    try await group.shutdownGracefully()
  }

  @Test(
    "the disk lasts as long as its room at the rate of the last hour; nothing is said in the first minute, or without growth"
  )
  func disk() throws {
    let second: UInt64 = 1_000_000_000
    let disk = DiskMetrics(FileManager.default.temporaryDirectory.path, parts: [])
    disk.sample(appendedBytes: 1_000, at: 5 * second)
    #expect(disk.rate(appendedBytes: 2_000, at: 10 * second) == nil)
    #expect(disk.rate(appendedBytes: 1_000, at: 105 * second) == 0)
    #expect(disk.rate(appendedBytes: 2_000, at: 105 * second) == 10)
    // Two hours at ten bytes a second, then an hour at a thousand: only the last hour counts.
    var bytes: UInt64 = 1_000
    for minute in 1...180 as ClosedRange<UInt64> {
      bytes += minute <= 120 ? 600 : 60_000
      disk.sample(appendedBytes: bytes, at: (5 + 60 * minute) * second)
      // More often than once a minute changes nothing.
      disk.sample(appendedBytes: 0, at: (6 + 60 * minute) * second)
    }
    #expect(disk.rate(appendedBytes: bytes, at: (5 + 60 * 180) * second) == 1_000)
    let text = String(
      decoding: MetricsText.bytes(disk.families(appendedBytes: bytes, at: 10_805 * second), .prometheus), as: UTF8.self)
    #expect(text.contains("regispay_log_growth_bytes_per_second 1000.0\n"))
    func value(_ name: String) throws -> Double {
      let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name + " ") })
      return try #require(Double(line.dropFirst(name.count + 1)))
    }
    #expect(try value("regispay_disk_full_seconds") == value("regispay_disk_available_bytes") / 1_000)
  }

  @Test("folders are measured by the space that their files take")
  func folders() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(atPath: folder + "/payments", withIntermediateDirectories: true)
      try Data(count: 10_000).write(to: URL(fileURLWithPath: folder + "/payments/a"))
      try FileManager.default.createSymbolicLink(atPath: folder + "/payments/b", withDestinationPath: "/proc/kcore")
      let disk = DiskMetrics(folder, parts: ["payments", "webhooks"])
      disk.measure()
      let text = String(decoding: MetricsText.bytes(disk.families(appendedBytes: 0, at: 0), .prometheus), as: UTF8.self)
      let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("regispay_directory_bytes{") })
      #expect(line.hasPrefix("regispay_directory_bytes{directory=\"payments\"} "))
      let bytes = try #require(line.split(separator: " ").last.flatMap { Int($0) })
      #expect((8_192..<100_000).contains(bytes))
      #expect(!text.contains("directory=\"webhooks\""))
    }
  }

  @Test(
    "a read that hangs keeps nobody: its caller gets nothing, others nothing at once, and later ones the next value")
  func hangingRead() async throws {
    let read = BoundedRead(limit: .milliseconds(20))
    #expect(await read.value { 1 } == 1)
    let (gate, opened) = AsyncStream<Void>.makeStream()
    #expect(await read.value { await gate.first { _ in true } != nil ? 2 : 3 } == nil)
    let patient = BoundedRead(limit: .seconds(600))
    #expect(await patient.value { await read.value { 4 } } == .some(nil), "an earlier read still runs")
    opened.yield()
    try await eventually("the read has ended") { await read.value { 5 } == 5 }
  }

  @Test("the process shows its processor time, memory, threads and descriptors")
  func process() throws {
    let metrics = ProcessMetrics()
    func value(_ name: String) throws -> Double {
      let text = String(decoding: MetricsText.bytes(metrics.families, .prometheus), as: UTF8.self)
      let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name + " ") }, "\(name)")
      return try #require(Double(line.dropFirst(name.count + 1)))
    }
    let opened = try value("process_open_fds")
    let files = try (0..<10).map { _ in try #require(FileHandle(forReadingAtPath: "/dev/null")) }
    #expect(try value("process_open_fds") > opened, "others may close some meanwhile")
    withExtendedLifetime(files) {}
    #expect(try value("process_cpu_seconds_total") > 0)
    let (anonymous, resident) = (
      try value("process_anonymous_memory_bytes"), try value("process_resident_memory_bytes")
    )
    #expect(anonymous > 1_048_576 && resident > anonymous)
    #expect(try value("process_virtual_memory_bytes") > resident)
    #expect(try value("process_threads") >= 1)
    #expect(try value("process_max_fds") >= opened)
    let start = try value("process_start_time_seconds")
    #expect(start < Date().timeIntervalSince1970 && start > Date().timeIntervalSince1970 - 86_400)
  }
}
