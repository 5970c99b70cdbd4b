import AsyncHTTPClient
import Hummingbird
import HummingbirdCore
import LogStore
import NIOCore
import Testing

@testable import RegisPay

@Suite("The event stream")
struct EventStreamTests {
  /// Serves the stream of a new log while `work` runs.
  private func withStream(
    heartbeat: Duration = .seconds(10), _ work: @escaping @Sendable (LogStore, _ url: String) async throws -> Void
  ) async throws {
    try await withStore { store in
      let router = Routes(context: HTTPRequestContext.self)
      EventRoutes(follower: PaymentLog(store).follower, heartbeat: heartbeat).add(to: router)
      try await withApplication(router) { port in try await work(store, "http://127.0.0.1:\(port)/api/v1/events") }
    }
  }

  @Test("a client of a busy log of which it wants nothing hears from the server all the same")
  func heartbeatOfBusyLog() async throws {
    try await withStream(heartbeat: .milliseconds(100)) { store, url in
      let response = try await HTTPClient.shared.execute(
        HTTPClientRequest(url: url + "?type=PaymentDeclined"), timeout: .seconds(60))
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          while !Task.isCancelled {
            _ = try await store.append(Append(NewEvent(stream: "other", type: "Other", payload: [])))
          }
        }
        var text = ""
        for try await piece in response.body {
          text += String(buffer: piece)
          if text.hasSuffix(":\n\n:\n\n:\n\n") { break }
        }
        #expect(text == ": from offset 0\n\n:\n\n:\n\n:\n\n")
        group.cancelAll()
        try await group.waitForAll()
      }
    }
  }

  @Test("of a long log a client gets just what it wants, in order, large events whole")
  func portions() async throws {
    try await withStream { store, url in
      let large = Array("\"\(String(repeating: "x", count: 1 << 20))\"".utf8)
      for number in 0..<6 {
        let others = (0..<2_000).map { _ in NewEvent(stream: "other", type: "Other", payload: Array("{}".utf8)) }
        _ = try await store.append(Append(others))
        let payload = number == 3 ? large : Array("\(number)".utf8)
        _ = try await store.append(Append(NewEvent(stream: "wanted", type: "PaymentCompleted", payload: payload)))
      }
      let response = try await HTTPClient.shared.execute(
        HTTPClientRequest(url: url + "?from=0&type=PaymentCompleted"), timeout: .seconds(60))
      var text = ""
      for try await piece in response.body {
        text += String(buffer: piece)
        if text.hasSuffix("\"data\":5}\n\n") { break }
      }
      let lines = text.split(separator: "\n")
      let ids = lines.filter { $0.hasPrefix("id: ") }.map { String($0.split(separator: "-").last ?? "") }
      #expect(ids == (1...6).map { "\($0 * 2_001 - 1)" })
      let data = try lines.filter { $0.hasPrefix("data: ") }.map { try JSONReader.read(Array($0.dropFirst(6).utf8)) }
      let payloads = try data.map { try #require($0["data"]) }
      let wanted =
        try [0, 1, 2].map { JSONValue.integer($0) } + [JSONReader.read(large)] + [4, 5].map { .integer($0) }
      #expect(payloads == wanted)
    }
  }
}

@Suite("What an event stream is asked for")
struct EventStreamQueryTests {
  private static let store = String(repeating: "a", count: 15) + "1"
  private static let other = String(repeating: "a", count: 15) + "2"

  private func query(_ text: String, _ lastEventID: String...) throws -> EventStreamQuery {
    try EventStreamQuery(
      URI("/api/v1/events?" + text).queryParameters, lastEventID: lastEventID, storeID: Self.store, end: 10)
  }

  private static let offsets: [(text: String, lastEventID: [String], offset: UInt64)] = [
    ("", [], 10), ("from=end", [], 10), ("from=0", [], 0), ("from=10", [], 10), ("from=\(store)-7", [], 7),
    ("from=0", ["4"], 5), ("", ["\(store)-9"], 10), ("type=PaymentSettled", ["0"], 1),
    ("type=OperatorActed", ["0"], 1),
    // The form of ids in earlier versions.
    ("", ["\(store)\(other)-3"], 4),
  ]

  @Test("the stream begins at the requested offset, with or without the store's id", arguments: offsets.indices)
  func offset(_ index: Int) throws {
    let (text, lastEventID, offset) = Self.offsets[index]
    let query = try EventStreamQuery(
      URI("/?" + text).queryParameters, lastEventID: lastEventID, storeID: Self.store, end: 10)
    #expect(query.offset == offset)
  }

  @Test(
    "an unknown or repeated parameter is refused",
    arguments: [
      "form=0", "from=0&from=0", "type=PaymentSettled&type=PaymentSettled", "type=Payment", "type=", "from=", "from=-1",
      "from=+1", "from=x", "from=1-2", "from=18446744073709551616", "from=0&after=3", "from=\(store)-", "from=\(store)",
    ])
  func refused(_ text: String) {
    #expect { try query(text) } throws: { ($0 as? Problem)?.status == .badRequest }
  }

  @Test("an offset past the end, or of another log, is refused with this log's end and id")
  func pastEnd() {
    let asked: [(String, [String])] = [
      ("from=11", []), ("", ["10"]), ("", ["\(Self.store)-10"]), ("", ["\(Self.other)-3"]),
      ("", ["\(Self.other)\(Self.store)-3"]),
      ("from=\(Self.other)-3", []),
      ("", ["18446744073709551615"]),
    ]
    for (text, ids) in asked {
      #expect {
        try EventStreamQuery(URI("/?" + text).queryParameters, lastEventID: ids, storeID: Self.store, end: 10)
      } throws: {
        guard let problem = $0 as? Problem else { return false }
        return problem.status == .conflict && problem.detail.contains(Self.store)
          && problem.detail.contains("offset 10")
      }
    }
  }

  @Test("places are free again when they are released, and one client leaves room for others")
  func slots() throws {
    let slots = StreamSlots(limit: 3, limitPerClient: 2)
    var mine = [try slots.take("a"), try slots.take("a")]
    #expect { try slots.take("a") } throws: { ($0 as? Problem)?.status == .tooManyRequests }
    let other = try slots.take("b")
    #expect { try slots.take("c") } throws: { ($0 as? Problem)?.status == .serviceUnavailable }
    mine.removeLast()
    #expect(slots.count == 2)
    mine.append(try slots.take("a"))
    withExtendedLifetime((mine, other)) {}
  }
}
