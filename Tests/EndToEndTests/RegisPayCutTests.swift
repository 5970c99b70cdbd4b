import AsyncHTTPClient
import Foundation
import NIOCore
import Testing

/// A finished segment of each log that loses its end, or all of it, while the server has it mapped.
@Suite("RegisPay, over segments that are cut", .serialized)
struct RegisPayCutTests {
  /// Completed payments in several segments of both logs.
  private struct Template: Sendable {
    var folder: String
    var ids: [String]
    /// Of the payments log.
    var bases: [UInt64]
    var end: UInt64
    /// Finished ones.
    var payments: String
    var simulator: String
    var charges: Int
  }

  private static let template = Task { try await makeTemplate() }
  private static let small = ["--segment-bytes", "65536", "--allow-private-webhooks"]

  private static func segments(_ folder: String, _ log: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder + "/data/" + log).filter { $0.hasSuffix(".log") }
      .sorted()
  }

  private static func makeTemplate() async throws -> Template {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("regispay-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let server = try await RunningServer.start(directory: folder, arguments: small)
    var ids: [String] = []
    while try segments(folder, "payments").count < 4 || segments(folder, "simulator").count < 4 {
      for _ in 0..<20 { ids.append(try await server.createPayment("10.00")) }
      for id in ids.suffix(20) { try await server.wait(for: id, status: "Completed", within: .seconds(30)) }
    }
    let end = try #require(try await server.get("/api/v1/payments?limit=1").object()["logEnd"] as? UInt64)
    let charges = try #require(try await server.get("/psp/api/ledger").object()["count"] as? Int)
    #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    let payments = try segments(folder, "payments")
    return Template(
      folder: folder, ids: ids, bases: payments.compactMap { UInt64($0.dropLast(4)) }, end: end,
      payments: "/data/payments/" + payments[1], simulator: "/data/simulator/" + (try segments(folder, "simulator"))[1],
      charges: charges)
  }

  /// What the event stream sends until it has come to the last segment.
  private func read(_ server: RunningServer, _ template: Template) async throws -> String {
    let last = try #require(template.bases.last)
    return try await withDeadline(.seconds(20), "the event stream to pass the place") { [url = server.url] in
      let response = try await HTTPClient.shared.execute(
        HTTPClientRequest(url: url + "/api/v1/events?from=0"), timeout: .seconds(30))
      var text = ""
      for try await part in response.body {
        text += String(buffer: part)
        if text.contains("-\(last)\n") { return text }
      }
      throw RegisPayProcess.Failure(description: "the stream ended behind \(text.suffix(200))")
    }
  }

  /// Answers every delivery with 200.
  private func startReceiver(_ folder: String) async throws -> (process: RegisPayProcess, url: String) {
    let script = """
      import http.server
      class Receiver(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_POST(self):
          self.rfile.read(int(self.headers["Content-Length"]))
          self.send_response(200)
          self.send_header("Content-Length", "0")
          self.end_headers()
        def log_message(self, *arguments): pass
      server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
      print(server.server_port, flush=True)
      server.serve_forever()
      """
    let process = try RegisPayProcess(program: "python3", ["-c", script], folder: folder)
    let port = try #require(try await process.nextLine())
    return (process, "http://127.0.0.1:\(port)/")
  }

  /// What must be so over cut segments, while the server runs and after its next start.
  private func check(
    _ server: RunningServer, _ template: Template, _ webhook: String, in folder: String, _ size: Int
  ) async throws {
    let events = try await read(server, template)
    #expect(events.contains("event: missing\n"), "\(size)")
    let ledger = try await server.get("/psp/api/ledger").object()
    let count = try #require(ledger["count"] as? Int)
    #expect(count < template.charges && count > 0, "\(size): \(count) of \(template.charges)")
    for path in [template.payments, template.simulator] {
      let name = try #require(path.split(separator: "/").last)
      try await eventually("/health names \(name)", within: .seconds(20)) {
        let health = String(decoding: try await server.get("/health").body, as: UTF8.self)
        return health.contains("\(path.split(separator: "/").dropFirst().joined(separator: "/")) @")
      }
    }
    #expect(try await server.post("/api/v1/webhooks/\(webhook)/replay", "{\"from\":0}").status < 300)
    try await eventually("the webhook's replay reaches the end", within: .seconds(60)) {
      let shown = try await server.get("/api/v1/webhooks/\(webhook)").object()
      let place = (shown["progress"] as? [String: Any])?["offset"] as? UInt64 ?? shown["offset"] as? UInt64 ?? 0
      return place >= template.end
    }
    let new = try await server.createPayment("1.00")
    try await server.wait(for: new, status: "Completed", within: .seconds(30))
    try await eventually("the list has come to the end", within: .seconds(30)) {
      let page = try await server.get("/api/v1/payments?limit=1").object()
      return page["complete"] as? Bool == true && page["asOf"] as? UInt64 == page["logEnd"] as? UInt64
    }
    for id in template.ids {
      let response = try await server.get("/api/v1/payments/\(id)")
      if response.status != 200 { #expect(try response.object()["type"] as? String == "/problems/payment-incomplete") }
    }
    #expect(try await server.get("/health").status == 200)
    let passed = server.process.errorText.components(separatedBy: "\n").filter { $0.contains("passed over damage") }
    #expect(passed.count == Set(passed).count && passed.count >= 2, "\(size): \(passed)")
  }

  @Test(
    "a finished segment that is cut while it is mapped is passed over by all who follow, also at the next start",
    arguments: [0, 1, 48, 4095, 4096, 4097, 32768])
  func cut(_ size: Int) async throws {
    let template = try await Self.template.value
    try await withTemporaryFolder { folder in
      try FileManager.default.copyItem(atPath: template.folder + "/data", toPath: folder + "/data")
      var server = try await RunningServer.start(directory: folder, arguments: Self.small)
      let receiver = try await startReceiver(folder)
      let webhook = try await server.post("/api/v1/webhooks", "{\"url\":\"\(receiver.url)\"}").object()
      let id = try #require(webhook["id"] as? String)
      // Everything is mapped.
      _ = try await read(server, template)
      #expect(try await server.get("/psp/api/ledger").object()["count"] as? Int == template.charges)
      for path in [template.payments, template.simulator] {
        try #require(truncate(folder + path, off_t(size)) == 0)
      }
      try await check(server, template, id, in: folder, size)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      server = try await RunningServer.start(directory: folder, arguments: Self.small)
      try await check(server, template, id, in: folder, size)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  /// What stands under a file's name and is no file.
  private enum NoFile: String, CaseIterable {
    case directory, fullDirectory, danglingLink, circularLink, pipe

    func put(at path: String) throws {
      if FileManager.default.fileExists(atPath: path) { try FileManager.default.removeItem(atPath: path) }
      switch self {
      case .directory: try #require(mkdir(path, 0o700) == 0)
      case .fullDirectory:
        try FileManager.default.createDirectory(atPath: path + "/a", withIntermediateDirectories: true)
      case .danglingLink: try #require(symlink("nowhere", path) == 0)
      case .circularLink: try #require(symlink((path as NSString).lastPathComponent, path) == 0)
      case .pipe: try #require(mkfifo(path, 0o600) == 0)
      }
    }
  }

  /// What the server says of a name that is no file; nil if it starts over it.
  private func refusal(_ name: String, _ kind: NoFile, isFinished: Bool) -> String? {
    if isFinished || name.hasSuffix(".idx") || name == "scrub" || name == "next.tmp" { return nil }
    switch kind {
    case .directory, .fullDirectory: return "move the directory away"
    case .circularLink: return "leads in a circle: remove it"
    case .pipe: return "no file; remove it"
    // As if there were none.
    case .danglingLink:
      return name == "store" ? "the file is missing" : name.hasSuffix(".log") ? "leads nowhere" : nil
    }
  }

  @Test(
    "what is no file in the place of one: the server starts over what it can do without, else says what to do",
    arguments: ["finished", "last", "index", "store", "clean", "tail", "lock", "next.tmp", "scrub"])
  func noFile(_ which: String) async throws {
    let template = try await Self.template.value
    for kind in NoFile.allCases {
      try await withTemporaryFolder { folder in
        try FileManager.default.copyItem(atPath: template.folder + "/data", toPath: folder + "/data")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder + "/data/payments").sorted()
        let last = try #require(names.last { $0.hasSuffix(".log") })
        let finished = try #require(template.payments.split(separator: "/").last)
        let name =
          switch which {
          case "finished": String(finished)
          case "last": last
          case "index": try #require(names.first { $0.hasSuffix(".idx") })
          default: which
          }
        let path = folder + "/data/payments/" + name
        try kind.put(at: path)
        let process = try RegisPayProcess(
          ["serve", "--dir", folder + "/data", "--port", "0", "--log-level", "error"], folder: folder)
        let line = try await process.nextLine()
        guard let url = line?.split(separator: " ").last else {
          #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
          let said = try #require(refusal(name, kind, isFinished: which == "finished"), "\(kind): \(process.errorText)")
          #expect(process.errorText.contains(path) && process.errorText.contains(said), "\(kind)")
          #expect(process.errorText.split(separator: "\n").count == 1, "\(kind): \(process.errorText)")
          return
        }
        #expect(refusal(name, kind, isFinished: which == "finished") == nil, "\(kind)")
        let server = RunningServer(process: process, url: String(url))
        let new = try await server.createPayment("1.00")
        try await server.wait(for: new, status: "Completed", within: .seconds(30))
        #expect(try await read(server, template).contains("event: missing\n") == (which == "finished"), "\(kind)")
        #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      }
    }
  }
}
