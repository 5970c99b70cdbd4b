import Foundation
import Logging
import Synchronization
import Testing

@testable import RegisPay

@Suite("Log lines")
struct LogFormatTests {
  /// What a peer may send, hoping that it becomes a line, a field or a terminal's command of its own.
  private static let hostile = [
    "a\nb", "a\r\nlevel=critical", "\u{1B}[2J", "a\u{2028}b", "a\u{85}b", "\u{0}", "\"", "\\", "a=b", " ", "", "x\ty",
    "\u{7F}", "ü €", #"{"level":"critical"}"#,
  ]

  private func line(_ format: LogFormat, _ message: String, _ fields: [(key: String, value: String)]) -> String {
    format.line(.warning, message, source: "RegisPay", fields: fields, microseconds: 1_795_591_720_811_882)
  }

  @Test("text has time, level, message and fields; what is not a plain word is quoted")
  func text() {
    #expect(
      line(.text, "payment parked", [("payment", "pay:1"), ("reason", "it said \"no\"")])
        == #"2026-11-25T07:28:40.811882Z warning payment parked payment=pay:1 reason="it said \"no\"""# + "\n")
  }

  @Test("JSON has a member for each, and no field takes the place of another")
  func json() throws {
    let line = line(.json, "payment parked", [("level", "mine"), ("payment", "pay:1")])
    #expect(
      line
        == #"{"timestamp":"2026-11-25T07:28:40.811882Z","level":"warning","message":"payment parked","source":"RegisPay","#
        + #""field.level":"mine","payment":"pay:1"}"# + "\n")
  }

  @Test("whatever is in a message, a name or a value, a line is one line", arguments: LogFormat.allCases, hostile)
  func oneLine(_ format: LogFormat, _ text: String) throws {
    for line in [
      line(format, text, []), line(format, "m", [("key", text)]), line(format, "m", [(text, "value")]),
    ] {
      #expect(line.hasSuffix("\n"))
      let content = line.dropLast()
      #expect(!content.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7F }, "\(line)")
      if format == .text {
        #expect(content.split(whereSeparator: \.isNewline).count == 1)
        #expect(!content.unicodeScalars.contains { (0x80...0x9F).contains($0.value) })
      } else {
        // The message and the value are as they were.
        let object = try #require(try JSONSerialization.jsonObject(with: Data(content.utf8)) as? [String: String])
        #expect(object["message"] == text || object["key"] == text || object.values.contains("value"))
      }
    }
  }

  @Test("a quoted value can be told from a field of its own")
  func quoted() {
    #expect(line(.text, "m", [("reason", "a level=critical")]).hasSuffix(#"reason="a level=critical""# + "\n"))
  }

  @Test("a logger's fields, an event's and an error become fields, sorted; an event's own wins")
  func handler() throws {
    let lines = Mutex<[String]>([])
    let writer = LogWriter(.json) { line in lines.withLock { $0.append(line) } }
    var logger = Logger(label: "test") { _ in writer.handler() }
    logger[metadataKey: "webhook"] = "we_1"
    logger[metadataKey: "b"] = "logger"
    logger.warning("m", metadata: ["b": "event", "a": "1"])
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(lines.withLock { $0[0] }.utf8)) as? [String: String])
    #expect(object["webhook"] == "we_1" && object["b"] == "event" && object["a"] == "1")
    #expect(object["source"] == "RegisPayTests")
  }
}

@Suite("Log lines that repeat")
struct RepeatLimiterTests {
  @Test("20 of a message are written in 10 seconds, whatever their fields, and then how many more there were")
  func limits() {
    let limiter = RepeatLimiter()
    let start = ContinuousClock.now
    let written = (0..<100).count { _ in limiter.admits(.error, "payment parked", at: start) }
    #expect(written == RepeatLimiter.burst)
    #expect(limiter.admits(.error, "another message", at: start))
    #expect(limiter.admits(.notice, "payment parked", at: start), "of another level")
    #expect(limiter.drain(at: start + .seconds(9)).isEmpty)
    #expect(
      limiter.drain(at: start + .seconds(10)) == [.init(level: .error, message: "payment parked", count: 80)])
    #expect(limiter.admits(.error, "payment parked", at: start + .seconds(10)))
    #expect(limiter.drain(at: start + .seconds(60)).isEmpty, "nothing was left out in the second window")
  }

  @Test("lines about work have no limit")
  func information() {
    let limiter = RepeatLimiter()
    let now = ContinuousClock.now
    for level in [Logger.Level.trace, .debug, .info] {
      #expect((0..<100).allSatisfy { _ in limiter.admits(level, "payment completed", at: now) })
    }
  }

  @Test("messages that are all different need no memory, and none is lost")
  func manyMessages() {
    let limiter = RepeatLimiter()
    let now = ContinuousClock.now
    #expect((0..<10_000).allSatisfy { limiter.admits(.error, "message \($0)", at: now) })
    #expect(limiter.drain(at: now, all: true).isEmpty)
  }

  @Test("what was left out is said when the process ends")
  func end() {
    let lines = Mutex<[String]>([])
    let writer = LogWriter(.text) { line in lines.withLock { $0.append(line) } }
    let logger = Logger(label: "test") { _ in writer.handler() }
    for _ in 0..<30 { logger.error("payment parked") }
    writer.drain(all: true)
    #expect(lines.withLock { $0.count } == 21)
    #expect(lines.withLock { $0[20] }.hasSuffix(" error payment parked suppressed=10\n"))
  }
}

@Suite("The log level of a running server")
struct LogLevelTests {
  private func put(_ server: TestServer, _ body: String) async throws -> TestServer.Response {
    try await server.send(
      "PUT", "/api/v1/logging", headers: [("Content-Type", "application/json")], body: Array(body.utf8))
  }

  @Test("is shown and changed over HTTP; mistakes are named and change nothing")
  func route() async throws {
    try await TestServer.run { server in
      func level() async throws -> String? { try await server.get("/api/v1/logging").json()["level"]?.text }
      #expect(try await level() == "info")
      let changed = try await put(server, #"{"level":"debug"}"#)
      #expect(changed.status == 200)
      #expect(try await level() == "debug")
      for body in [#"{"level":"loud"}"#, "{}", #"{"level":1}"#, #"{"level":"info","x":1}"#, "[]", "no"] {
        #expect(try await put(server, body).status == 400, "\(body)")
      }
      #expect(try await level() == "debug")
    }
  }

  @Test("decides for all loggers at once, and a library's level of its own stays")
  func shared() {
    let lines = Mutex<[String]>([])
    let writer = LogWriter(.text) { line in lines.withLock { $0.append(line) } }
    let level = LogLevel(.info)
    let logger = Logger(label: "test") { _ in LevelLogHandler(writer.handler(), level) }
    var library = logger
    library.logLevel = .warning
    let copy = logger
    level.current = .debug
    copy.debug("from the server")
    library.info("from a library")
    #expect(lines.withLock { $0.count } == 1)
    level.current = .error
    copy.warning("from the server")
    #expect(lines.withLock { $0.count } == 1)
  }
}
