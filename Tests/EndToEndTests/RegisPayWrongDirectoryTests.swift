import Foundation
import Testing

@Suite("RegisPay with a wrong --dir")
struct RegisPayWrongDirectoryTests {
  /// Each path under a folder with the file's bytes; a directory has none.
  private func contents(_ folder: String) throws -> [String: Data] {
    let names = try FileManager.default.subpathsOfDirectory(atPath: folder)
    return Dictionary(
      uniqueKeysWithValues: names.map { ($0, FileManager.default.contents(atPath: "\(folder)/\($0)") ?? Data()) })
  }

  /// Runs a command that is refused.
  ///
  /// - Returns: its last line.
  private func refusal(_ arguments: [String], folder: String) async throws -> String {
    let process = try RegisPayProcess(arguments, folder: folder)
    #expect(try await process.waitForExit() == .init(code: 1, isSignal: false))
    return process.errorText.split(separator: "\n").last.map(String.init) ?? ""
  }

  private static let serve = ["serve", "--port", "0", "--log-format", "text", "--dir"]
  private static let makeKey = ["keys", "create", "--name", "a", "--scope", "read", "--dir"]

  @Test("the log's directory, instead of the one above it, is refused and nothing in it is changed")
  func log() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      _ = try await server.createPayment("1")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
      let data = folder + "/data"
      let before = try contents(data)
      for log in ["payments", "simulator"] {
        for command in [Self.serve, Self.makeKey] {
          let line = try await refusal(command + ["\(data)/\(log)"], folder: folder)
          #expect(line.contains("can't use \(data)/\(log) as data directory"), "\(line)")
          #expect(line.hasSuffix("did you mean \(data)?"), "\(line)")
        }
      }
      let after = try contents(data)
      #expect(after == before, "\(Set(after.keys).symmetricDifference(before.keys))")
    }
  }

  @Test("a directory with other files and nothing of the server's is refused, and nothing in it is changed")
  func foreign() async throws {
    try await withTemporaryFolder { folder in
      let other = folder + "/other"
      try FileManager.default.createDirectory(atPath: other + "/payments", withIntermediateDirectories: true)
      // Names of the server's own among them prove nothing.
      for name in ["passwd", "time", "payments/api.py"] {
        try Data("x".utf8).write(to: URL(fileURLWithPath: "\(other)/\(name)"))
      }
      let before = try contents(other)
      for command in [Self.serve, Self.makeKey] {
        let line = try await refusal(command + [other], folder: folder)
        #expect(line.contains("can't use \(other) as data directory: it holds passwd"), "\(line)")
      }
      #expect(try contents(other) == before)
    }
  }

  @Test("a person's files beside the server's are no reason to refuse, nor is what a file system puts into a directory")
  func own() async throws {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      try FileManager.default.createDirectory(atPath: data + "/lost+found", withIntermediateDirectories: true)
      let first = try await RunningServer.start(directory: folder)
      #expect(try await first.stopGracefully() == .init(code: 0, isSignal: false))
      try Data().write(to: URL(fileURLWithPath: data + "/README"))
      let second = try await RunningServer.start(directory: folder)
      #expect(try await second.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
