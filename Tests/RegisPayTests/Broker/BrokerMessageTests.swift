import LogStore
import Testing

@testable import RegisPay

@Suite("A message to the broker")
struct BrokerMessageTests {
  private let payment: PaymentID
  private let event: IntegrationEvent

  init() throws {
    payment = try #require(PaymentID("0197a000-0000-7000-8000-000000000001"))
    event = IntegrationEvent(
      offset: 7, id: try #require(EventID("0197a000-0000-7000-8000-0000000000ff")), type: .initiated, payment: payment,
      microseconds: 1_769_903_999_000_001,
      trace: TraceContext(
        parent: try #require(TraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")), state: "a=1"))
  }

  private func members(_ json: JSONValue?) -> [String] {
    guard case .object(let members)? = json else { return [] }
    return members.map(\.key)
  }

  @Test("in MassTransit's envelope has the members of MassTransit 8's JsonMessageEnvelope, in their order")
  func massTransit() throws {
    let topology = BrokerTopology(prefix: BrokerOptions.referencePrefix)
    let envelope = MassTransitEnvelope(topology: topology, broker: try BrokerURL("amqp://mq.example:5673/shop"))
    let message = envelope.message(event, sentMicroseconds: 1_769_904_000_000_000)
    let exchange = "Regis.Pay.Domain.IntegrationEvents:PaymentInitiated"
    #expect(message.exchange == exchange && message.contentType == "application/vnd.masstransit+json")
    #expect(message.id == "0197a000-0000-7000-8000-0000000000ff" && message.correlationID == payment.description)
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    #expect(message.headers == [.init(name: "MT-Activity-Id", value: traceparent)])
    let body = try JSONReader.read(message.body)
    #expect(
      members(body) == [
        "messageId", "requestId", "correlationId", "conversationId", "initiatorId", "sourceAddress",
        "destinationAddress", "responseAddress", "faultAddress", "messageType", "message", "expirationTime", "sentTime",
        "headers", "host",
      ])
    #expect(body["messageId"]?.text == message.id)
    #expect(body["correlationId"]?.text == payment.description && body["conversationId"]?.text == payment.description)
    for name in ["requestId", "initiatorId", "responseAddress", "faultAddress", "expirationTime"] {
      #expect(body[name] == .null, "\(name)")
    }
    #expect(body["sourceAddress"]?.text == "rabbitmq://mq.example:5673/shop/regispay")
    #expect(body["destinationAddress"]?.text == "rabbitmq://mq.example:5673/shop/" + exchange)
    #expect(
      body["messageType"]
        == .array([
          "urn:message:Regis.Pay.Domain.IntegrationEvents:PaymentInitiated",
          "urn:message:Regis.Pay.Domain.IntegrationEvents:IntegrationEventBase",
          "urn:message:Regis.Pay.Domain:IIntegrationEvent",
        ]))
    #expect(body["message"] == ["aggregateId": .string("pay:" + payment.description)])
    #expect(body["sentTime"]?.text == "2026-02-01T00:00:00.000000Z")
    #expect(body["headers"] == ["MT-Activity-Id": .string(traceparent)])
    #expect(
      members(body["host"]) == [
        "machineName", "processName", "processId", "assembly", "assemblyVersion", "frameworkVersion",
        "massTransitVersion", "operatingSystemVersion",
      ])
  }

  @Test("with another prefix has its types there, and no interface of the reference's")
  func otherPrefix() {
    let topology = BrokerTopology(prefix: "Shop:")
    #expect(
      topology.urns(of: .completed) == ["urn:message:Shop:PaymentCompleted", "urn:message:Shop:IntegrationEventBase"])
    #expect(topology.common == ["Shop:IntegrationEventBase"])
  }

  @Test("as a CloudEvent has the attributes of CloudEvents 1.0, and the same id at each try")
  func cloudEvent() throws {
    let writer = CloudEvent(topology: BrokerTopology(prefix: "shop."), source: "regispay/1")
    let message = writer.message(event)
    #expect(message == writer.message(event))
    #expect(message.exchange == "shop.PaymentInitiated" && message.headers == [])
    #expect(message.contentType == "application/cloudevents+json; charset=utf-8")
    #expect(
      try JSONReader.read(message.body) == [
        "specversion": "1.0", "id": .string(event.id.description), "source": "regispay/1", "type": "payment.initiated",
        "subject": .string(payment.description), "time": "2026-01-31T23:59:59.000001Z",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1",
        "datacontenttype": "application/json", "data": ["aggregateId": .string("pay:" + payment.description)],
      ])
  }

  @Test("as a CloudEvent in binary mode has its attributes as headers, and its data as the body")
  func binaryCloudEvent() throws {
    let message = CloudEvent(topology: BrokerTopology(prefix: "shop."), source: "regispay/1", isBinary: true).message(
      event)
    #expect(message.contentType == "application/json")
    #expect(try JSONReader.read(message.body) == ["aggregateId": .string("pay:" + payment.description)])
    let headers = Dictionary(uniqueKeysWithValues: message.headers.map { ($0.name, $0.value) })
    #expect(
      headers == [
        "cloudEvents_specversion": "1.0", "cloudEvents_id": event.id.description, "cloudEvents_source": "regispay/1",
        "cloudEvents_type": "payment.initiated", "cloudEvents_subject": payment.description,
        "cloudEvents_time": "2026-01-31T23:59:59.000001Z",
        "cloudEvents_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cloudEvents_tracestate": "a=1",
      ])
  }

  @Test("is made of every type of a payment's event, and of nothing else")
  func types() {
    for type in PaymentEvent.TypeName.allCases {
      #expect(BrokerTopology(prefix: BrokerOptions.referencePrefix).exchange(of: type).utf8.count < 128)
    }
  }
}
