import LogStore
import SeededRandom
import Testing

@testable import RegisPay

private let id = PaymentID.random()
private let amount = Money(minorUnits: 1234, currency: Currency.supported[0])
private let part = Money(minorUnits: 1000, currency: Currency.supported[0])
private let rest = Money(minorUnits: 234, currency: Currency.supported[0])
private let euro = Money(minorUnits: 1, currency: Currency.supported[1])

/// A possible state of a payment, by the events that lead there, and the events that may follow: each with the status
/// that it leads to. No other event may follow.
private struct Situation {
  var name: String
  var events: [PaymentEvent]
  var status: PaymentStatus
  var due: [PaymentWork]
  var next: [(PaymentEvent, PaymentStatus)]
  /// The events of a cancellation by a person; nil when it is refused.
  var cancel: [PaymentEvent]? = nil
  /// The step that a person has to resolve first.
  var unknown: PaymentWork? = nil
  /// What is not due, and what the PSP may confirm all the same.
  var late: [PaymentWork] = []
}

private func unknown(_ work: PaymentWork) -> PaymentEvent { .outcomeUnknown(work, reason: "no response") }

private func unknown(_ step: PaymentStep) -> PaymentEvent { unknown(PaymentWork(step)) }

private func resolved(_ work: PaymentWork, _ status: PaymentStatus) -> [(PaymentEvent, PaymentStatus)] {
  [(.outcomeResolved(work, happened: true), status), (.outcomeResolved(work, happened: false), status)]
}

private func delay(_ work: PaymentWork, attempts: Int = 6) -> Delay {
  Delay(work, untilMicroseconds: 1_700_000_000_000_000, attempts: attempts, ownFailures: 3, reason: "busy")
}

private let works: [PaymentWork] =
  PaymentStep.allCases.filter { $0 != .refund }.map { PaymentWork($0) } + (0...3).map { PaymentWork(refund: $0) }

private let created: [PaymentEvent] = [.initiated(id, amount), .created(reference: "r")]
private let settled: [PaymentEvent] = created + [.settled]
private let completed: [PaymentEvent] = settled + [.completed]

private let situations: [Situation] = [
  Situation(
    name: "initiated", events: [.initiated(id, amount)], status: .initiated, due: [PaymentWork(.create)],
    next: [
      (.created(reference: "r2"), .created), (.declined(step: .create, reason: "no"), .declined),
      (.cancelled, .cancelled), (.cancellationRequested, .cancelling),
      (.failed(step: .create, reason: "no"), .failed), (unknown(.create), .outcomeUnknown),
    ], cancel: [.cancellationRequested]),
  Situation(
    name: "waiting to be created", events: [.initiated(id, amount), .delayed(delay(PaymentWork(.create)))],
    status: .initiated, due: [PaymentWork(.create)],
    next: [
      (.created(reference: "r2"), .created), (.declined(step: .create, reason: "no"), .declined),
      (.cancelled, .cancelled), (.failed(step: .create, reason: "no"), .failed),
      (.retried(.create, refund: nil), .initiated), (.cancellationRequested, .cancelling),
      (unknown(.create), .outcomeUnknown),
    ], cancel: [.retried(.create, refund: nil), .cancellationRequested]),
  Situation(
    name: "cancelling before it is created", events: [.initiated(id, amount), .cancellationRequested],
    status: .cancelling, due: [PaymentWork(.create)],
    next: [
      (.created(reference: "r2"), .created), (.declined(step: .create, reason: "no"), .declined),
      (.cancelled, .cancelled), (.failed(step: .create, reason: "no"), .failed), (unknown(.create), .outcomeUnknown),
    ]),
  Situation(
    name: "perhaps created", events: [.initiated(id, amount), unknown(.create)], status: .outcomeUnknown, due: [],
    next: resolved(PaymentWork(.create), .initiated), unknown: PaymentWork(.create)),
  Situation(
    name: "perhaps created, and to be cancelled",
    events: [.initiated(id, amount), .cancellationRequested, unknown(.create)], status: .outcomeUnknown, due: [],
    next: resolved(PaymentWork(.create), .cancelling), unknown: PaymentWork(.create)),
  Situation(
    name: "created", events: created, status: .created, due: [PaymentWork(.settle)],
    next: [
      (.settled, .settled), (.declined(step: .settle, reason: "no"), .declined),
      (.cancellationRequested, .cancelling), (.failed(step: .settle, reason: "no"), .failed),
      (unknown(.settle), .outcomeUnknown),
    ], cancel: [.cancellationRequested]),
  Situation(
    name: "perhaps settled", events: created + [unknown(.settle)], status: .outcomeUnknown, due: [],
    next: resolved(PaymentWork(.settle), .created), unknown: PaymentWork(.settle)),
  Situation(
    name: "cancelling", events: created + [.cancellationRequested], status: .cancelling, due: [PaymentWork(.cancel)],
    next: [
      (.settled, .settled), (.cancelled, .cancelled),
      (.cancellationRefused(reason: "no"), .created), (.failed(step: .cancel, reason: "no"), .failed),
      (unknown(.cancel), .outcomeUnknown),
    ], late: [PaymentWork(.settle)]),
  Situation(
    name: "perhaps cancelled", events: created + [.cancellationRequested, unknown(.cancel)], status: .outcomeUnknown,
    due: [], next: resolved(PaymentWork(.cancel), .cancelling), unknown: PaymentWork(.cancel),
    late: [PaymentWork(.settle)]),
  Situation(
    name: "settled", events: settled, status: .settled, due: [PaymentWork(.notify)],
    next: [
      (.completed, .completed), (.failed(step: .notify, reason: "no"), .failed), (unknown(.notify), .outcomeUnknown),
      (.refundRequested(1, part), .settled), (unknown(.settle), .outcomeUnknown),
      (.refundRequested(1, amount), .refunding), (.refundRequested(1, rest), .settled),
    ], late: [PaymentWork(.cancel)]),
  Situation(
    name: "perhaps notified", events: settled + [unknown(.notify)], status: .outcomeUnknown, due: [],
    next: resolved(PaymentWork(.notify), .settled) + [
      (.refundRequested(1, part), .outcomeUnknown), (.refundRequested(1, amount), .outcomeUnknown),
      (.refundRequested(1, rest), .outcomeUnknown),
    ], unknown: PaymentWork(.notify)),
  Situation(
    name: "completed", events: completed, status: .completed, due: [],
    next: [
      (.refundRequested(1, part), .completed), (.refundRequested(1, amount), .refunding),
      (.refundRequested(1, rest), .completed), (unknown(.settle), .outcomeUnknown),
    ], late: [PaymentWork(.cancel)]),
  Situation(
    name: "declined", events: [.initiated(id, amount), .declined(step: .create, reason: "no")], status: .declined,
    due: [], next: [(unknown(.create), .outcomeUnknown)], late: [PaymentWork(.create)]),
  Situation(
    name: "declined when it was settled", events: created + [.declined(step: .settle, reason: "no")],
    status: .declined, due: [], next: [(unknown(.settle), .outcomeUnknown)], late: [PaymentWork(.settle)]),
  Situation(
    name: "cancelled", events: [.initiated(id, amount), .cancelled], status: .cancelled, due: [], next: []),
  Situation(
    name: "cancelled at the PSP", events: created + [.cancellationRequested, .cancelled], status: .cancelled, due: [],
    next: [(unknown(.settle), .outcomeUnknown)], late: [PaymentWork(.settle)]),
  Situation(
    name: "cancelled and perhaps settled", events: created + [.cancellationRequested, .cancelled, unknown(.settle)],
    status: .outcomeUnknown, due: [], next: resolved(PaymentWork(.settle), .created), unknown: PaymentWork(.settle)),
  Situation(
    name: "failed to create", events: [.initiated(id, amount), .failed(step: .create, reason: "no")], status: .failed,
    due: [], next: [(.retried(.create, refund: nil), .initiated), (.cancelled, .cancelled)],
    cancel: [.retried(.create, refund: nil), .cancellationRequested]),
  Situation(
    name: "failed to create, and nothing happened",
    events: [.initiated(id, amount), .failed(step: .create, reason: "no", mayHaveHappened: false)], status: .failed,
    due: [], next: [(.retried(.create, refund: nil), .initiated), (.cancelled, .cancelled)], cancel: [.cancelled]),
  Situation(
    name: "failed to create what is to be cancelled",
    events: [.initiated(id, amount), .cancellationRequested, .failed(step: .create, reason: "no")], status: .failed,
    due: [], next: [(.retried(.create, refund: nil), .cancelling), (.cancelled, .cancelled)],
    cancel: [.retried(.create, refund: nil)]),
  Situation(
    name: "failed to settle", events: created + [.failed(step: .settle, reason: "no")], status: .failed, due: [],
    next: [(.retried(.settle, refund: nil), .created), (.cancellationRequested, .cancelling)],
    cancel: [.cancellationRequested]),
  Situation(
    name: "failed to cancel", events: created + [.cancellationRequested, .failed(step: .cancel, reason: "no")],
    status: .failed, due: [], next: [(.retried(.cancel, refund: nil), .cancelling)], late: [PaymentWork(.settle)]),
  Situation(
    name: "failed to notify", events: settled + [.failed(step: .notify, reason: "no")], status: .failed, due: [],
    next: [
      (.retried(.notify, refund: nil), .settled), (.refundRequested(1, part), .failed),
      (.refundRequested(1, amount), .failed), (.refundRequested(1, rest), .failed),
    ]),
  Situation(
    name: "refunding all", events: completed + [.refundRequested(1, amount)], status: .refunding,
    due: [PaymentWork(refund: 1)],
    next: [
      (.refunded(1), .refunded), (.refundDeclined(1, reason: "no"), .completed),
      (.refundFailed(1, reason: "no"), .failed), (unknown(PaymentWork(refund: 1)), .outcomeUnknown),
    ]),
  Situation(
    name: "perhaps refunded in part",
    events: completed + [.refundRequested(1, part), unknown(PaymentWork(refund: 1))], status: .outcomeUnknown, due: [],
    next: resolved(PaymentWork(refund: 1), .completed) + [(.refundRequested(2, rest), .outcomeUnknown)],
    unknown: PaymentWork(refund: 1)),
  Situation(
    name: "refunding a part", events: completed + [.refundRequested(1, part)], status: .completed,
    due: [PaymentWork(refund: 1)],
    next: [
      (.refunded(1), .completed), (.refundDeclined(1, reason: "no"), .completed),
      (.refundFailed(1, reason: "no"), .failed), (.refundRequested(2, rest), .refunding),
      (unknown(PaymentWork(refund: 1)), .outcomeUnknown),
    ]),
  Situation(
    name: "waiting to be refunded",
    events: completed + [.refundRequested(1, amount), .delayed(delay(PaymentWork(refund: 1)))],
    status: .refunding, due: [PaymentWork(refund: 1)],
    next: [
      (.refunded(1), .refunded), (.refundDeclined(1, reason: "no"), .completed),
      (.refundFailed(1, reason: "no"), .failed), (.retried(.refund, refund: 1), .refunding),
      (unknown(PaymentWork(refund: 1)), .outcomeUnknown),
    ]),
  Situation(
    name: "refunded in part", events: completed + [.refundRequested(1, part), .refunded(1)], status: .completed,
    due: [],
    next: [(.refundRequested(2, rest), .refunding)]),
  Situation(
    name: "refunded", events: completed + [.refundRequested(1, amount), .refunded(1)], status: .refunded, due: [],
    next: []),
  Situation(
    name: "failed to refund", events: completed + [.refundRequested(1, amount), .refundFailed(1, reason: "no")],
    status: .failed, due: [], next: [(.retried(.refund, refund: 1), .refunding)]),
  Situation(
    name: "refund declined", events: completed + [.refundRequested(1, amount), .refundDeclined(1, reason: "no")],
    status: .completed, due: [],
    next: [
      (.refundRequested(2, part), .completed), (.refundRequested(2, rest), .completed),
      (.refundRequested(2, amount), .refunding), (unknown(PaymentWork(refund: 1)), .outcomeUnknown),
    ], late: [PaymentWork(refund: 1)]),
  Situation(
    name: "refunding before it is completed", events: settled + [.refundRequested(1, part)], status: .settled,
    due: [PaymentWork(.notify), PaymentWork(refund: 1)],
    next: [
      (.completed, .completed), (.failed(step: .notify, reason: "no"), .failed), (.refunded(1), .settled),
      (.refundDeclined(1, reason: "no"), .settled), (.refundFailed(1, reason: "no"), .failed),
      (.refundRequested(2, rest), .refunding), (unknown(.notify), .outcomeUnknown),
      (unknown(PaymentWork(refund: 1)), .outcomeUnknown),
    ]),
]

/// Every event, with every meaningful step and number, and some impossible ones.
private let events: [PaymentEvent] =
  [
    .initiated(id, amount), .created(reference: "r2"), .settled, .completed, .cancellationRequested,
    .cancellationRefused(reason: "no"), .cancelled,
  ]
  + PaymentStep.allCases.flatMap { step -> [PaymentEvent] in
    [.failed(step: step, reason: "no"), .declined(step: step, reason: "no")]
      + (step == .refund ? [] : [.retried(step, refund: nil)])
  }
  + works.map { .delayed(delay($0, attempts: 7)) } + works.map { unknown($0) }
  + works.flatMap { work in [true, false].map { .outcomeResolved(work, happened: $0) } }
  + (0...3).flatMap { number -> [PaymentEvent] in
    [
      .refunded(number), .refundDeclined(number, reason: "no"), .refundFailed(number, reason: "no"),
      .retried(.refund, refund: number),
    ]
      + [part, rest, amount, euro, Money(minorUnits: 0, currency: amount.currency)].map { .refundRequested(number, $0) }
  }

@Suite("A payment")
struct PaymentTests {
  @Test("every event in every state either leads to its status or is refused and changes nothing")
  func transitionTable() throws {
    #expect(Set(situations.map(\.status)) == Set(PaymentStatus.allCases), "every status is tried")
    for situation in situations {
      for event in events {
        var payment = try #require(try Payment(situation.events))
        #expect(payment.status == situation.status, "\(situation.name)")
        if case .delayed(let delay) = event, situation.due.contains(delay.work) {
          try payment.apply(event)
          #expect(payment.status == situation.status && payment.isDue(delay.work), "\(event) when \(situation.name)")
          #expect(payment.delays.filter { $0.work == delay.work } == [delay], "the last one counts")
        } else if let (_, status) = situation.next.first(where: { $0.0 == event }) {
          try payment.apply(event)
          #expect(payment.status == status, "\(event) when \(situation.name)")
          #expect(payment.delays.allSatisfy { payment.isDue($0.work) }, "only what is due can wait for a time")
          if case .retried(let step, let refund) = event {
            #expect(PaymentWork(step, refund: refund).map { payment.delay(of: $0) == nil } ?? false)
          }
        } else {
          let before = payment
          #expect(throws: IllegalTransition(payment: before, event: event), "\(event) when \(situation.name)") {
            try payment.apply(event)
          }
          #expect(payment == before)
        }
      }
    }
  }

  @Test("only an initiation begins a payment")
  func beginning() throws {
    for event in events.dropFirst() { #expect(throws: IllegalTransition.self) { try Payment(event) } }
    #expect(try Payment([]) == nil)
  }

  @Test("in every state exactly the due work can be recorded, declined and parked")
  func due() throws {
    for situation in situations {
      let payment = try #require(try Payment(situation.events))
      for work in works {
        let isDue = situation.due.contains(work)
        #expect(payment.isDue(work) == isDue, "\(work) when \(situation.name)")
        let success: PaymentCommand =
          switch work.step {
          case .create: .recordCreated(reference: "r2")
          case .settle: .recordSettled
          case .cancel: .recordCancelled
          case .notify: .recordCompleted
          case .refund: .recordRefunded(work.refund ?? 0)
          }
        // A late response also ends an outcome that was unknown.
        let isLate = situation.late.contains(work) || work == situation.unknown
        for (command, isPossible) in [
          (.markUnknown(work, reason: "no"), isDue),
          (success, isDue || isLate), (.decline(work, reason: "no"), isDue),
          (.park(work, reason: "no"), isDue), (.delay(delay(work)), isDue),
        ] {
          if isPossible {
            var after = payment
            for event in try payment.decide(command) { try after.apply(event) }
            if case .delay(let delay) = command {
              #expect(after.isDue(work) && after.delay(of: work) == delay, "\(command) when \(situation.name)")
            } else {
              #expect(!after.isDue(work) && after.delay(of: work) == nil, "\(command) when \(situation.name)")
            }
          } else {
            #expect(throws: PaymentRefusal.notDue(situation.status), "\(command) when \(situation.name)") {
              try payment.decide(command)
            }
          }
        }
      }
    }
  }

  @Test("in every state a person's command is accepted if the events allow it, and is refused by name otherwise")
  func asked() throws {
    for situation in situations {
      let payment = try #require(try Payment(situation.events))
      let possible = situation.next.map(\.0)
      if let cancel = situation.cancel {
        #expect(try payment.decide(.cancel) == cancel, "\(situation.name)")
        var after = payment
        for event in cancel { try after.apply(event) }
        #expect([.cancelling, .cancelled].contains(after.status), "\(situation.name)")
      } else if case .outcomeUnknown(let step, _) = payment.state {
        #expect(throws: PaymentRefusal.outcomeUnknown(PaymentWork(step))) { try payment.decide(.cancel) }
      } else {
        #expect(throws: PaymentRefusal.notCancellable(situation.status)) { try payment.decide(.cancel) }
      }
      if let unknown = situation.unknown, unknown.step != .notify {
        #expect(throws: PaymentRefusal.outcomeUnknown(unknown)) { try payment.decide(.refund(nil)) }
      }
      let retries = possible.filter { if case .retried = $0 { true } else { false } }
      if retries.isEmpty {
        let refusal = situation.unknown.map(PaymentRefusal.outcomeUnknown) ?? .nothingToRetry(situation.status)
        #expect(throws: refusal) { try payment.decide(.retry) }
      } else {
        #expect(try payment.decide(.retry) == retries, "\(situation.name)")
      }
    }
  }

  @Test("nothing of a payment is retried while another step's outcome is unknown, and all of it after that")
  func retryBesideUnknown() throws {
    let events =
      completed + [
        .refundRequested(1, part), .refundRequested(2, rest), .refundFailed(1, reason: "no"),
        unknown(PaymentWork(refund: 2)),
      ]
    var payment = try #require(try Payment(events))
    #expect(throws: PaymentRefusal.outcomeUnknown(PaymentWork(refund: 2))) { try payment.decide(.retry) }
    try payment.apply(.outcomeResolved(PaymentWork(refund: 2), happened: false))
    #expect(try payment.decide(.retry) == [.retried(.refund, refund: 1)])
  }

  @Test("only an unknown outcome can be resolved, and it ends as if the other side had responded so")
  func resolutions() throws {
    let ends: [String: (happened: PaymentStatus, didNot: PaymentStatus)] = [
      "perhaps created": (.created, .declined), "perhaps created, and to be cancelled": (.cancelling, .cancelled),
      "perhaps settled": (.settled, .declined), "cancelled and perhaps settled": (.settled, .declined),
      "perhaps cancelled": (.cancelled, .failed),
      "perhaps notified": (.completed, .failed), "perhaps refunded in part": (.completed, .completed),
    ]
    #expect(Set(situations.filter { $0.unknown != nil }.map(\.name)) == Set(ends.keys))
    for situation in situations {
      let payment = try #require(try Payment(situation.events))
      for work in works {
        for resolution in [PaymentCommand.Resolution.happened(reference: "r3"), .didNotHappen] {
          guard let end = ends[situation.name], work == situation.unknown else {
            #expect(throws: PaymentRefusal.notUnknown(work, situation.status)) {
              try payment.decide(.resolve(work, resolution))
            }
            continue
          }
          var after = payment
          for event in try payment.decide(.resolve(work, resolution)) { try after.apply(event) }
          #expect(after.status == (resolution == .didNotHappen ? end.didNot : end.happened), "\(situation.name)")
          #expect(after.unknown.isEmpty)
          if work.step == .create, resolution != .didNotHappen { #expect(after.reference == "r3") }
          if work.step == .cancel, resolution == .didNotHappen {
            for event in try after.decide(.retry) { try after.apply(event) }
            #expect(after.nextStep == .cancel, "it is never settled instead")
          }
        }
      }
    }
    let perhapsCreated = try #require(try Payment([.initiated(id, amount), unknown(.create)]))
    #expect(throws: PaymentRefusal.referenceMissing) {
      try perhapsCreated.decide(.resolve(PaymentWork(.create), .happened()))
    }
  }

  @Test("a payment that is created after a request to cancel is cancelled at the PSP")
  func createdWhileCancelling() throws {
    var payment = try #require(try Payment([.initiated(id, amount), .cancellationRequested]))
    let events = try payment.decide(.recordCreated(reference: "r"))
    #expect(events == [.created(reference: "r"), .cancellationRequested])
    for event in events { try payment.apply(event) }
    #expect(payment.status == .cancelling && payment.nextStep == .cancel && payment.reference == "r")
    let untried = try #require(try Payment([.initiated(id, amount), .cancellationRequested]))
    #expect(try untried.decide(.recordNotCreated) == [.cancelled])
    let wanted = try #require(try Payment([.initiated(id, amount)]))
    #expect(throws: PaymentRefusal.notDue(.initiated)) { try wanted.decide(.recordNotCreated) }
  }

  @Test("a settlement that came first counts, whatever became of the cancellation")
  func settledAfterAll() throws {
    for end in [PaymentEvent.failed(step: .cancel, reason: "no"), unknown(.cancel)] {
      var payment = try #require(try Payment(created + [.cancellationRequested, end]))
      for event in try payment.decide(.recordSettled) { try payment.apply(event) }
      #expect(payment.status == .settled)
    }
  }

  @Test("a settlement that the PSP confirms after the cancellation was confirmed is for a person to decide, either way")
  func settledAndCancelled() throws {
    for end in [[.cancelled], [unknown(.cancel), .outcomeResolved(PaymentWork(.cancel), happened: true), .cancelled]] {
      for (resolution, status) in [
        (PaymentCommand.Resolution.happened(), PaymentStatus.settled), (.didNotHappen, .declined),
      ] {
        var payment = try #require(try Payment(created + [.cancellationRequested] + end))
        for event in try payment.decide(.recordSettled) { try payment.apply(event) }
        #expect(payment.status == .outcomeUnknown)
        #expect(payment.unknown.map(\.work) == [PaymentWork(.settle)])
        for event in try payment.decide(.resolve(PaymentWork(.settle), resolution)) { try payment.apply(event) }
        #expect(payment.status == status)
      }
    }
    let untried = try #require(try Payment([.initiated(id, amount), .cancelled]))
    #expect(throws: PaymentRefusal.notDue(.cancelled)) { try untried.decide(.recordSettled) }
  }

  @Test(
    "what the PSP confirms after it was declined or undone is for a person to decide, and the money is counted either way"
  )
  func contested() throws {
    let refunded = completed + [.refundRequested(1, part), .refundDeclined(1, reason: "no")]
    let cases: [([PaymentEvent], PaymentCommand, PaymentWork)] = [
      (
        [.initiated(id, amount), .declined(step: .create, reason: "no")], .recordCreated(reference: "r2"),
        PaymentWork(.create)
      ),
      (created + [.declined(step: .settle, reason: "no")], .recordSettled, PaymentWork(.settle)),
      (completed, .recordCancelled, PaymentWork(.settle)), (refunded, .recordRefunded(1), PaymentWork(refund: 1)),
    ]
    for (events, command, work) in cases {
      var payment = try #require(try Payment(events))
      for event in try payment.decide(command) { try payment.apply(event) }
      #expect(payment.unknown.map(\.work) == [work] && payment.status == .outcomeUnknown)
      #expect(throws: PaymentRefusal.outcomeUnknown(work)) { try payment.decide(.refund(nil)) }
      for event in try payment.decide(.resolve(work, .happened(reference: "r2"))) { try payment.apply(event) }
      #expect(payment.isDone(work))
    }
    // What was refunded instead leaves no room: it can only be reported.
    let twice = try #require(try Payment(refunded + [.refundRequested(2, amount), .refunded(2)]))
    #expect(throws: PaymentRefusal.notDue(.refunded)) { try twice.decide(.recordRefunded(1)) }
  }

  @Test("of several unknown outcomes those of money come first, and none is left out")
  func severalUnknown() throws {
    let payment = try #require(
      try Payment(
        settled + [
          .refundRequested(1, part), .refundRequested(2, rest), unknown(.notify), unknown(PaymentWork(refund: 2)),
          unknown(PaymentWork(refund: 1)),
        ]))
    #expect(
      payment.unknown.map(\.work) == [PaymentWork(refund: 1), PaymentWork(refund: 2), PaymentWork(.notify)])
    let row = PaymentRow(payment, version: 8, offset: 0, createdMicroseconds: 0, updatedMicroseconds: 0)
    #expect(row.trouble == .init(step: .refund, refund: 1, reason: "no response"))
    #expect(row.furtherUnknown == 2)
  }

  @Test("a refund is of all that is left, or of a part of it, in the payment's currency")
  func refunds() throws {
    var payment = try #require(try Payment(completed))
    #expect(try payment.decide(.refund(nil)) == [.refundRequested(1, amount)])
    #expect(throws: PaymentRefusal.otherCurrency(euro.currency, of: amount.currency)) {
      try payment.decide(.refund(euro))
    }
    for units in [0, -1, Int64.min] {
      #expect(throws: PaymentRefusal.refundNotPositive) {
        try payment.decide(.refund(Money(minorUnits: units, currency: amount.currency)))
      }
    }
    for units in [1235, Int64.max] {
      let asked = Money(minorUnits: units, currency: amount.currency)
      #expect(throws: PaymentRefusal.refundTooLarge(asked: asked, left: amount)) {
        try payment.decide(.refund(asked))
      }
    }
    for event in try payment.decide(.refund(part)) { try payment.apply(event) }
    #expect(throws: PaymentRefusal.refundTooLarge(asked: part, left: rest)) { try payment.decide(.refund(part)) }
    for event in try payment.decide(.refund(nil)) { try payment.apply(event) }
    #expect(payment.refundable.minorUnits == 0)
    #expect(throws: PaymentRefusal.nothingToRefund(.refunding)) { try payment.decide(.refund(nil)) }
  }

  @Test("a payment has a bounded number of refunds")
  func refundLimit() throws {
    var payment = try #require(try Payment(completed))
    let penny = Money(minorUnits: 1, currency: amount.currency)
    func refund(_ amount: Money?, declined: Bool) throws {
      for event in try payment.decide(.refund(amount)) { try payment.apply(event) }
      let number = payment.refunds.count
      try payment.apply(declined ? .refundDeclined(number, reason: "no") : .refunded(number))
    }
    for _ in 1...Payment.refundLimit { try refund(penny, declined: true) }
    // Declined ones don't use the limit up, and all that is left can always be refunded.
    for _ in 1...Payment.refundLimit { try refund(penny, declined: false) }
    #expect(throws: PaymentRefusal.tooManyRefunds(limit: Payment.refundLimit)) { try payment.decide(.refund(penny)) }
    while payment.refunds.count < Payment.refundRequestLimit { try refund(nil, declined: true) }
    #expect(throws: PaymentRefusal.tooManyRefunds(limit: Payment.refundRequestLimit)) {
      try payment.decide(.refund(nil))
    }
  }

  @Test("in random histories money moves at most once, never after an end, and is never refunded twice")
  func randomHistories() throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    for _ in 0..<20_000 {
      let units = Int64.random(in: 1...50, using: &generator)
      var payment = try Payment(.initiated(id, Money(minorUnits: units, currency: amount.currency)))
      var model = Model(units: units)
      for _ in 0..<Int.random(in: 1...40, using: &generator) {
        let command = randomCommand(&generator, currency: amount.currency)
        let before = payment
        guard let decided = try? payment.decide(command) else { continue }
        for event in decided {
          #expect(try PaymentEvent(type: event.type, payload: event.payload) == event)
          try payment.apply(event)
          model.apply(event)
        }
        #expect(payment != before, "a command that is not refused changes something")
        #expect(model.isSound, "\(command) after \(before)")
        #expect(payment.isMoneyMoved == model.isMoneyMoved)
        #expect(payment.refunded.minorUnits == model.back)
        #expect(payment.refundable.minorUnits == (model.isMoneyMoved ? units - model.back - model.maybeBack : 0))
      }
    }
  }

  /// A separate model of where the money is.
  private struct Model {
    var units: Int64
    var moves = 0
    var isOver = false
    var isMoneyMoved = false
    var back: Int64 = 0
    var maybeBack: Int64 = 0
    var amounts: [Int: Int64] = [:]
    var declined: Set<Int> = []
    var isSound = true

    mutating func apply(_ event: PaymentEvent) {
      // The PSP may say the opposite of what it has said before; a person decides then.
      if case .outcomeUnknown = event { isOver = false }
      if isOver { isSound = false }
      switch event {
      case .settled:
        moves += 1
        isMoneyMoved = true
      case .outcomeUnknown(let work, _):
        if work.step == .settle, isMoneyMoved {
          isMoneyMoved = false
          moves -= 1
        }
        if let number = work.refund, declined.remove(number) != nil { maybeBack += amounts[number] ?? .max }
      case .declined, .cancelled:
        isOver = true
        if isMoneyMoved { isSound = false }
      case .refundRequested(let number, let amount):
        if amounts[number] != nil || !isMoneyMoved { isSound = false }
        amounts[number] = amount.minorUnits
        maybeBack += amount.minorUnits
      case .refunded(let number):
        maybeBack -= amounts[number] ?? .max
        back += amounts[number] ?? .max
      case .refundDeclined(let number, _):
        maybeBack -= amounts[number] ?? .max
        declined.insert(number)
      default: break
      }
      if moves > 1 || back + maybeBack > units || maybeBack < 0 { isSound = false }
    }
  }

  private func randomCommand(_ generator: inout SeededGenerator, currency: Currency) -> PaymentCommand {
    let number = Int.random(in: 1...4, using: &generator)
    let step = PaymentStep.allCases.randomElement(using: &generator) ?? .create
    let work = step == .refund ? PaymentWork(refund: number) : PaymentWork(step)
    let units = Int64.random(in: -1...60, using: &generator)
    let commands: [PaymentCommand] = [
      .recordCreated(reference: "r"), .recordSettled, .recordCompleted, .recordCancelled,
      .recordCancellationRefused(reason: "no"), .recordRefunded(number), .decline(work, reason: "no"),
      .park(work, reason: "no"), .markUnknown(work, reason: "no"), .recordNotCreated,
      .resolve(work, .happened(reference: "r")), .resolve(work, .didNotHappen),
      .delay(delay(work, attempts: Int.random(in: 0...Int.max, using: &generator))), .cancel,
      .refund(Money(minorUnits: units, currency: currency)), .refund(nil), .retry, .recordCreated(reference: "r"),
      .recordSettled, .recordCompleted, .retry,
    ]
    return commands.randomElement(using: &generator) ?? .cancel
  }
}

@Suite("A payment's events on the log")
struct PaymentEventTests {
  @Test("every event is read back as written")
  func roundTrip() throws {
    for event in events {
      // No refund has the number 0.
      if [0].contains(event.work?.refund ?? 1) || event.refundNumber == 0 { continue }
      #expect(try PaymentEvent(type: event.type, payload: event.payload) == event)
    }
  }

  @Test("the initiation is written with the exact amount")
  func written() {
    #expect(
      String(decoding: PaymentEvent.initiated(id, amount).payload, as: UTF8.self)
        == #"{"paymentId":"\#(id)","amount":12.34,"currency":"GBP"}"#)
  }

  @Test("tries in events of earlier versions may have happened, as those don't say")
  func oldEvents() throws {
    func read(_ type: String, _ payload: String) throws -> PaymentEvent {
      try PaymentEvent(type: type, payload: Array(payload.utf8))
    }
    #expect(
      try read("PaymentFailed", #"{"step":"create","reason":"no"}"#)
        == .failed(step: .create, reason: "no", mayHaveHappened: true))
    #expect(
      try read("PaymentRefundFailed", #"{"refund":1,"reason":"no"}"#)
        == .refundFailed(1, reason: "no", mayHaveHappened: true))
    let delayed = #"{"step":"settle","until":5,"attempts":1,"ownFailures":0,"reason":"busy"}"#
    #expect(
      try read("PaymentDelayed", delayed)
        == .delayed(
          Delay(
            PaymentWork(.settle), untilMicroseconds: 5, attempts: 1, ownFailures: 0, reason: "busy",
            mayHaveHappened: true)))
    // Cancelled at once, as those versions did.
    #expect(try Payment([.initiated(id, amount), .cancelled])?.status == .cancelled)
    #expect(
      try Payment([.initiated(id, amount), .failed(step: .create, reason: "no"), .cancelled])?.status == .cancelled)
  }

  @Test("a step that is known to have had no effect is written so")
  func nothingHappened() throws {
    for event in [
      PaymentEvent.failed(step: .settle, reason: "no", mayHaveHappened: false),
      .refundFailed(2, reason: "no", mayHaveHappened: false),
      .delayed(
        Delay(
          PaymentWork(.create), untilMicroseconds: 1, attempts: 1, ownFailures: 0, reason: "no", mayHaveHappened: false)
      ),
    ] {
      #expect(try PaymentEvent(type: event.type, payload: event.payload) == event)
    }
  }

  @Test("members that a later version added are ignored")
  func unknownMembers() throws {
    let payload = Array(#"{"paymentReference":"r","since":"v2"}"#.utf8)
    #expect(try PaymentEvent(type: "PaymentCreated", payload: payload) == .created(reference: "r"))
  }

  @Test(
    "an unreadable event is refused with a reason",
    arguments: [
      ("PaymentInitiated", "{}"), ("PaymentInitiated", "garbage"), ("PaymentInitiated", ""),
      ("PaymentInitiated", #"{"paymentId":"x","amount":1,"currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":"1","currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":1.001,"currency":"GBP"}"#),
      ("PaymentInitiated", #"{"paymentId":"0af5e3a0-0000-4000-8000-000000000000","amount":1,"currency":"XXX"}"#),
      ("PaymentCreated", "{}"), ("PaymentCreated", "[]"), ("PaymentFailed", #"{"step":"x","reason":"y"}"#),
      ("PaymentRefunded", "{}"), ("PaymentRefundRequested", #"{"refund":0,"amount":1,"currency":"GBP"}"#),
      ("PaymentRetried", #"{"step":"refund"}"#), ("PaymentUnheardOf", "{}"), ("", "{}"),
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

  @Test("a repeated event has the same id; other content, another version or payment has another")
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

extension PaymentEvent {
  fileprivate var refundNumber: Int? {
    switch self {
    case .delayed(let delay): delay.work.refund
    case .outcomeUnknown(let work, _), .outcomeResolved(let work, _): work.refund
    case .refunded(let number), .refundDeclined(let number, _), .refundFailed(let number, _, _),
      .refundRequested(let number, _):
      number
    default: nil
    }
  }
}
