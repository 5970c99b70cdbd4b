import Foundation
import Testing

/// What only a power cut would show, checked by the order of the system calls.
@Suite("What a command has changed is on disk when it returns", .serialized)
struct RegisPayDurabilityTests {
  private static let regispay = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path

  private func trace(_ arguments: [String], folder: String) async throws -> (SystemCallTrace, line: String?) {
    let log = folder + "/strace-\(UUID().uuidString)"
    let words = SystemCallTrace.tracer(log: log) + [Self.regispay] + arguments
    let process = try RegisPayProcess(program: words[0], Array(words.dropFirst()), folder: folder)
    let line = arguments.contains("create") ? try await process.nextLine(within: .seconds(60)) : nil
    try #require(try await process.waitForExit(within: .seconds(60)).code == 0, "\(process.errorText)")
    return (try SystemCallTrace(log: log), line)
  }

  @Test(
    "keys create and keys revoke: the file and, after the journal is gone, its directory", arguments: [false, true])
  func keys(isServerRunning: Bool) async throws {
    try await withTemporaryFolder { folder in
      let server = isServerRunning ? try await RunningServer.start(directory: folder) : nil
      let data = folder + "/data"
      let (made, key) = try await trace(
        ["keys", "create", "--dir", data, "--name", "a", "--scope", "read"], folder: folder)
      let id = try #require(key?.split(separator: "_").dropFirst().first)
      #expect(made.undurable(data + "/keys.sqlite") == [])
      let output = try #require(made.calls.last { $0.name == "write" && $0.arguments.hasPrefix("1<") })
      let last = try #require(made.calls.last { $0.path() == data + "/keys.sqlite" && $0.name == "pwrite64" })
      #expect((made.syncEnd(of: data + "/keys.sqlite", after: last.end) ?? .max) < output.start)
      #expect((made.syncEnd(of: data, after: last.end) ?? .max) < output.start, "the journal's removal")
      if !isServerRunning {
        #expect((made.syncEnd(of: folder, after: -1) ?? .max) < output.start, "the directory's own name")
      } else {
        try await eventually("the server has read the key", within: .seconds(20)) {
          try await server?.get("/api/v1/payments").status == 401
        }
      }
      let (revoked, _) = try await trace(["keys", "revoke", "--dir", data, String(id)], folder: folder)
      #expect(revoked.calls.contains { $0.path() == data + "/keys.sqlite" && $0.name == "pwrite64" })
      #expect(revoked.undurable(data + "/keys.sqlite") == [])
    }
  }

  @Test("webhooks' changes: the write-ahead log, and the name of a new one")
  func webhooks() async throws {
    try await withTemporaryFolder { folder in
      let log = folder + "/strace"
      let file = folder + "/data/webhooks/webhooks.sqlite"
      // As a grandchild, so that the server gets the signals. Without deliveries, whose checkpoints are written to the same file at
      // any time.
      let server = try await RunningServer.start(
        directory: folder, arguments: ["--no-webhooks"], under: SystemCallTrace.tracer(log: log).map { $0 } + ["-D"])
      var writes = 0
      func check(_ what: String) throws {
        let trace = try SystemCallTrace(log: log)
        let wal = trace.calls.filter { $0.path() == file + "-wal" && $0.name == "pwrite64" }
        #expect(wal.count > writes, "\(what) wrote nothing")
        writes = wal.count
        let last = try #require(wal.last)
        #expect(trace.syncEnd(of: file + "-wal", after: last.end) != nil, "\(what) is not synced at the response")
        let opened = try #require(
          trace.calls.first { call in
            call.name.hasPrefix("open") && call.result >= 0
              && call.strings.contains { String(decoding: $0, as: UTF8.self) == file + "-wal" }
          })
        let named = trace.syncEnd(of: folder + "/data/webhooks", after: opened.end) ?? .max
        #expect(named < .max, "\(what): the name is not synced")
      }
      let made = try await server.post("/api/v1/webhooks", #"{"url": "https://example.org/"}"#)
      let id = try #require(try made.object()["id"] as? String)
      try check("create")
      for _ in 0..<3 {
        #expect(try await server.post("/api/v1/webhooks/\(id)/rotate", "{}").status == 200)
        try check("rotate")
      }
      try await server.killHard()
    }
  }
}

extension SystemCallTrace {
  /// What of a database with a rollback journal is not on disk at the end of the trace: its own bytes, or the removal of its
  /// journal, which undoes the change when it comes back.
  func undurable(_ path: String) -> [String] {
    var faults: [String] = []
    let directory = (path as NSString).deletingLastPathComponent
    for file in [path, path + "-journal"] {
      guard let write = calls.last(where: { $0.name == "pwrite64" && $0.path() == file }) else { continue }
      if syncEnd(of: file, after: write.end) == nil { faults.append("the last write to \(file)") }
    }
    let removal = calls.last { call in
      call.name.hasPrefix("unlink") && call.result == 0
        && call.strings.contains { String(decoding: $0, as: UTF8.self) == path + "-journal" }
    }
    guard let removal else { return faults + ["no journal was removed"] }
    if syncEnd(of: directory, after: removal.end) == nil { faults.append("the removal of \(path)-journal") }
    return faults
  }
}
