import Foundation
import Testing

/// What the server writes to standard error.
@Suite("RegisPay's log lines", .serialized)
struct RegisPayLogTests {
  /// The lines of a text. The last one may still be being written.
  private func objects(_ text: String) throws -> [[String: String]] {
    try text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().filter { !$0.isEmpty }.map { line in
      try #require(
        try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: String], "not a JSON object: \(line)")
    }
  }

  /// A server whose lines have the format that it chooses.
  private func start(_ folder: String, level: String, under wrapper: [String] = []) async throws -> RunningServer {
    let process = try RegisPayProcess(
      under: wrapper,
      ["serve", "--dir", folder + "/data", "--port", "0", "--segment-bytes", "1048576", "--log-level", level],
      folder: folder)
    let url = try #require(try await process.nextLine()?.split(separator: " ").last, "\(process.errorText)")
    return RunningServer(process: process, url: String(url))
  }

  @Test("into a file they are JSON; the level can be changed while the server runs")
  func json() async throws {
    try await withTemporaryFolder { folder in
      let server = try await start(folder, level: "warning")
      func completed() throws -> [[String: String]] {
        try objects(server.process.errorText).filter { $0["message"] == "payment completed" }
      }
      let quiet = try await server.createPayment("1")
      try await server.wait(for: quiet, status: "Completed", within: .seconds(20))
      #expect(try completed().isEmpty, "at --log-level warning")
      #expect(try await server.put("/api/v1/logging", #"{"level":"info"}"#).status == 200)
      let id = try await server.createPayment("2")
      try await eventually("the payment's completion is logged", within: .seconds(20)) {
        try completed().contains { $0["payment"] == id && $0["consumer"] == "payment-completed" }
      }
      for object in try objects(server.process.errorText) {
        #expect(["timestamp", "level", "message", "source"].allSatisfy { object[$0]?.isEmpty == false }, "\(object)")
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("what is left out of lines that repeat is told while other lines arrive all the time")
  func repeats() async throws {
    try await withTemporaryFolder { folder in
      let server = try await start(folder, level: "info")
      #expect(try await server.put("/psp/api/faults", #"{"failBefore":0.5}"#).status == 200)
      let load = Task {
        while !Task.isCancelled {
          _ = try await server.createPayment("1")
          // A rate; nothing is waited for.
          try await Task.sleep(for: .milliseconds(20))
        }
      }
      defer { load.cancel() }
      try await eventually("lines were left out", within: .seconds(60)) {
        try objects(server.process.errorText).contains {
          $0["message"] == "a step failed and will be tried again" && ($0["suppressed"].flatMap { Int($0) } ?? 0) > 0
        }
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test(
    "a standard error that is a closed pipe, or on a full disk, ends nothing",
    arguments: ["exec 2> >(exit); wait $!; exec \"$@\"", "exec \"$@\" 2> /dev/full"])
  func broken(_ script: String) async throws {
    try await withTemporaryFolder { folder in
      // As from a shell: the tests ignore the signal of a closed pipe, and what they start does then.
      let server = try await start(
        folder, level: "trace", under: ["env", "--default-signal=PIPE", "bash", "-c", script, "bash"])
      for amount in 1...20 {
        let id = try await server.createPayment("\(amount)")
        try await server.wait(for: id, status: "Completed", within: .seconds(20))
      }
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("after a full disk a line tells that lines are missing, and no two lines are mixed")
  func diskFull() async throws {
    try await withTemporaryFolder { folder in
      let (errors, limit) = (folder + "/errors", 4 << 20)
      try #require(FileManager.default.createFile(atPath: errors, contents: nil))
      // The first line does not fit.
      try #require(truncate(errors, off_t(limit - 100)) == 0)
      let server = try await start(
        folder, level: "info",
        under: ["prlimit", "--fsize=\(limit):", "sh", "-c", "exec \"$@\" 2>> '\(errors)'", "sh"])
      try await eventually("a line was cut", within: .seconds(20)) {
        try Data(contentsOf: URL(fileURLWithPath: errors)).count == limit
      }
      let change = try RegisPayProcess(
        program: "prlimit", ["--pid", "\(server.process.pid)", "--fsize=unlimited:"], folder: folder)
      #expect(try await change.waitForExit().code == 0, "\(change.errorText)")
      let id = try await server.createPayment("1")
      func rest() throws -> [[String: String]] {
        let text = String(decoding: try Data(contentsOf: URL(fileURLWithPath: errors)), as: UTF8.self)
        return try text.firstIndex(of: "\n").map { try objects(String(text[$0...])) } ?? []
      }
      try await eventually("the payment's completion is logged", within: .seconds(20)) {
        try rest().contains { $0["payment"] == id }
      }
      #expect(
        try rest().first?["message"] == "log lines are missing here: standard error could not be written")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a failed start says why in one line of the format", arguments: [nil, "json", "text"])
  func failure(_ format: String?) async throws {
    try await withTemporaryFolder { folder in
      try Data().write(to: URL(fileURLWithPath: folder + "/file"))
      let process = try RegisPayProcess(
        ["serve", "--dir", folder + "/file", "--port", "0"] + (format.map { ["--log-format", $0] } ?? []),
        folder: folder)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
      let said = "can't use \(folder)/file as data directory: "
      if format == "text" {
        #expect(process.errorText.hasPrefix("regispay: \(said)"))
        #expect(process.errorText.split(separator: "\n").count == 1)
      } else {
        let lines = try objects(process.errorText)
        #expect(lines.count == 1)
        #expect(lines.first?["level"] == "critical" && lines.first?["message"]?.hasPrefix(said) == true)
      }
    }
  }

  @Test("on a terminal they are text")
  func terminal() async throws {
    try await withTemporaryFolder { folder in
      try Data().write(to: URL(fileURLWithPath: folder + "/file"))
      let program = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path
      let process = try RegisPayProcess(
        program: "script",
        ["--quiet", "--return", "--command", "\(program) serve --dir \(folder)/file --port 0", "/dev/null"],
        folder: folder)
      #expect(try await process.nextLine()?.hasPrefix("regispay: can't use \(folder)/file") == true)
      #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    }
  }
}
