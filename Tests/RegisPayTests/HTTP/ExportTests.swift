import Foundation
import Testing

@testable import RegisPay

@Suite struct ExportTests {
  private func create(_ server: TestServer, _ amount: String) async throws -> String {
    let response = try await server.send(
      "POST", "/api/v1/payments", headers: [("Content-Type", "application/json")],
      body: Array(#"{"amount":\#(amount),"currency":"GBP"}"#.utf8))
    return try #require(try response.json()["paymentId"]?.text)
  }

  @Test("an export has every payment that passes the filters, over several pages, once")
  func complete() async throws {
    try await TestServer.run { server in
      var ids: [String] = []
      for number in 1...(2 * PaymentQuery.pageLimit + 5) { ids.append(try await create(server, "\(number)")) }
      try await eventually("all are in the list and complete") {
        try await server.get("/api/v1/payments/export?status=Completed").text.split(separator: "\n").count == ids.count
      }
      let lines = try await server.get("/api/v1/payments/export?sort=created")
      #expect(lines.headers["content-type"] == "application/jsonl; charset=utf-8")
      #expect(lines.headers["content-disposition"] == "attachment; filename=\"payments.jsonl\"")
      let found = try lines.text.split(separator: "\n").map { try JSONReader.read(Array($0.utf8))["paymentId"]?.text }
      #expect(found == ids)
      let csv = try await server.get("/api/v1/payments/export?format=csv&sort=-amount&status=Completed")
      let rows = csv.text.split(separator: "\r\n")
      #expect(csv.headers["content-type"] == "text/csv; charset=utf-8; header=present")
      #expect(rows.count == ids.count + 1)
      #expect(rows[0].hasPrefix("paymentId,amount,currency,status,"))
      #expect(rows[1].hasPrefix("\(ids[ids.count - 1]),\(ids.count).00,GBP,Completed,0.00,0.00,"))
      #expect(try await server.get("/api/v1/payments/export?status=Failed").text.isEmpty)
    }
  }

  @Test(
    "what an export can't have is refused by name",
    arguments: [
      ("limit=3", "limit"), ("after=created_1_1", "after"), ("format=xml", "csv, jsonl"),
      ("format=csv&format=csv", "twice"),
      ("stauts=Failed", "stauts"), ("status=Failed&status=Created", "twice"),
    ])
  func refused(query: String, names: String) async throws {
    try await TestServer.run { server in
      let response = try await server.get("/api/v1/payments/export?\(query)")
      #expect(response.status == 400)
      #expect(try response.json()["detail"]?.text?.contains(names) == true, "\(response.text)")
    }
  }

  @Test("text of a PSP is quoted, and is no formula for a spreadsheet")
  func formulas() throws {
    let money = Money(minorUnits: 1_250, currency: try #require(Currency.named("EUR")))
    let none = Money(minorUnits: 0, currency: money.currency)
    func line(_ reference: String, _ reason: String?) -> String {
      var bytes: [UInt8] = []
      let row = PaymentRow(
        id: PaymentID.random(), money: money, status: .failed, reference: reference, refunded: none, refunding: none,
        version: 3, offset: 0, createdMicroseconds: 0, updatedMicroseconds: 0,
        trouble: reason.map { .init(step: .settle, refund: nil, reason: $0) }, furtherUnknown: 0, delays: [])
      PaymentCSV.add(row, to: &bytes)
      return String(decoding: bytes.dropFirst(37), as: UTF8.self)
    }
    let times = "3,1970-01-01T00:00:00.000000Z,1970-01-01T00:00:00.000000Z"
    #expect(line("ref-1", nil) == "12.50,EUR,Failed,0.00,0.00,ref-1,\(times),,\r\n")
    #expect(line("=1+2", "a, \"b\"") == "12.50,EUR,Failed,0.00,0.00,\"'=1+2\",\(times),settle,\"a, \"\"b\"\"\"\r\n")
    for text in ["+1", "-1", "@a", "\tx", "\rx"] { #expect(line(text, nil).contains("\"'\(text)\"")) }
  }
}
