import LogStore
import Testing

@testable import RegisPay

private let id = PaymentID.random()
private let amount = Money(minorUnits: 1234, currency: Currency.supported[0])

/// A payment in each state, by the events that lead there.
private let histories: [(status: PaymentStatus, events: [PaymentEvent])] = [
  (.initiated, [.initiated(id, amount)]),
  (.created, [.initiated(id, amount), .created(reference: "r")]),
  (.settled, [.initiated(id, amount), .created(reference: "r"), .settled]),
  (.completed, [.initiated(id, amount), .created(reference: "r"), .settled, .completed]),
  (.failed, [.initiated(id, amount), .failed(step: .create, reason: "no")]),
]

private let events: [PaymentEvent] =
  [.initiated(id, amount), .created(reference: "r2"), .settled, .completed]
  + PaymentStep.allCases.map { .failed(step: $0, reason: "no") }

/// What may happen, and where it leads; all else may not.
private let transitions: [PaymentStatus: [PaymentEvent: Payment.State]] = [
  .initiated: [
    .created(reference: "r2"): .created(reference: "r2"),
    .failed(step: .create, reason: "no"): .failed(step: .create, reason: "no", reference: nil),
  ],
  .created: [
    .settled: .settled(reference: "r"),
    .failed(step: .settle, reason: "no"): .failed(step: .settle, reason: "no", reference: "r"),
  ],
  .settled: [
    .completed: .completed(reference: "r"),
    .failed(step: .notify, reason: "no"): .failed(step: .notify, reason: "no", reference: "r"),
  ],
]

@Suite("A payment")
struct PaymentTests {
  @Test("every event in every state either leads where it should or is refused and changes nothing")
  func transitionTable() throws {
    #expect(Set(histories.map(\.status)) == Set(PaymentStatus.allCases), "every state is tried")
    for (status, history) in histories {
      for event in events {
        var payment = try #require(try Payment(history))
        #expect(payment.status == status)
        if let expected = transitions[status]?[event] {
          try payment.apply(event)
          #expect(payment.state == expected)
        } else {
          let before = payment
          #expect(throws: IllegalTransition(state: before.state, event: event)) { try payment.apply(event) }
          #expect(payment == before)
        }
      }
    }
  }

  @Test("nothing but its initiation begins a payment")
  func beginning() throws {
    for event in events.dropFirst() { #expect(throws: IllegalTransition.self) { try Payment(event) } }
    #expect(try Payment([]) == nil)
  }

  @Test("every command in every state either gives the event of the step that is due or is refused")
  func commandTable() throws {
    let commands: [(PaymentCommand, PaymentEvent)] =
      [
        (.recordCreated(reference: "r2"), .created(reference: "r2")), (.recordSettled, .settled),
        (.recordCompleted, .completed),
      ] + PaymentStep.allCases.map { (.giveUp($0, reason: "no"), .failed(step: $0, reason: "no")) }
    for (status, history) in histories {
      let payment = try #require(try Payment(history))
      for (command, event) in commands {
        if transitions[status]?[event] != nil {
          #expect(try payment.decide(command) == event)
        } else {
          #expect(throws: PaymentRefusal(state: payment.state, command: command)) { try payment.decide(command) }
        }
      }
    }
  }

  @Test("the steps follow one another until nothing is left to do")
  func steps() throws {
    #expect(try histories.map { try Payment($0.events)?.nextStep } == [.create, .settle, .notify, nil, nil])
  }
}

@Suite("A payment's events on the log")
struct PaymentEventTests {
  @Test("every event is read back as it was written")
  func roundTrip() throws {
    for event in events { #expect(try PaymentEvent(type: event.type, payload: event.payload) == event) }
  }

  @Test("the initiation is written with the exact amount")
  func written() {
    #expect(
      String(decoding: PaymentEvent.initiated(id, amount).payload, as: UTF8.self)
        == #"{"paymentId":"\#(id)","amount":12.34,"currency":"GBP"}"#)
  }

  @Test("members that a later version added are passed over")
  func unknownMembers() throws {
    let payload = Array(#"{"paymentReference":"r","since":"v2"}"#.utf8)
    #expect(try PaymentEvent(type: "PaymentCreated", payload: payload) == .created(reference: "r"))
  }

  @Test(
    "what can't be read is refused with a reason",
    arguments: [
      ("PaymentInitiated", "{}"), ("PaymentInitiated", "garbage"), ("PaymentInitiated", ""),
      ("PaymentInitiated", #"{"paymentId":"x","amount":1,"currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":"1","currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":1.001,"currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":1,"currency":"XXX"}"#),
      ("PaymentCreated", "{}"), ("PaymentCreated", "[]"), ("PaymentFailed", #"{"step":"x","reason":"y"}"#),
      ("PaymentRefunded", "{}"), ("", "{}"),
    ])
  func unreadable(_ type: String, _ payload: String) {
    #expect(throws: PaymentEventError.self) { try PaymentEvent(type: type, payload: Array(payload.utf8)) }
  }
}

@Suite("A payment's id")
struct PaymentIDTests {
  @Test("it is written as its UUID and names its stream")
  func streams() throws {
    let id = PaymentID.random()
    #expect(PaymentID(id.description) == id)
    #expect(PaymentID(stream: id.stream) == id)
    #expect(id.stream == "pay:\(id)")
    #expect(PaymentID(stream: "charge:\(id)") == nil)
    #expect(PaymentID("nonsense") == nil)
    #expect(PaymentID(id.description.uppercased()) == id)
  }

  @Test("an event's id is the same when it is repeated, and another for other content, version or payment")
  func eventIDs() {
    var seen: Set<EventID> = []
    for payment in [PaymentID.random(), PaymentID.random()] {
      for event in events {
        for version in 1...100 as ClosedRange<UInt64> {
          let eventID = payment.eventID(version: version, type: event.type, payload: event.payload)
          #expect(eventID == payment.eventID(version: version, type: event.type, payload: event.payload))
          #expect(seen.insert(eventID).inserted)
        }
      }
    }
  }
}
