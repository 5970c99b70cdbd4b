import AsyncHTTPClient
import Hummingbird
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
      let router = Routes(context: ExchangeContext.self)
      EventRoutes(follower: PaymentLog(store).follower, heartbeat: heartbeat).add(to: router)
      try await withApplication(router) { port in try await work(store, "http://127.0.0.1:\(port)/api/v1/events") }
    }
  }

  @Test("a client of a busy log of which it wants nothing hears from the server all the same")
  func heartbeatOfBusyLog() async throws {
    try await withStream(heartbeat: .milliseconds(100)) { store, url in
      let response = try await HTTPClient.shared.execute(
        HTTPClientRequest(url: url + "?type=Nothing"), timeout: .seconds(60))
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
        _ = try await store.append(Append(NewEvent(stream: "wanted", type: "Wanted", payload: payload)))
      }
      let response = try await HTTPClient.shared.execute(
        HTTPClientRequest(url: url + "?from=0&type=Wanted"), timeout: .seconds(60))
      var text = ""
      for try await piece in response.body {
        text += String(buffer: piece)
        if text.hasSuffix("\"data\":5}\n\n") { break }
      }
      let lines = text.split(separator: "\n")
      let ids = lines.filter { $0.hasPrefix("id: ") }.map { String($0.dropFirst(4)) }
      #expect(ids == (1...6).map { "\($0 * 2_001 - 1)" })
      let data = try lines.filter { $0.hasPrefix("data: ") }.map { try JSONReader.read(Array($0.dropFirst(6).utf8)) }
      let payloads = try data.map { try #require($0["data"]) }
      let wanted =
        try [0, 1, 2].map { JSONValue.integer($0) } + [JSONReader.read(large)] + [4, 5].map { .integer($0) }
      #expect(payloads == wanted)
    }
  }
}
