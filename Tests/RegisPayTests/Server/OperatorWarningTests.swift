import Foundation
import Testing

@testable import RegisPay

@Suite("What an operator is warned of")
struct OperatorWarningTests {
  @Test(
    "a log's time that is ahead of the clock by more than a little, with how far and until when",
    arguments: [
      (5, nil), (6, "6 s"), (125, "2 min 5 s"), (11_520, "3 h 12 min"), (3_600, "1 h"), (90_000, "1 d 1 h"),
    ])
  func clock(_ seconds: Int, _ text: String?) {
    let line = ClockWarnings.line("payments", lead: .seconds(seconds))
    #expect((line == nil) == (text == nil))
    if let text { #expect(line?.contains("time is \(text) ahead of this machine's clock") == true) }
  }

  @Test("what the libraries log is passed on, but for a socket that is closed twice when a stop is cut off")
  func libraries() {
    let collector = LineCollector()
    var logger = collector.logger
    logger.handler = LibraryLogHandler(handler: logger.handler)
    logger.logLevel = .warning
    logger[metadataKey: "a"] = "b"
    logger.error("Server shutdown error: Already closed")
    logger.error("Server shutdown error: something else")
    logger.info("not that much")
    #expect(collector.text == #"Server shutdown error: something else ["a": b] [:]"#)
  }

  private func lines(_ modes: [String: Int], isForGroup: Bool = false) async throws -> [String] {
    try await withTemporaryFolder { folder in
      let data = folder + "/data"
      for name in ["", "/payments", "/simulator", "/projection", "/webhooks"] {
        try FileManager.default.createDirectory(atPath: data + name, withIntermediateDirectories: true)
        try FileManager.default.setAttributes([.posixPermissions: modes[name] ?? 0o700], ofItemAtPath: data + name)
      }
      return Exposure(directory: data, isForGroup: isForGroup).lines
    }
  }

  @Test("directories that others may read, unless nobody comes as far, or the group is meant to")
  func exposure() async throws {
    #expect(try await lines([:]).isEmpty)
    #expect(try await lines(["": 0o755]).isEmpty, "what is in it is closed")
    #expect(try await lines(["/payments": 0o755]).isEmpty, "nobody comes as far")
    let open = try await lines(["": 0o755, "/payments": 0o755, "/webhooks": 0o750])
    #expect(open.count == 2 && open[0].contains("payments (mode 0755): chmod -R go= "))
    #expect(open[0].contains("--group-access") && !open[1].contains("--group-access"))
    #expect(try await lines(["": 0o750, "/payments": 0o750, "/simulator": 0o750], isForGroup: true).isEmpty)
    #expect(try await lines(["": 0o755, "/payments": 0o755], isForGroup: true).count == 1)
    #expect(try await lines(["": 0o777]).first?.contains("others may create files") == true)
  }
}
