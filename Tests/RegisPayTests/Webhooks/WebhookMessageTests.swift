import LogStore
import Testing

@testable import RegisPay

@Suite("A webhook's message")
struct WebhookMessageTests {
  private let cursor = CursorCommit(name: "test", checkpoint: 0)

  @Test("tells the payment as it was at the event, however far it has come since")
  func asItWas() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Money(minorUnits: 1_050, currency: Currency.supported[0]))
      _ = try await log.record(.recordCreated(reference: "r"), on: id, cursor: cursor)
      let before = try message(log, 1)
      _ = try await log.record(.recordSettled, on: id, cursor: cursor)
      _ = try await log.request(.refund(nil), of: id)
      _ = try await log.record(.recordRefunded(1), on: id, cursor: cursor)
      let statuses = try (0..<5).map { offset in
        try JSONReader.read(message(log, UInt64(offset)).body)["data"]?["status"]?.text
      }
      #expect(statuses == ["Initiated", "Created", "Settled", "Refunding", "Refunded"])
      let after = try message(log, 1)
      #expect(before.body == after.body)
      let json = try JSONReader.read(after.body)
      #expect(json["type"] == "payment.created")
      #expect(json["data"]?["amount"] == .number("10.50"))
      #expect(json["data"]?["paymentId"]?.text == id.description)
      #expect(try JSONReader.read(message(log, 4).body)["data"]?["refund"]?["amount"] == .number("10.50"))
    }
  }

  private func message(_ log: PaymentLog, _ offset: UInt64) throws -> WebhookMessage {
    let event = try #require(try log.reader.events(from: offset, limit: 1).first)
    return try #require(try WebhookMessage(event, log: log))
  }

  @Test("an id leads back to its event, and nothing else does")
  func ids() throws {
    let payment = PaymentID.random()
    let id = WebhookMessage.id(of: payment, version: 12)
    let named = try #require(WebhookMessage.paymentAndVersion(of: id))
    #expect(named.payment == payment && named.version == 12)
    #expect(!id.contains("."))
    for text in [
      "", "msg_", "msg_\(payment)", "msg_\(payment)_0", "msg_\(payment)_01", "msg_\(payment)_1_1", "\(payment)_1",
    ] {
      #expect(WebhookMessage.paymentAndVersion(of: text) == nil, "\(text)")
    }
  }

  @Test("every type of event has a public name of its own")
  func names() {
    let names = PaymentEvent.TypeName.allCases.map(\.publicName)
    #expect(Set(names).count == names.count)
    for type in PaymentEvent.TypeName.allCases { #expect(PaymentEvent.TypeName(publicName: type.publicName) == type) }
    #expect(PaymentEvent.TypeName(publicName: "PaymentCreated") == nil)
  }
}
