import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// The consumer of `PaymentInitiated` on a real log, with a scripted provider.
@Suite("A consumer")
struct StepConsumerTests {
  private static let cursor = ConsumerParts.cursor
  private static let quick = ConsumerParts.quick
  private typealias Parts = ConsumerParts

  @Test("carries out its step once for each payment and moves its checkpoint to the end")
  func carriesOut() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let provider = FakeProvider { _, _ in .created }
      let before = try await parts.initiate(20)
      try await parts.consuming(provider) { _ in
        let after = try await parts.initiate(20)
        try await parts.wait(for: before + after, .created)
        try await eventually("the cursor is at the end") {
          try store.reader.cursor(Self.cursor) == store.reader.endOffset
        }
      }
      #expect(provider.calls.count == 40)
      #expect(provider.callCount == 40)
    }
  }

  @Test("a payment that fails is retried until it succeeds, and is shown waiting")
  func retries() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let provider = FakeProvider { _, attempt in attempt < 8 ? .busy : .created }
      let ids = try await parts.initiate(3)
      try await parts.consuming(provider) { _ in
        try await eventually("it is shown") { parts.retryStatus[ids[0]]?.reason == "busy" }
        try await parts.wait(for: ids, .created)
        try await eventually("it is not shown any more") { ids.allSatisfy { parts.retryStatus[$0] == nil } }
      }
      #expect(provider.calls == Dictionary(uniqueKeysWithValues: ids.map { ($0, 8) }))
    }
  }

  @Test("payments that fail hold up neither others nor call slots, and hold the checkpoint")
  func failuresHoldUpNobody() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let failing = try await parts.initiate(10)
      let others = try await parts.initiate(200)
      let provider = FakeProvider { payment, _ in failing.contains(payment.id) ? .busy : .created }
      var options = Self.quick
      options.callLimit = 2
      options.backoff = Backoff(base: .seconds(3_600), cap: .seconds(3_600))
      try await parts.consuming(provider, options) { consumer in
        try await parts.wait(for: others, .created)
        try await eventually("ten wait") { await consumer.status.waiting == 10 }
        #expect(await consumer.status.nextOffset == 0)
      }
      #expect(provider.mostInFlight <= 2)
      #expect(try store.reader.cursor(Self.cursor) ?? 0 == 0)
      // The next start makes calls for unfinished payments only.
      let second = FakeProvider { _, _ in .created }
      try await parts.consuming(second) { _ in
        try await parts.wait(for: failing, .created)
        try await eventually("the cursor is at the end") {
          try store.reader.cursor(Self.cursor) == store.reader.endOffset
        }
      }
      #expect(Set(second.calls.keys) == Set(failing))
    }
  }

  @Test("hundreds of calls are in flight at once, but no more than the limit")
  func concurrency() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      var options = Self.quick
      options.slowAfter = .seconds(3_600)
      let isOpen = Mutex(false)
      let provider = FakeProvider { _, _ in
        // All wait until the test has seen the limit of calls in flight.
        while !isOpen.withLock({ $0 }), !Task.isCancelled { try? await Task.sleep(for: .milliseconds(2)) }
        return .created
      }
      let ids = try await parts.initiate(400)
      try await parts.consuming(provider, options) { _ in
        try await eventually("the limit is reached") { provider.callCount == 256 }
        isOpen.withLock { $0 = true }
        try await parts.wait(for: ids, .created)
      }
      #expect(provider.mostInFlight == 256)
    }
  }

  @Test("its checkpoint moves past events that request nothing of it")
  func skips() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      try await parts.consuming(FakeProvider { _, _ in .created }) { _ in
        for round in 1...3 {
          let events = (1...500).map { NewEvent(stream: "other:\(round):\($0)", type: "Other", payload: []) }
          _ = try await store.append(Append(events))
          try await eventually("the cursor is at the end") {
            try store.reader.cursor(Self.cursor) == UInt64(500 * round)
          }
        }
      }
    }
  }

  @Test("an impossible call parks its payment with the reason, and the others proceed")
  func impossible() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let ids = try await parts.initiate(20)
      let refused = ids[3]
      let provider = FakeProvider { payment, _ in payment.id == refused ? .impossible(reason: "no") : .created }
      try await parts.consuming(provider) { _ in
        try await parts.wait(for: ids.filter { $0 != refused }, .created)
        try await parts.wait(for: [refused], .failed)
      }
      #expect(
        try parts.log.load(refused)?.payment.state == .failed(step: .create, reason: "no", mayHaveHappened: false))
      #expect(provider.callCount == 20)
    }
  }

  @Test("a declined call declines its payment, and the others proceed")
  func declined() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let ids = try await parts.initiate(20)
      let provider = FakeProvider { payment, _ in payment.id == ids[3] ? .declined(reason: "no") : .created }
      try await parts.consuming(provider) { _ in
        try await parts.wait(for: ids.filter { $0 != ids[3] }, .created)
        try await parts.wait(for: [ids[3]], .declined)
      }
      #expect(provider.callCount == 20)
    }
  }

  @Test("a payment that keeps failing while others succeed is parked, and proceeds when a person retries it")
  func ownFailures() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let poisoned = try await parts.initiate(1)[0]
      let isMended = Mutex(false)
      let provider = FakeProvider { payment, _ in
        payment.id == poisoned && !isMended.withLock { $0 } ? .busy : .created
      }
      var options = Self.quick
      options.ownFailureLimit = 5
      try await parts.consuming(provider, options) { _ in
        // While no other calls, it may be an outage, during which payments wait.
        try await eventually("it is tried often") { provider.calls[poisoned] ?? 0 > 20 }
        #expect(try parts.states([poisoned]) == [.initiated])
        while try parts.states([poisoned]) != [.failed] {
          let others = try await parts.initiate(1)
          try await parts.wait(for: others, .created)
        }
        #expect(try parts.log.load(poisoned)?.payment.parked.first?.reason.contains("busy") == true)
        isMended.withLock { $0 = true }
        #expect(
          try await parts.log.request(.retry, of: poisoned) == .appended([.retried(.create, refund: nil)], version: 3))
        try await parts.wait(for: [poisoned], .created)
        try await eventually("the cursor is at the end") {
          try store.reader.cursor(Self.cursor) == store.reader.endOffset
        }
      }
    }
  }

  @Test("after a conflicting append during the call, the payment is read again and the step recorded")
  func conflictRetried() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let provider = FakeProvider { payment, _ in
        // Changes nothing that is due.
        let delayed = PaymentEvent.delayed(
          Delay(PaymentWork(.create), untilMicroseconds: 1, attempts: 1, ownFailures: 0, reason: "busy"))
        let note = NewEvent(stream: payment.id.stream, type: delayed.type, payload: delayed.payload)
        _ = try? await store.append(Append(note))
        return .created
      }
      let ids = try await parts.initiate(5)
      try await parts.consuming(provider) { _ in try await parts.wait(for: ids, .created) }
      for id in ids {
        #expect(
          try store.reader.stream(id.stream).map(\.type) == ["PaymentInitiated", "PaymentDelayed", "PaymentCreated"])
      }
      #expect(provider.callCount == 5)
    }
  }

  @Test("a step that was recorded during the call is not recorded twice")
  func conflictDone() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let log = parts.log
      let provider = FakeProvider { payment, _ in
        _ = try? await log.record(
          .recordCreated(reference: "other"), on: payment.id, cursor: CursorCommit(name: "other", checkpoint: 0))
        return .created
      }
      let ids = try await parts.initiate(5)
      try await parts.consuming(provider) { _ in
        try await eventually("the cursor is at the end") {
          try store.reader.cursor(Self.cursor) == store.reader.endOffset
        }
      }
      for id in ids {
        #expect(try store.reader.stream(id.stream).map(\.type) == ["PaymentInitiated", "PaymentCreated"])
        #expect(try log.load(id)?.payment.reference == "other")
      }
    }
  }

  @Test("an outage opens the breaker: calls stop, payments wait, and all complete when it is over")
  func outage() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let isDown = Mutex(true)
      // Failed calls, by the breaker's state when they were admitted.
      let calls = Mutex((closed: 0, open: 0, trials: 0))
      let provider = FakeProvider { [breaker = parts.breaker] _, _ in
        guard isDown.withLock({ $0 }) else { return .created }
        calls.withLock {
          switch breaker.state {
          case .closed: $0.closed += 1
          case .open: $0.open += 1
          case .trying: $0.trials += 1
          }
        }
        return .outage
      }
      let ids = try await parts.initiate(50)
      var options = Self.quick
      options.callLimit = 1
      try await parts.consuming(provider, options) { _ in
        try await eventually("trials are made") { calls.withLock { $0.trials } >= 3 }
        #expect(calls.withLock { $0.closed == 5 && $0.open == 0 }, "five failures, and trials from then on")
        isDown.withLock { $0 = false }
        try await parts.wait(for: ids, .created)
      }
      #expect(parts.breaker.state == .closed)
    }
  }

  @Test("one trial at a time goes out while the breaker is open")
  func trials() async throws {
    try await withStore { store in
      var parts = Parts(log: PaymentLog(store))
      parts.breaker = Breaker(
        name: "fake", options: .init(failureLimit: 5, openDuration: .milliseconds(20), quietDuration: .zero))
      let isOpen = Mutex(false)
      let most = Mutex((now: 0, most: 0))
      let provider = FakeProvider { [breaker = parts.breaker] _, _ in
        guard breaker.state == .trying else { return .outage }
        isOpen.withLock { $0 = true }
        most.withLock { $0 = ($0.now + 1, max($0.most, $0.now + 1)) }
        await Task.yield()
        most.withLock { $0.now -= 1 }
        return .outage
      }
      _ = try await parts.initiate(50)
      try await parts.consuming(provider) { _ in
        let before = provider.callCount
        try await eventually("several trials are made") { provider.callCount >= before + 60 && isOpen.withLock { $0 } }
      }
      #expect(most.withLock { $0.most } == 1)
    }
  }

  @Test("events that it can't read are counted and skipped; nothing after them is lost")
  func nonsense() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let nonsense = [
        NewEvent(stream: "no payment", type: "PaymentInitiated", payload: []),
        NewEvent(stream: PaymentID.random().stream, type: "PaymentInitiated", payload: Array("garbage".utf8)),
        NewEvent(stream: PaymentID.random().stream, type: "PaymentInitiated", payload: Array("{}".utf8)),
        NewEvent(stream: PaymentID.random().stream, type: "Unheard of", payload: [0xFF]),
      ]
      _ = try await store.append(Append(nonsense))
      let ids = try await parts.initiate(3)
      try await parts.consuming(FakeProvider { _, _ in .created }) { _ in
        try await parts.wait(for: ids, .created)
        try await eventually("the cursor is at the end") {
          try store.reader.cursor(Self.cursor) == store.reader.endOffset
        }
      }
      #expect(parts.health.skippedEventCount == 1, "what can't be read is counted by the completion consumer")
    }
  }

  @Test("the completion consumer counts every unreadable event once")
  func completion() async throws {
    try await withStore { store in
      let health = Health(stores: [])
      let consumer = CompletionConsumer(
        log: PaymentLog(store), health: health, cursorInterval: .milliseconds(10), logger: silent)
      let events = (0..<10).map { NewEvent(stream: "s\($0)", type: "Unheard of", payload: []) }
      _ = try await store.append(Append(events))
      for round in 1...2 {
        let run = Task { try await consumer.run() }
        try await eventually("the cursor is at the end") { try store.reader.cursor("payment-completed") == 10 }
        run.cancel()
        try await run.value
        #expect(health.skippedEventCount == 10, "round \(round)")
      }
    }
  }

  @Test("the completion consumer commits while it waits for events, and at its end")
  func completionCommits() async throws {
    try await withStore { store in
      let events = (0..<10).map { NewEvent(stream: "s\($0)", type: "Unheard of", payload: []) }
      _ = try await store.append(Append(events))
      func run(_ interval: Duration, _ registry: ConsumerRegistry = .init()) -> Task<Void, any Error> {
        let consumer = CompletionConsumer(
          log: PaymentLog(store), health: Health(stores: []), registry: registry, cursorInterval: interval,
          logger: silent)
        return Task { try await consumer.run() }
      }
      // The commit is not due yet when all events are read.
      let waiting = run(.milliseconds(300))
      try await eventually("the cursor is at the end") { try store.reader.cursor("payment-completed") == 10 }
      waiting.cancel()
      try await waiting.value
      _ = try await store.append(Append(events))
      let registry = ConsumerRegistry()
      let ending = run(.seconds(86_400), registry)
      try await eventually("all are read") { registry.completion == .init(checkpoint: 10, nextOffset: 20) }
      #expect(try store.reader.cursor("payment-completed") == 10)
      ending.cancel()
      try await ending.value
      #expect(try store.reader.cursor("payment-completed") == 20)
    }
  }

  @Test("at a stop it cancels a call that does not end, and the next start repeats it")
  func stops() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let ids = try await parts.initiate(3)
      let stuck = FakeProvider { _, _ in
        try? await Task.sleep(for: .seconds(3_600))
        return .outage
      }
      try await parts.consuming(stuck) { _ in
        try await eventually("the calls are in flight") { stuck.callCount == 3 }
      }
      #expect(try parts.states(ids) == [.initiated, .initiated, .initiated])
      #expect(parts.breaker.state == .closed, "what we cut off says nothing about them")
      let second = FakeProvider { _, _ in .created }
      try await parts.consuming(second) { _ in try await parts.wait(for: ids, .created) }
      #expect(second.callCount == 3)
    }
  }

  @Test("a full window stops reading, which continues when there is room")
  func fullWindow() async throws {
    try await withStore { store in
      let parts = Parts(log: PaymentLog(store))
      let ids = try await parts.initiate(100)
      let isDown = Mutex(true)
      let provider = FakeProvider { _, _ in isDown.withLock { $0 } ? .busy : .created }
      var options = Self.quick
      options.unfinishedLimit = 10
      try await parts.consuming(provider, options) { consumer in
        try await eventually("ten wait") { await consumer.status.waiting == 10 }
        #expect(provider.calls.count == 10)
        isDown.withLock { $0 = false }
        try await parts.wait(for: ids, .created)
      }
    }
  }

  @Test("a payment that fails alone opens the breaker for itself; the next payment passes at once")
  func poisonedAlone() async throws {
    try await withStore { store in
      var parts = Parts(log: PaymentLog(store))
      parts.breaker = Breaker(
        name: "fake", options: .init(failureLimit: 5, openDuration: .seconds(3_600), quietDuration: .zero))
      let poisoned = try await parts.initiate(1)[0]
      let provider = FakeProvider { payment, _ in payment.id == poisoned ? .outage : .created }
      try await parts.consuming(provider) { [parts] _ in
        for _ in 0..<3 {
          try await eventually("the breaker opens") { if case .open = parts.breaker.state { true } else { false } }
          let others = try await parts.initiate(3)
          try await parts.wait(for: others, .created)
        }
      }
      #expect(try parts.states([poisoned]) == [.initiated])
    }
  }

  private static func busy(_ seconds: Int) -> CallOutcome {
    .retry(CallRetry(.busy, reason: "busy", after: .seconds(seconds)))
  }

  @Test("a long wait goes on the log: the checkpoint moves on, and a restart neither forgets nor shortens the wait")
  func delayOverRestart() async throws {
    try await ConsumerParts.withDelays { parts, options in
      let waiting = try await parts.initiate(1)[0]
      let others = try await parts.initiate(20)
      let provider = FakeProvider { payment, _ in payment.id == waiting ? Self.busy(3_600) : .created }
      let start = Clock.microseconds()
      try await parts.consuming(provider, options) { consumer in
        try await parts.wait(for: others, .created)
        try await eventually("the cursor is at the end") {
          try parts.log.reader.cursor(Self.cursor) == parts.log.reader.endOffset
        }
        #expect(await consumer.status.unfinished == 0)
      }
      let delay = try #require(try parts.log.load(waiting)?.payment.delays.first)
      #expect(delay.attempts == 1 && delay.reason == "busy" && delay.untilMicroseconds >= start + 3_600_000_000)
      // The next process, in which the test controls the time.
      let passed = Mutex(Duration.zero)
      var next = parts
      next.log = PaymentLog(parts.log.store, now: { .now + passed.withLock { $0 } }) {
        [store = parts.log.store] append async throws(LogStoreError) in try await store.append(append)
      }
      let second = FakeProvider { _, _ in .created }
      try await next.consuming(second, options) { [next] _ in
        passed.withLock { $0 = .seconds(3_000) }
        let between = try await next.initiate(20)
        try await next.wait(for: between, .created)
        #expect(second.calls[waiting] == nil && second.callCount == 20)
        passed.withLock { $0 = .seconds(3_600) }
        try await next.wait(for: [waiting], .created)
      }
      #expect(second.calls[waiting] == 1)
      let events = try parts.log.reader.stream(waiting.stream)
      #expect(events.map(\.type) == ["PaymentInitiated", "PaymentDelayed", "PaymentCreated"])
      #expect(try parts.log.load(waiting)?.payment.delays == [])
    }
  }

  @Test("waits follow each other, each counted, until the payment is parked")
  func delaysUntilGivenUp() async throws {
    try await ConsumerParts.withDelays { parts, options in
      let waiting = try await parts.initiate(1)[0]
      let provider = FakeProvider { payment, _ in payment.id == waiting ? Self.busy(1) : .created }
      var options = options
      options.ownFailureLimit = 2
      try await parts.consuming(provider, options) { _ in
        while try parts.states([waiting]) != [.failed] {
          let others = try await parts.initiate(1)
          try await parts.wait(for: others, .created)
        }
      }
      let events = try #require(try parts.log.load(waiting)).events
      #expect(events.map(\.type).dropLast().dropFirst().allSatisfy { $0 == "PaymentDelayed" } && events.count >= 4)
      #expect(try parts.log.load(waiting)?.payment.parked.first?.reason.contains("busy") == true)
    }
  }

  @Test("a person can end a wait")
  func delayEnded() async throws {
    try await ConsumerParts.withDelays { parts, options in
      let waiting = try await parts.initiate(1)[0]
      let provider = FakeProvider { _, attempt in attempt == 1 ? Self.busy(3_600) : .created }
      try await parts.consuming(provider, options) { _ in
        try await eventually("it waits") { try parts.log.load(waiting)?.payment.delays.isEmpty == false }
        let retried = try await parts.log.request(.retry, of: waiting)
        #expect(retried == .appended([.retried(.create, refund: nil)], version: 3))
        try await parts.wait(for: [waiting], .created)
      }
      #expect(provider.callCount == 2)
    }
  }

  /// A scripted source of due work.
  private struct DueList: DelayedWork {
    var items: @Sendable () throws -> [(id: PaymentID, delay: Delay)]

    func due(
      _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
    ) async throws -> [(id: PaymentID, delay: Delay)] { try items().filter { $0.delay.didTimeOut == didTimeOut } }
  }

  @Test("a wait from the list that is not the payment's present one leads to no call")
  func staleDelays() async throws {
    try await withStore { store in
      var parts = Parts(log: PaymentLog(store))
      let ids = try await parts.initiate(2)
      let told = Atomic<Int>(0)
      @Sendable func delay(_ until: UInt64) -> Delay {
        Delay(PaymentWork(.create), untilMicroseconds: until, attempts: 1, ownFailures: 0, reason: "busy")
      }
      // One payment has a later wait by now, the other is done.
      let later = delay(Clock.microseconds() + 3_600_000_000)
      _ = try await parts.log.record(.delay(later), on: ids[0], cursor: CursorCommit(name: "other", checkpoint: 0))
      _ = try await parts.log.record(
        .recordCreated(reference: "r"), on: ids[1], cursor: CursorCommit(name: "other", checkpoint: 0))
      parts.delays = DueList {
        told.add(1, ordering: .relaxed)
        return ids.map { ($0, delay(1)) }
      }
      let provider = FakeProvider { _, _ in .created }
      try await parts.consuming(provider) { _ in
        try await eventually("it was loaded often") { told.load(ordering: .relaxed) > 10 }
        let others = try await parts.initiate(3)
        try await parts.wait(for: others, .created)
      }
      #expect(provider.calls.keys.allSatisfy { !ids.contains($0) })
      #expect(try parts.states(ids) == [.initiated, .created])
    }
  }

  @Test("a list that can't be read is a fault in health, and holds up nothing else")
  func unreadableDelays() async throws {
    try await withStore { store in
      var parts = Parts(log: PaymentLog(store))
      let isBroken = Atomic<Bool>(true)
      parts.delays = DueList {
        if isBroken.load(ordering: .relaxed) { throw ProjectionError(path: "list", reason: "broken") }
        return []
      }
      try await parts.consuming(FakeProvider { _, _ in .created }) { [parts] _ in
        try await eventually("it is reported") { parts.health.problems.contains { $0.contains("what is due") } }
        try await parts.wait(for: try await parts.initiate(3), .created)
        isBroken.store(false, ordering: .relaxed)
        try await eventually("it is over") { parts.health.problems.isEmpty }
      }
    }
  }
}
