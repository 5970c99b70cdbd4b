import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// A consumer of creations on a real log, with a scripted provider.
@Suite("A step that may have been carried out")
struct UnknownOutcomeTests {
  private static var quick: StepConsumer.Options {
    var options = StepConsumer.Options()
    options.backoff = Backoff(base: .milliseconds(2), cap: .milliseconds(10))
    options.cursorInterval = .milliseconds(20)
    options.stopLimit = .milliseconds(100)
    return options
  }

  private static let money = Money(minorUnits: 100, currency: Currency.supported[0])

  /// Runs a consumer while `work` runs, and then stops it.
  private func consuming(
    _ log: PaymentLog, _ provider: FakeProvider, tries: Tries = .init(), _ options: StepConsumer.Options = quick,
    delays: any DelayedWork = NothingDelayed(), _ work: () async throws -> Void
  ) async throws {
    let consumer = StepConsumer(
      .create, log: log, delays: delays, provider: provider,
      breaker: Breaker(name: "fake", options: .init(failureLimit: 50, openDuration: .milliseconds(20))),
      retryStatus: RetryStatus(), health: Health(stores: []), tries: tries, options: options, logger: silent)
    let run = Task { try await consumer.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work())
    } catch {
      result = .failure(error)
    }
    consumer.stop()
    let didStop = try await endsByItself(run)
    #expect(didStop)
    try result.get()
  }

  private func wait(_ log: PaymentLog, _ id: PaymentID, _ status: PaymentStatus) async throws {
    try await eventually("it is \(status.rawValue)") { try log.load(id)?.payment.status == status }
  }

  /// The consumer has handled the log so far. Otherwise the first request for the step and its retry are in flight at
  /// once, and each counts as a possible try for the other.
  private func passOver(_ log: PaymentLog) async throws {
    let name = StepConsumer.cursorName(of: .create)
    _ = try await log.store.append(Append([], cursors: [CursorCommit(name: name, checkpoint: log.reader.endOffset)]))
  }

  private static let refusal = CallOutcome.refused(status: 422, reason: "422")

  @Test("a refusal counts after tries that had no effect, and otherwise leaves the outcome unknown")
  func refusals() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let tries = Tries()
      let causes = CallRetry.Cause.allCases.filter { $0 != .notMade }
      var ids: [PaymentID: CallRetry.Cause] = [:]
      for cause in causes { ids[try await log.initiate(Self.money)] = cause }
      let provider = FakeProvider { [ids] payment, attempt in
        attempt == 1 ? .retry(CallRetry(ids[payment.id] ?? .busy, reason: "first")) : Self.refusal
      }
      try await consuming(log, provider, tries: tries) {
        for (id, cause) in ids {
          try await wait(log, id, CallRetry(cause, reason: "").mayHaveHappened ? .outcomeUnknown : .declined)
        }
        try await eventually("decided tries are forgotten") { tries.count == 0 }
      }
      #expect(provider.calls.values.allSatisfy { $0 == 2 }, "what is unknown is not asked again")
    }
  }

  @Test("a success and a decline decide whatever happened before")
  func decided() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let (one, other) = (try await log.initiate(Self.money), try await log.initiate(Self.money))
      let provider = FakeProvider { payment, attempt in
        guard attempt > 2 else { return .retry(CallRetry(attempt == 1 ? .timeout : .inProgress, reason: "late")) }
        return payment.id == one ? .created : .declined(reason: "402")
      }
      try await consuming(log, provider) {
        try await wait(log, one, .created)
        try await wait(log, other, .declined)
      }
    }
  }

  @Test("a step that was due before the process started may have been tried; a later one was not")
  func restart() async throws {
    try await withStore { store in
      let before = try await PaymentLog(store).initiate(Self.money)
      let log = PaymentLog(store)
      let after = try await log.initiate(Self.money)
      let provider = FakeProvider { _, _ in Self.refusal }
      try await consuming(log, provider) {
        try await wait(log, before, .outcomeUnknown)
        try await wait(log, after, .declined)
      }
    }
  }

  @Test("a wait on the log says whether a try before it may have been carried out; an old one may")
  func delays() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let work = PaymentWork(.create)
      for (mayHaveHappened, status) in [(true, PaymentStatus.outcomeUnknown), (false, .declined)] {
        let id = try await log.initiate(Self.money)
        try await passOver(log)
        let delay = Delay(
          work, untilMicroseconds: 1, attempts: 1, ownFailures: 0, reason: "busy", mayHaveHappened: mayHaveHappened)
        for command in [PaymentCommand.delay(delay), .retry] {
          guard case .appended = try await log.request(command, of: id) else {
            Issue.record("refused")
            return
          }
        }
        #expect(try log.load(id)?.trace(of: work, openedAt: log.openedAt).mayHaveHappened == mayHaveHappened)
        #expect(try log.load(id)?.trace(of: work, openedAt: .max).mayHaveHappened == true, "after a restart")
        try await consuming(log, FakeProvider { _, _ in Self.refusal }) { try await wait(log, id, status) }
      }
    }
  }

  @Test("a step parked as not carried out starts clean when it is retried, also after a restart")
  func retried() async throws {
    try await withStore { store in
      var log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      _ = try await log.request(.park(PaymentWork(.create), reason: "no"), of: id)
      try await passOver(log)
      log = PaymentLog(store)
      #expect(try log.load(id)?.payment.state == .failed(step: .create, reason: "no", mayHaveHappened: false))
      _ = try await log.request(.retry, of: id)
      try await consuming(log, FakeProvider { _, _ in Self.refusal }) { try await wait(log, id, .declined) }
    }
  }

  @Test("on a restored log a step parked as not carried out may have been released and carried out since")
  func restored() async throws {
    try await withStore { store in
      var log = PaymentLog(store)
      let (released, cancelled) = (try await log.initiate(Self.money), try await log.initiate(Self.money))
      for id in [released, cancelled] { _ = try await log.request(.park(PaymentWork(.create), reason: "no"), of: id) }
      try await passOver(log)
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: true) == nil)
      // Also for the process after the next one.
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: false) == nil)
      #expect(try log.load(released)?.payment.state == .failed(step: .create, reason: "no", mayHaveHappened: true))
      _ = try await log.request(.retry, of: released)
      _ = try await log.request(.cancel, of: cancelled)
      // Not cancelled without a call: what may have been created is asked for again, and cancelled then.
      #expect(try log.load(cancelled)?.payment.nextStep == .create)
      let later = try await log.initiate(Self.money)
      try await consuming(log, FakeProvider { _, _ in Self.refusal }) {
        try await wait(log, released, .outcomeUnknown)
        try await wait(log, cancelled, .outcomeUnknown)
        try await wait(log, later, .declined)
      }
      // Parked after the restoration, a step is what it was.
      let parked = try await log.initiate(Self.money)
      _ = try await log.request(.park(PaymentWork(.create), reason: "no"), of: parked)
      #expect(try log.load(parked)?.payment.state == .failed(step: .create, reason: "no", mayHaveHappened: false))
    }
  }

  @Test("on a restored log a new refund may have the key of a lost one: no call once the PSP may have forgotten it")
  func restoredRefund() async throws {
    try await withStore { store in
      var log = PaymentLog(store)
      let work = PaymentWork(refund: 1)
      func settled() async throws -> PaymentID {
        let id = try await log.initiate(Self.money)
        for command in [PaymentCommand.recordCreated(reference: "r"), .recordSettled, .recordCompleted] {
          guard case .appended = try await log.request(command, of: id) else { throw CancellationError() }
        }
        return id
      }
      let old = try await settled()
      let end = log.reader.endOffset
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: true) == nil)
      let new = try await settled()
      for id in [old, new] { _ = try await log.request(.refund(nil), of: id) }
      func trace(_ id: PaymentID, _ work: PaymentWork, _ keyLifetime: Duration?) throws -> StepTrace {
        log.trace(of: work, in: try #require(try log.load(id)), keyLifetime: keyLifetime)
      }
      for lifetime in [nil, Duration.seconds(86_400)] {
        let lost = try trace(old, work, lifetime)
        #expect(lost.mayHaveHappened)
        #expect(lost.asked?.offset == end - 1, "its key is as old as the last event of the backup may be")
        #expect(try !trace(new, work, lifetime).mayHaveHappened, "the payment is younger than the backup")
      }
      #expect(try !trace(old, work, .zero).mayHaveHappened, "the PSP has forgotten what was lost")
      // What a person says of one refund says nothing about the next one.
      _ = try await log.request(.markUnknown(work, reason: "old"), of: old)
      _ = try await log.request(.resolve(work, .didNotHappen), of: old)
      _ = try await log.request(.refund(nil), of: old)
      #expect(try trace(old, PaymentWork(refund: 2), .seconds(86_400)).asked?.offset == end - 1)

      // Lost and restored again: the first backup's end counts.
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: true) == nil)
      let again = try trace(old, PaymentWork(refund: 2), .seconds(86_400))
      #expect(again.mayHaveHappened && again.asked?.offset == end - 1)
      _ = try await log.request(.markUnknown(PaymentWork(refund: 2), reason: "old"), of: old)
      _ = try await log.request(.resolve(PaymentWork(refund: 2), .didNotHappen), of: old)
      _ = try await log.request(.refund(nil), of: old)
      let third = try trace(old, PaymentWork(refund: 3), .seconds(86_400))
      #expect(third.mayHaveHappened && third.asked?.offset == end - 1)
    }
  }

  @Test("on a restored log a payment whose creation is repeated may be settled already, since the backup's end")
  func restoredSettlement() async throws {
    try await withStore { store in
      var log = PaymentLog(store)
      let old = try await log.initiate(Self.money)
      let end = log.reader.endOffset
      log = PaymentLog(store)
      #expect(try await log.noteRestorations(isRestored: true) == nil)
      let new = try await log.initiate(Self.money)
      for id in [old, new] { _ = try await log.request(.recordCreated(reference: "r"), of: id) }
      let settle = PaymentWork(.settle)
      func trace(_ id: PaymentID) throws -> StepTrace {
        log.trace(of: settle, in: try #require(try log.load(id)), keyLifetime: .zero)
      }
      let doubtful = try trace(old)
      #expect(doubtful.mayHaveHappened && doubtful.asked?.offset == end - 1)
      #expect(try !trace(new).mayHaveHappened)
      // Refused, or asked for again after its key is forgotten, it is unknown.
      #expect(
        StepRule.command(
          for: .refused(status: 422, reason: "422"), of: settle, mayHaveHappened: doubtful.mayHaveHappened,
          isExhausted: true) == .markUnknown(settle, reason: "422, and an earlier try may have been carried out"))
    }
  }

  @Test("a step that fails for a reason of its own, and may have been carried out, is unknown and not parked")
  func exhausted() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      let provider = FakeProvider { payment, _ in
        payment.id == id ? .retry(CallRetry(.timeout, reason: "late")) : .created
      }
      var options = Self.quick
      options.ownFailureLimit = 3
      try await consuming(log, provider, options, delays: DelaysOfLog(log: log)) {
        while try log.load(id)?.payment.status != .outcomeUnknown {
          try await wait(log, try await log.initiate(Self.money), .created)
        }
      }
    }
  }

  @Test("no second call is made under a key that the PSP may have forgotten, and the outcome is unknown")
  func oldKey() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      let provider = FakeProvider { _, _ in .retry(CallRetry(.timeout, reason: "late")) }
      var options = Self.quick
      options.keyLifetime = .milliseconds(1)
      options.backoff = Backoff(base: .milliseconds(20))
      try await consuming(log, provider, options) { try await wait(log, id, .outcomeUnknown) }
      #expect(provider.callCount == 1)
    }
  }

  @Test("the late response to a call in flight decides an unknown outcome")
  func late() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      let provider = FakeProvider { payment, _ in
        _ = try? await log.request(.markUnknown(PaymentWork(.create), reason: "?"), of: payment.id)
        return .created
      }
      try await consuming(log, provider) { try await wait(log, id, .created) }
    }
  }

  // MARK: - Cancelling a payment that may be created

  @Test("a cancellation before any call for the creation needs no call")
  func cancelledUntried() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      _ = try await log.request(.cancel, of: id)
      let provider = FakeProvider { _, _ in .created }
      try await consuming(log, provider) { try await wait(log, id, .cancelled) }
      #expect(provider.callCount == 0)
    }
  }

  @Test("after a cancellation while the creation is in flight, the outcome of the creation counts", arguments: 0..<5)
  func cancelledInFlight(_ end: Int) async throws {
    let ends: [(CallOutcome, PaymentStatus)] = [
      (.created, .cancelling), (.declined(reason: "402"), .declined), (Self.refusal, .declined),
      (.unreadable(reason: "?"), .outcomeUnknown), (.retry(CallRetry(.timeout, reason: "late")), .cancelling),
    ]
    let (outcome, status) = ends[end]
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      let provider = FakeProvider { payment, attempt in
        guard attempt == 1 else { return .created }
        _ = try? await log.request(.cancel, of: payment.id)
        return outcome
      }
      try await consuming(log, provider) {
        try await wait(log, id, status)
        guard status == .cancelling else { return }
        // The payment that the PSP has created must be cancelled there.
        try await eventually("it has a reference") { try log.load(id)?.payment.reference == "r" }
        let loaded = try #require(try log.load(id))
        #expect(loaded.payment.nextStep == .cancel && loaded.payment.status == .cancelling)
        #expect(loaded.events.last?.type == "PaymentCancellationRequested", "the consumer of cancellations is asked")
      }
    }
  }

  @Test("after a cancellation between two tries, the creation is retried first")
  func cancelledBetween() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      var options = Self.quick
      options.backoff = Backoff(base: .milliseconds(300))
      let provider = FakeProvider { _, attempt in
        attempt == 1 ? .retry(CallRetry(.serverError, reason: "500")) : .created
      }
      try await consuming(log, provider, options) {
        try await eventually("it was tried") { provider.callCount == 1 }
        _ = try await log.request(.cancel, of: id)
        try await eventually("it has a reference") { try log.load(id)?.payment.reference == "r" }
        #expect(try log.load(id)?.payment.nextStep == .cancel)
      }
    }
  }

  @Test("after a cancellation between two tries that can't have reached the PSP, no further call is made")
  func cancelledUnreached() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let id = try await log.initiate(Self.money)
      var options = Self.quick
      options.backoff = Backoff(base: .milliseconds(300))
      let lateCalls = Atomic<Int>(0)
      let provider = FakeProvider { payment, _ in
        if payment.isCancellationAsked { lateCalls.add(1, ordering: .relaxed) }
        return .outage
      }
      try await consuming(log, provider, options) {
        try await eventually("it was tried") { provider.callCount == 1 }
        _ = try await log.request(.cancel, of: id)
        try await wait(log, id, .cancelled)
      }
      #expect(lateCalls.load(ordering: .relaxed) == 0)
    }
  }

  @Test("after a cancellation before a restart, the creation is retried after it")
  func cancelledBeforeRestart() async throws {
    try await withStore { store in
      let before = PaymentLog(store)
      let id = try await before.initiate(Self.money)
      _ = try await before.request(.cancel, of: id)
      let log = PaymentLog(store)
      try await consuming(log, FakeProvider { _, _ in .created }) {
        try await eventually("it has a reference") { try log.load(id)?.payment.reference == "r" }
        #expect(try log.load(id)?.payment.nextStep == .cancel)
      }
    }
  }

  @Test("a step that is requested again while its call is in flight is not called beside it")
  func oneCallAtATime() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let isOpen = Mutex(false)
      let provider = FakeProvider { _, _ in
        while !isOpen.withLock({ $0 }), !Task.isCancelled { try? await Task.sleep(for: .milliseconds(2)) }
        return .created
      }
      let id = try await parts.initiate(1)[0]
      try await parts.consuming(provider) { consumer in
        try await eventually("it is called") { provider.callCount == 1 }
        // As after a wait that a person has ended.
        for _ in 1...8 {
          let events: [PaymentEvent] = [
            .delayed(.init(PaymentWork(.create), untilMicroseconds: 1, attempts: 1, ownFailures: 0, reason: "")),
            .retried(.create, refund: nil),
          ]
          _ = try await store.append(
            Append(events.map { NewEvent(stream: id.stream, type: $0.type, payload: $0.payload) }))
        }
        try await eventually("all are read") { await consumer.status.unfinished == 9 }
        try await Task.sleep(for: .milliseconds(50))
        #expect(provider.callCount == 1)
        isOpen.withLock { $0 = true }
        try await parts.wait(for: [id], .created)
        try await eventually("none is left") { await consumer.status.unfinished == 0 }
      }
      #expect(provider.callCount == 1 && provider.mostInFlight == 1)
    }
  }

  @Test("a parked creation is cancelled at once, or retried first if it may have been carried out")
  func cancelledGivenUp() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let (clean, old) = (try await log.initiate(Self.money), try await log.initiate(Self.money))
      _ = try await log.request(.park(PaymentWork(.create), reason: "no"), of: clean)
      // As earlier versions wrote it.
      let event = NewEvent(
        stream: old.stream, type: "PaymentFailed", payload: Array(#"{"step":"create","reason":"no"}"#.utf8))
      _ = try await store.append(Append(event))
      #expect(try await log.request(.cancel, of: clean) == .appended([.cancelled], version: 3))
      _ = try await log.request(.cancel, of: old)
      let provider = FakeProvider { _, _ in .created }
      try await consuming(log, provider) {
        try await eventually("it has a reference") { try log.load(old)?.payment.reference == "r" }
      }
      #expect(Set(provider.calls.keys) == [old])
    }
  }
}

@Suite("Tries of this process")
struct TriesTests {
  private let id = PaymentID.random()
  private let work = PaymentWork(.settle)

  @Test("a possible try is remembered until it is decided, and only for its own step")
  func remembered() {
    let tries = Tries()
    #expect(!tries.begin(id, work))
    tries.end(id, work, mayHaveHappened: false)
    #expect(tries.count == 0)
    #expect(!tries.begin(id, work))
    tries.end(id, work, mayHaveHappened: true)
    #expect(tries.mayHaveHappened(id, work))
    #expect(!tries.mayHaveHappened(id, PaymentWork(.create)) && !tries.mayHaveHappened(.random(), work))
    #expect(tries.begin(id, work))
    tries.forget(id, work)
    tries.end(id, work, mayHaveHappened: false)
    #expect(tries.count == 0)
  }

  @Test("a try beside another counts the other as possibly carried out")
  func beside() {
    let tries = Tries()
    #expect(!tries.begin(id, work))
    #expect(!tries.mayHaveHappenedBeside(id, work))
    #expect(tries.begin(id, work))
    #expect(tries.mayHaveHappenedBeside(id, work))
    tries.end(id, work, mayHaveHappened: false)
    tries.end(id, work, mayHaveHappened: false)
    #expect(tries.count == 0)
  }
}
