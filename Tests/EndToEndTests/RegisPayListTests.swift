import Foundation
import Testing

extension RegisPayServeTests {
  /// Payments that went all their way, as a server's log has them.
  private static func completedPayments(_ count: Int) -> [UInt8] {
    var lines = ""
    let steps = ["Created\t{\"paymentReference\":\"psp_NUMBER\"}", "Settled\t{}", "Completed\t{}"]
    // The events of one payment lie apart, with others between.
    for start in stride(from: 0, to: count, by: 500) {
      let ids = (start..<min(start + 500, count)).map { String(format: "00000000-0000-4000-8000-%012d", $0) }
      for id in ids {
        lines +=
          "pay:\(id)\tPaymentInitiated\t{\"paymentId\":\"\(id)\",\"amount\":12.50,\"currency\":\"GBP\"}\n"
      }
      for step in steps {
        for id in ids {
          lines += "pay:\(id)\tPayment\(step.replacingOccurrences(of: "NUMBER", with: String(id.suffix(12))))\n"
        }
      }
    }
    return Array(lines.utf8)
  }

  private struct List {
    var isComplete: Bool
    var asOf: Int
    var logEnd: Int
    var ids: [String]
    var next: String?

    init(_ server: RunningServer, _ query: String = "?limit=1") async throws {
      let page = try await server.get("/api/v1/payments\(query)").object()
      isComplete = try #require(page["complete"] as? Bool)
      asOf = try #require(page["asOf"] as? Int)
      logEnd = try #require(page["logEnd"] as? Int)
      ids = try #require(page["payments"] as? [[String: Any]]).compactMap { $0["paymentId"] as? String }
      next = page["next"] as? String
    }
  }

  @Test("a list of another version is rebuilt while the server serves, and shows its progress")
  func rebuildWhileServing() async throws {
    try await withTemporaryFolder { folder in
      let count = 20_000
      let store = try StoreUnderTest()
      let filled = try await store.run(["append", "--segment-size", "1MiB"], input: Self.completedPayments(count))
      try #require(filled.exitCode == 0, "\(filled.errors)")
      try FileManager.default.createDirectory(atPath: folder + "/data", withIntermediateDirectories: true)
      try FileManager.default.moveItem(atPath: store.path, toPath: folder + "/data/payments")
      var server = try await RunningServer.start(directory: folder)
      try await eventually("the list is made", within: .seconds(120)) { try await List(server).isComplete }
      // They look at each of these payments once; the next start is about the list.
      try await eventually("the consumers have passed what was there", within: .seconds(120)) {
        let consumers = try await server.get("/api/v1/consumers").object()["consumers"] as? [[String: Any]]
        return try #require(consumers).allSatisfy {
          $0["lag"] as? Int == 0 && ($0["checkpoint"] as? Int ?? 0) >= 4 * count
        }
      }
      #expect(try await server.stopGracefully().code == 0)

      // As a program leaves it whose list had other columns.
      let change = try RegisPayProcess(
        program: "python3",
        [
          "-c",
          "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('UPDATE progress SET version = 1'); c.commit()",
          folder + "/data/projection/payments.sqlite",
        ], folder: folder)
      try #require(try await change.waitForExit().code == 0, "\(change.errorText)")

      server = try await RunningServer.start(directory: folder)
      #expect(server.process.errorText.contains("it has version 1, not "))
      var seen: [Int] = []
      var ownPayment: String?
      try await eventually("the list is rebuilt", within: .seconds(120)) {
        let list = try await List(server)
        if !list.isComplete {
          #expect(list.asOf <= list.logEnd)
          if list.asOf < list.logEnd, seen.last != list.asOf { seen.append(list.asOf) }
          // Payments don't wait for the list.
          if ownPayment == nil {
            let id = try await server.createPayment("7.00")
            try await server.wait(for: id, status: "Completed", within: .seconds(60))
            ownPayment = id
          }
        }
        return list.isComplete
      }
      #expect(seen.count >= 2 && seen == seen.sorted(), "it showed \(seen)")
      let own = try #require(ownPayment, "the list was whole before it could be asked for")

      try await eventually("the payment of meanwhile is listed", within: .seconds(60)) {
        try await List(server, "?limit=1").ids == [own]
      }
      var ids: Set<String> = []
      var page = try await List(server, "?limit=200&status=Completed")
      while true {
        #expect(page.isComplete)
        for id in page.ids { #expect(ids.insert(id).inserted) }
        guard let next = page.next else { break }
        page = try await List(server, "?limit=200&status=Completed&after=\(next)")
      }
      #expect(ids.count == count + 1)
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("a payment that lost events to damage and repair says so, and is not shown as less than it was")
  func incompletePayment() async throws {
    try await withTemporaryFolder { folder in
      var server = try await RunningServer.start(directory: folder)
      let id = try await server.createPayment("12.34")
      try await server.wait(for: id, status: "Completed", within: .seconds(20))
      let whole = try await server.createPayment("5.00")
      try await server.wait(for: whole, status: "Completed", within: .seconds(20))
      #expect(try await server.stopGracefully().code == 0)

      let store = StoreUnderTest(folder + "/data/payments", in: try TemporaryDirectory())
      let name = try #require(try store.segments().first)
      let settled = try #require(Data(try store.bytes(name)).range(of: Data("PaymentSettled".utf8)))
      try store.change(name) { $0[settled.lowerBound] ^= 1 }
      let repaired = try await store.run("repair", "--to", folder + "/repaired")
      try #require(repaired.exitCode == 0, "\(repaired.errors)")
      try FileManager.default.removeItem(atPath: store.path)
      try FileManager.default.moveItem(atPath: folder + "/repaired", toPath: store.path)

      server = try await RunningServer.start(directory: folder)
      for path in ["/api/v1/payments/\(id)", "/api/v1/payments/\(id)/events"] {
        let response = try await server.get(path)
        #expect(response.status == 500)
        let problem = try response.object()
        #expect(problem["type"] as? String == "/problems/payment-incomplete")
        let detail = try #require(problem["detail"] as? String)
        #expect(detail.contains("payment \(id) were lost when the log was repaired"), "\(detail)")
      }
      let cancelled = try await server.post("/api/v1/payments/\(id)/cancel", "")
      #expect(cancelled.status == 500)
      #expect(try cancelled.object()["type"] as? String == "/problems/payment-incomplete")
      #expect(try await server.status(of: whole) == "Completed")
      let another = try await server.createPayment("1.00")
      try await server.wait(for: another, status: "Completed", within: .seconds(20))
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }
}
