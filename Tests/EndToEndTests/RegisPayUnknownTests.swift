import Foundation
import Testing

@Suite("RegisPay, with several unknown outcomes of one payment")
struct RegisPayUnknownTests {
  private static let payment = "0190a000-0000-7000-8000-000000000001"

  /// Leaves the log of a settled payment of 10.00 with two refunds of 1.00 and a notification whose outcomes are unknown.
  private func writeLog(_ folder: String) async throws {
    let events = [
      ("PaymentInitiated", #"{"paymentId":"\#(Self.payment)","amount":10.00,"currency":"GBP"}"#),
      ("PaymentCreated", #"{"paymentReference":"ref"}"#), ("PaymentSettled", "{}"),
      ("PaymentRefundRequested", #"{"refund":1,"amount":1.00,"currency":"GBP"}"#),
      ("PaymentRefundRequested", #"{"refund":2,"amount":1.00,"currency":"GBP"}"#),
      ("PaymentOutcomeUnknown", #"{"step":"notify","reason":"no response 3"}"#),
      ("PaymentOutcomeUnknown", #"{"step":"refund","refund":2,"reason":"no response 2"}"#),
      ("PaymentOutcomeUnknown", #"{"step":"refund","refund":1,"reason":"no response 1"}"#),
    ]
    let lines = events.map { "pay:\(Self.payment)\t\($0)\t\($1)\n" }.joined()
    try FileManager.default.createDirectory(atPath: folder + "/data", withIntermediateDirectories: true)
    let scratch = try TemporaryDirectory()
    let appended = try await StoreUnderTest(folder + "/data/payments", in: scratch).run("append", input: lines)
    #expect(appended.exitCode == 0)
  }

  private func list(_ server: RunningServer, _ folder: String) async throws -> [[String]] {
    let process = try RegisPayProcess(["unknown", "list", "--url", server.url], folder: folder)
    var lines: [[String]] = []
    while let line = try await process.nextLine() {
      let fields = line.components(separatedBy: "  ")
      lines.append([fields[0]] + fields[3...4] + fields.suffix(1))
    }
    #expect(try await process.waitForExit() == .init(code: 0, isSignal: false), "\(process.errorText)")
    return lines
  }

  @Test("every one is listed, those of money first, until a person has resolved it")
  func listed() async throws {
    try await withTemporaryFolder { folder in
      try await writeLog(folder)
      let server = try await RunningServer.start(directory: folder)
      let path = "/api/v1/payments/\(Self.payment)"
      var expected = [
        [Self.payment, "refund", "1", "no response 1"], [Self.payment, "refund", "2", "no response 2"],
        [Self.payment, "notify", "-", "no response 3"],
      ]
      try await eventually("the list is complete", within: .seconds(10)) { try await list(server, folder) == expected }
      while let next = expected.first {
        let details = try await server.get(path).object()
        let first = try #require(details["unknown"] as? [String: Any])
        #expect(first["reason"] as? String == next.last)
        #expect(first["further"] as? Int == (expected.count > 1 ? expected.count - 1 : nil))
        let steps = try #require(details["unknownSteps"] as? [[String: Any]])
        #expect(steps.map { $0["reason"] as? String } == expected.map(\.last))
        let refund = next[1] == "refund" ? #","refund":\#(next[2])"# : ""
        let body = #"{"step":"\#(next[1])"\#(refund),"outcome":"happened"}"#
        #expect(try await server.post(path + "/resolve", body).status == 202)
        expected.removeFirst()
        try await eventually("the list has \(expected.count)", within: .seconds(10)) {
          try await list(server, folder) == expected
        }
      }
      let details = try await server.get(path).object()
      #expect(details["unknownSteps"] == nil && details["unknown"] == nil)
      #expect(details["status"] as? String == "Completed")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
