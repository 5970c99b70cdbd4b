import Foundation
import Testing

extension RegisPayServeTests {
  /// A file of the server's that can't be read.
  private struct BadFile: Sendable, CustomStringConvertible {
    var description: String
    /// In the data directory; the last component of it is what the rule names.
    var path: String
    /// Whether a server starts that finds it so.
    var starts: Bool

    init(_ description: String, _ path: String, starts: Bool) {
      self.description = description
      self.path = path
      self.starts = starts
    }
  }

  private static let streamed = "GET /api/v1/events?from=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"

  /// Answers of the routes that must never be the end of the process.
  private func ask(_ server: RunningServer, _ ids: [String], _ bad: BadFile, _ disk: FaultyDisk) async throws {
    for path in ids.map({ "/api/v1/payments/\($0)" }) + ["/api/v1/payments?limit=100", "/api/v1/consumers", "/health"] {
      let response = try await server.get(path)
      #expect([200, 500, 503].contains(response.status), "\(bad): \(path) got \(response.status)")
      guard response.status != 200, path != "/health" else { continue }
      let body = String(decoding: response.body, as: UTF8.self)
      #expect(body.contains("/problems/") && !body.contains(disk.path), "\(bad): \(path): \(body)")
    }
    #expect(try await server.get("/alive").status == 200, "\(bad)")
    let created = try await server.post("/api/payment/create", "{\"amount\":1,\"currency\":\"GBP\"}")
    #expect([200, 500, 503].contains(created.status), "\(bad): create got \(created.status)")
    let stream = try RawConnection(server.url, sending: Self.streamed)
    #expect(stream.readSome()?.hasPrefix("HTTP/1.1 200") == true, "\(bad)")
  }

  private func expectWell(_ server: RunningServer, _ ids: [String], _ bad: BadFile) async throws {
    try await eventually("\(bad): all is served again", within: .seconds(40)) {
      for path in ids.map({ "/api/v1/payments/\($0)" }) + ["/api/v1/payments?limit=100", "/health", "/alive"]
      where try await server.get(path).status != 200 { return false }
      return true
    }
  }

  @Test("with each of its files unreadable or truncated the server responds, and recovers with the disk")
  func unreadable() async throws {
    guard await Mount.isPossible("a server on a disk that can't be read") else { return }
    let scratch = try TemporaryDirectory()
    try await FaultyDisk.with(in: scratch) { disk in
      var server = try await start(disk, scratch)
      var ids: [String] = []
      for amount in 1...200 { ids.append(try await server.createPayment("\(amount)")) }
      try await server.wait(for: ids[199], status: "Completed", within: .seconds(60))
      let data = disk.backing + "/data"
      let requested = [ids[0], ids[70], ids[199]]
      let count = try files(in: data).count
      // Named each time: the log grows, and index files are merged.
      for number in 0..<count {
        let bad = try files(in: data)[number]
        let rule = FaultyDisk.Rule(file: (bad.path as NSString).lastPathComponent, range: 0..<1 << 30)
        try disk.spoil([rule])
        try await ask(server, requested, bad, disk)
        try disk.heal()
        try await expectWell(server, requested, bad)
      }
      // Cut while it is mapped, and put back in place.
      for number in 0..<3 {
        let bad = try files(in: data)[number]
        let path = data + "/" + bad.path
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        try #require(truncate(disk.path + "/data/" + bad.path, 4096) == 0)
        try await ask(server, requested, bad, disk)
        // Behind the file system's back, in place, and without the zeros behind the log's end: what is appended meanwhile
        // stands there.
        let end = try #require(bytes.lastIndex { $0 != 0 }) + 1
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.write(contentsOf: bytes[..<end])
        try file.truncate(atOffset: UInt64(bytes.count))
        try file.close()
        try disk.heal()
        try await expectWell(server, requested, bad)
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      for number in 0..<count { try await start(try files(in: data)[number], disk, requested) }
      server = try await start(disk, scratch)
      try await expectWell(server, requested, try files(in: data)[0])
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("an event stream waits for a disk that can't read for a while, /health says so, and it leaves nothing out")
  func waits() async throws {
    guard await Mount.isPossible("a server on a disk that can't be read") else { return }
    let scratch = try TemporaryDirectory()
    try await FaultyDisk.with(in: scratch) { disk in
      let server = try await start(disk, scratch)
      var ids: [String] = []
      // Enough for three segments, however many events share a frame.
      for amount in 1...250 { ids.append(try await server.createPayment("\(amount)")) }
      try await server.wait(for: ids[249], status: "Completed", within: .seconds(60))
      let data = disk.backing + "/data"
      let bad = try files(in: data)[0]
      let base = try #require(UInt64((bad.path as NSString).lastPathComponent.dropLast(4)))
      try disk.spoil([FaultyDisk.Rule(file: (bad.path as NSString).lastPathComponent, range: 0..<1 << 30)])
      let stream = try RawConnection(server.url, sending: Self.streamed)
      // All before the place comes though the place can't be read.
      var text = stream.read { $0.contains("-\(base - 1)\ndata") }
      try #require(text.contains("-\(base - 1)\ndata"))
      try await eventually("/health says that readers wait", within: .seconds(20)) {
        String(decoding: try await server.get("/health").body, as: UTF8.self).contains("readers wait for the disk")
      }
      #expect(!text.contains("-\(base)\ndata"))
      try disk.heal()
      let end = try #require(try await server.get("/api/v1/payments?limit=1").object()["logEnd"] as? UInt64)
      text = stream.read(after: text) { $0.contains("-\(end - 1)\ndata") }
      try #require(text.contains("-\(end - 1)\ndata"))
      #expect(!text.contains("event: missing"))
      for offset in 0..<end where !text.contains("-\(offset)\ndata") { Issue.record("\(offset) was left out") }
      try await eventually("/health says that all is well", within: .seconds(20)) {
        let health = try await server.get("/health")
        return String(decoding: health.body, as: UTF8.self) == "Healthy"
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "/health reports a finished segment that the disk can't read when a request meets it, and only as long as that lasts"
  )
  func met() async throws {
    guard await Mount.isPossible("a server on a disk that can't be read") else { return }
    let scratch = try TemporaryDirectory()
    try await FaultyDisk.with(in: scratch) { disk in
      var server = try await start(disk, scratch)
      var ids: [String] = []
      for amount in 1...250 { ids.append(try await server.createPayment("\(amount)")) }
      try await server.wait(for: ids[249], status: "Completed", within: .seconds(60))
      try await eventually("every consumer has come to the end", within: .seconds(30)) {
        let consumers = try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]]
        return try #require(consumers).allSatisfy { $0["lag"] as? Int == 0 }
      }
      // So that nothing of it is in memory, and nobody but the request reads it.
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      server = try await start(disk, scratch, ["--scrub-rate", "0"])
      // What it reads for the last hour's activity it has read.
      try await eventually("the last hour is known", within: .seconds(60)) {
        let points = try await server.get("/api/v1/activity").object()["points"] as? [[String: Any]]
        let rates = try #require(points).compactMap { $0["acceptedPerSecond"] as? Double }
        return abs(rates.reduce(0, +) * 10 - 250) < 1
      }
      let data = disk.backing + "/data"
      let bad = try #require(
        try FileManager.default.contentsOfDirectory(atPath: data + "/payments").sorted().first { $0.hasSuffix(".log") })
      try disk.spoil([FaultyDisk.Rule(file: bad, range: 0..<1 << 30)])
      func health() async throws -> String { String(decoding: try await server.get("/health").body, as: UTF8.self) }
      let before = try await health()
      #expect(before == "Healthy")
      #expect(try await server.get("/api/v1/payments/\(ids[0])").status == 500)
      let warnings = try await health()
      #expect(
        warnings.contains("payments/\(bad) @") && warnings.contains("requests that need it are refused"), "\(warnings)")
      try disk.heal()
      try await eventually("/health says that all is well", within: .seconds(30)) { try await health() == "Healthy" }
      #expect(try await server.get("/api/v1/payments/\(ids[0])").status == 200)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  private func files(in data: String) throws -> [BadFile] {
    let names = try FileManager.default.contentsOfDirectory(atPath: data + "/payments").sorted()
    let segments = names.filter { $0.hasSuffix(".log") }
    try #require(segments.count > 2)
    let index = try #require(names.first { $0.hasSuffix(".idx") })
    return [
      BadFile("a finished segment", "payments/\(segments[1])", starts: true),
      BadFile("the last segment", "payments/\(segments[segments.count - 1])", starts: false),
      BadFile("an index file", "payments/\(index)", starts: true), BadFile("store", "payments/store", starts: false),
      BadFile("tail", "payments/tail", starts: true), BadFile("lock", "payments/lock", starts: true),
      BadFile("the list", "projection/payments.sqlite", starts: false),
      BadFile("the list's log", "projection/payments.sqlite-wal", starts: false),
      BadFile("the webhooks", "webhooks/webhooks.sqlite", starts: false),
      BadFile("the keys", "keys.sqlite", starts: false),
    ]
  }

  private func start(
    _ disk: FaultyDisk, _ scratch: TemporaryDirectory, _ arguments: [String] = []
  ) async throws -> RunningServer {
    // What is open here would keep the disk from being unmounted.
    try await RunningServer.start(
      directory: disk.path, arguments: ["--segment-bytes", "65536"] + arguments, errorFolder: scratch.path)
  }

  /// Starts a server with one of the files unreadable: it serves, or says in one line why not.
  private func start(_ bad: BadFile, _ disk: FaultyDisk, _ ids: [String]) async throws {
    guard FileManager.default.fileExists(atPath: disk.backing + "/data/" + bad.path) else { return }
    try disk.spoil([FaultyDisk.Rule(file: (bad.path as NSString).lastPathComponent, range: 0..<1 << 30)])
    let process = try RegisPayProcess(
      ["serve", "--dir", disk.path + "/data", "--port", "0", "--log-level", "error"], folder: disk.backing)
    if let line = try await process.nextLine() {
      let url = try #require(line.split(separator: " ").last)
      try await ask(RunningServer(process: process, url: String(url)), ids, bad, disk)
      process.signal(SIGTERM)
      #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(bad)")
      #expect(bad.starts, "\(bad)")
    } else {
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false), "\(bad)")
      #expect(!bad.starts, "\(bad): \(process.errorText)")
      let lines = process.errorText.split(separator: "\n")
      // SQLite does not tell a database's files apart.
      let name = (bad.path as NSString).lastPathComponent.replacingOccurrences(of: "-wal", with: "")
      #expect(lines.count == 1 && lines[0].contains(name), "\(lines)")
    }
    try disk.heal()
  }
}
