import LogStore
import Testing

@testable import RegisPay

@Suite("The queues of steps")
struct StepQueueTests {
  private let id = PaymentID.random()

  @Test("a message names its payment in both formats, and alone")
  func reads() throws {
    let event = IntegrationEvent(offset: 1, id: .random(), type: .initiated, payment: id, microseconds: 1)
    let topology = BrokerTopology(prefix: BrokerOptions.referencePrefix)
    let envelope = MassTransitEnvelope(topology: topology, broker: try BrokerURL("amqp://h"))
    #expect(WorkMessage.payment(envelope.message(event, sentMicroseconds: 1).body) == id)
    #expect(WorkMessage.payment(CloudEvent(topology: topology, source: "s").message(event).body) == id)
    #expect(WorkMessage.payment(Array("{\"aggregateId\":\"pay:\(id)\"}".utf8)) == id)
  }

  @Test(
    "anything else names none",
    arguments: [
      "", "x", "{}", "[]", "null", "{\"aggregateId\":7}", "{\"aggregateId\":\"pay:\"}", "{\"message\":[]}",
      "{\"aggregateId\":\"request:01\"}", String(repeating: "[", count: 60_000),
    ])
  func foreign(_ text: String) { #expect(WorkMessage.payment(Array(text.utf8)) == nil) }

  @Test("each gets what requests its step, and together all that requests any")
  func bindings() {
    let create = StepQueue(step: .create)
    #expect(create.name == "regispay.payment-create" && create.deadLetters == "regispay.payment-create.dead")
    #expect(create.exchanges == ["regispay.steps:PaymentInitiated", "regispay.steps:PaymentRetried"])
    let settle = StepQueue(step: .settle).exchanges
    #expect(settle.contains("regispay.steps:PaymentCreated"))
    #expect(settle.contains("regispay.steps:PaymentCancellationRefused"))
    #expect(Set(StepQueue.all.flatMap(\.exchanges)) == Set(StepQueue.types.map { "regispay.steps:\($0.rawValue)" }))
  }

  @Test("steps are published whatever integration events are, and those may be none")
  func options() throws {
    var options = try BrokerOptions(["amqp://h"])
    try options.setTypes(["PaymentCompleted"])
    #expect(options.publishesEvents && options.forSteps.types == StepQueue.types)
    try options.setTypes(["none"])
    #expect(!options.publishesEvents && options.forSteps.types == StepQueue.types)
    #expect(throws: BrokerOptionsError.self) { try options.setTypes(["none", "PaymentCompleted"]) }
  }

  @Test("dead letters, and messages that nobody takes, are warnings")
  func warnings() {
    func lines(_ messages: Int, _ workers: Int, _ deadLetters: Int) -> [String] {
      StepQueue.Status(
        queue: StepQueue(step: .create), messages: messages, workers: workers, deadLetters: deadLetters
      ).warnings
    }
    #expect(lines(5, 1, 0).isEmpty && lines(0, 0, 0).isEmpty)
    #expect(lines(5, 0, 0).count == 1 && lines(0, 1, 2).count == 1)
    #expect(lines(0, 1, 2)[0].contains("POST /api/v1/broker/dead-letters/create/release"))
  }
}
