import Foundation
import LogStore
import Testing

@testable import RegisPay

@Suite("Another log in the place of one of the server's")
struct WrongLogTests {
  private func open(_ path: String) throws(LogStoreError) -> LogStore {
    var options = LogStore.Options()
    options.segmentBytes = 1 << 20
    return try LogStore.open(path, options: options)
  }

  private func refusal(_ folder: String, payments: [String], simulator: [String], knownID: String? = nil) async throws
    -> String?
  {
    let logs = try (open(folder + "/payments"), open(folder + "/simulator"))
    for (log, types) in [(logs.0, payments), (logs.1, simulator)] {
      for type in types { _ = try await log.append(Append([NewEvent(stream: type, type: type, payload: [])])) }
    }
    if let knownID { try KnownLog(storeID: knownID, events: 1).write(in: folder) }
    var reason: String?
    do throws(ServerError) {
      try WrongLog.check(folder, payments: logs.0.reader, simulator: logs.1.reader)
    } catch {
      reason = "\(error)".replacingOccurrences(of: logs.0.reader.storeID, with: "FOUND")
    }
    try await logs.0.close()
    try await logs.1.close()
    return reason
  }

  @Test("a log with another id than the directory knows is refused, with both ids")
  func otherID() async throws {
    try await withTemporaryFolder { folder in
      let line = try await refusal(
        folder, payments: ["PaymentInitiated"], simulator: ["Answered"], knownID: "0123456789abcdef")
      #expect(line?.contains("\(folder)/payments holds another log: its id is FOUND") == true, "\(line ?? "")")
      #expect(line?.contains("payments.known says 0123456789abcdef.") == true, "\(line ?? "")")
      #expect(line?.contains("move these out of \(folder) first: projection, webhooks, payments.known") == true)
    }
  }

  @Test(
    "a log that begins with an event that only the other one holds is refused",
    arguments: [
      (["Answered"], [], "payments"), (["ChargeCreated", "PaymentInitiated"], [], "payments"),
      ([], ["PaymentInitiated"], "simulator"), (["PaymentInitiated"], ["RequestAnswered"], "simulator"),
    ])
  func otherKind(payments: [String], simulator: [String], refused: String) async throws {
    try await withTemporaryFolder { folder in
      let line = try await refusal(folder, payments: payments, simulator: simulator)
      let type = try #require(refused == "payments" ? payments.first : simulator.first)
      #expect(line?.contains("\(folder)/\(refused) holds another log: ") == true, "\(line ?? "")")
      #expect(line?.contains("the type \(type), which only") == true, "\(line ?? "")")
    }
  }

  @Test(
    "empty logs, their own events, and types of a newer program are not refused",
    arguments: [
      ([], []), (["RequestAnswered", "PaymentInitiated"], ["ChargeCreated", "Answered"]),
      (["PaymentSeized"], ["Charged"]),
    ])
  func own(payments: [String], simulator: [String]) async throws {
    try await withTemporaryFolder { folder in
      let line = try await refusal(folder, payments: payments, simulator: simulator)
      #expect(line == nil)
    }
  }

  @Test("the longer id that an earlier version wrote, and a file without one, are accepted")
  func olderMark() async throws {
    try await withTemporaryFolder { folder in
      let log = try open(folder + "/payments")
      let id = log.reader.storeID
      for known in [id, id + "0123456789abcdef", ""] {
        try KnownLog(storeID: known, events: 1).write(in: folder)
        try WrongLog.check(folder, payments: log.reader, simulator: log.reader)
      }
      try await log.close()
    }
  }
}
