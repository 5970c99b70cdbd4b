import Testing

@testable import RegisPay

@Suite("A broker's URL")
struct BrokerURLTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var text: String
    var isTLS = false
    var user = "guest"
    var host: String
    var port = 5672
    var vhost = "/"
    var testDescription: String { text }
  }

  @Test(
    "is read as RabbitMQ's specification has it",
    arguments: [
      Case(text: "amqp://localhost", host: "localhost"),
      Case(text: "amqp://localhost/", host: "localhost"),
      Case(text: "amqp://shop@mq.example:5673/orders", user: "shop", host: "mq.example", port: 5673, vhost: "orders"),
      Case(text: "amqps://mq.example/%2F", isTLS: true, host: "mq.example", port: 5671),
      Case(text: "amqp://a%40b@h/x%2Fy", user: "a@b", host: "h", vhost: "x/y"),
      Case(text: "amqp://[::1]:1/v", host: "::1", port: 1, vhost: "v"),
    ])
  func reads(_ wanted: Case) throws {
    let url = try BrokerURL(wanted.text)
    #expect(url.isTLS == wanted.isTLS && url.user == wanted.user && url.host == wanted.host)
    #expect(url.port == wanted.port && url.vhost == wanted.vhost)
  }

  @Test(
    "is refused, and a password in it is not repeated",
    arguments: [
      "", "localhost", "http://h", "amqp://", "amqp://:5672", "amqp://@h", "amqp://u:hunter2@h", "amqp://h:0",
      "amqp://h:65536",
      "amqp://h:x", "amqp://h/a/b", "amqp://h/%zz", "amqp://h/%00", "amqp://[::1", "amqp://h?heartbeat=1", "amqp://h#x",
      "amqp://h /", "amqp://hé", "amqp://" + String(repeating: "h", count: 300),
      "amqp://h/" + String(repeating: "v", count: 300),
    ])
  func refuses(_ text: String) {
    let error = #expect(throws: BrokerURL.Refusal.self) { try BrokerURL(text) }
    #expect(error?.description.contains("hunter2") == false)
  }

  @Test("gives MassTransit's addresses: no usual port, no virtual host /")
  func addresses() throws {
    #expect(try BrokerURL("amqp://h").massTransitAddress(of: "A:B") == "rabbitmq://h/A:B")
    #expect(try BrokerURL("amqp://h:5673/x%2Fy").massTransitAddress(of: "A:B") == "rabbitmq://h:5673/x%2Fy/A:B")
    #expect(try BrokerURL("amqps://h/v").massTransitAddress(of: "A:B") == "rabbitmqs://h/v/A:B")
  }

  @Test("several are named with commas or one by one; prefixes and types are checked")
  func options() throws {
    var options = try BrokerOptions(["amqp://a,amqp://b", "amqps://c"])
    #expect(options.urls.map(\.host) == ["a", "b", "c"])
    try options.setExchangePrefix("shop.events-1_x:")
    #expect(throws: BrokerOptionsError.self) { try options.setExchangePrefix("amq.x") }
    #expect(throws: BrokerOptionsError.self) { try options.setExchangePrefix("a b") }
    #expect(throws: BrokerOptionsError.self) { try options.setExchangePrefix(String(repeating: "a", count: 201)) }
    try options.setTypes(["PaymentCompleted,PaymentFailed"])
    #expect(options.types == [.completed, .failed])
    #expect(throws: BrokerOptionsError.self) { try options.setTypes(["PaymentDone"]) }
    #expect(throws: BrokerOptionsError.self) { try BrokerOptions([]) }
    #expect(throws: BrokerOptionsError.self) { try BrokerOptions(["amqp://a,"]) }
  }
}
