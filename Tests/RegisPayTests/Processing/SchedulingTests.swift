import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// A payment that is held up must not hold up another.
@Suite("A consumer's scheduling")
struct SchedulingTests {
  private static let timeout = CallOutcome.retry(CallRetry(.timeout, reason: "no response"))
  private static let wrongAddress = CallOutcome.retry(CallRetry(.misconfigured, reason: "404"))

  private static func atEnd(_ log: PaymentLog) throws -> Bool {
    try log.reader.cursor(ConsumerParts.cursor) == log.reader.endOffset
  }

  @Test("while more calls hang than there are slots, other payments complete")
  func hangingCalls() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let hanging = try await parts.initiate(20)
      let isBack = Mutex(false)
      let provider = FakeProvider { payment, _ in
        while hanging.contains(payment.id), !isBack.withLock({ $0 }), !Task.isCancelled {
          try? await Task.sleep(for: .milliseconds(2))
        }
        return .created
      }
      var options = ConsumerParts.quick
      options.callLimit = 8
      options.slowAfter = .milliseconds(5)
      try await parts.consuming(provider, options) { consumer in
        try await eventually("they hang") { await consumer.status.slowCalls == 20 }
        try await parts.wait(for: try await parts.initiate(300), .created)
        #expect(try parts.states(hanging).allSatisfy { $0 == .initiated }, "they hang still")
        isBack.withLock { $0 = true }
        try await parts.wait(for: hanging, .created)
      }
      #expect(provider.callCount == 320)
    }
  }

  @Test("however many calls hang, others succeed: calls that hang beyond a share are abandoned early and retried")
  func hangingBeyondTheShare() async throws {
    try await ConsumerParts.withDelays { parts, options in
      var options = options
      options.callLimit = 8
      options.slowAfter = .milliseconds(5)
      let hanging = try await parts.initiate(100)
      let isBack = Mutex(false)
      let provider = FakeProvider { payment, _ in
        while hanging.contains(payment.id), !isBack.withLock({ $0 }) {
          if Task.isCancelled || CallContext.current?.stop.isStopped ?? false { return Self.timeout }
          try? await Task.sleep(for: .milliseconds(2))
        }
        return .created
      }
      try await parts.consuming(provider, options) { consumer in
        try await parts.wait(for: try await parts.initiate(50), .created)
        try await eventually("a share of them continues") { await consumer.status.slowCalls >= 16 }
        #expect(parts.breaker.state == .closed)
        #expect(try parts.states(hanging).allSatisfy { $0 == .initiated }, "they hang still")
        isBack.withLock { $0 = true }
        try await parts.wait(for: hanging, .created)
      }
    }
  }

  @Test(
    "a payment that has timed out twice waits on the log: the checkpoint moves on, and it is retried until it gets a response"
  )
  func timeoutsWaitOnTheLog() async throws {
    try await ConsumerParts.withDelays { parts, options in
      let hanging = try await parts.initiate(30)
      let isBack = Mutex(false)
      let provider = FakeProvider { payment, _ in
        hanging.contains(payment.id) && !isBack.withLock { $0 } ? Self.timeout : .created
      }
      try await parts.consuming(provider, options) { consumer in
        let others = try await parts.initiate(30)
        try await parts.wait(for: others, .created)
        try await eventually("all of them wait on the log, and nothing in memory") {
          let status = await consumer.status
          return try status.unfinished == 0 && Self.atEnd(parts.log)
            && hanging.allSatisfy { try parts.log.load($0)?.payment.delays.isEmpty == false }
        }
        #expect(hanging.allSatisfy { parts.retryStatus[$0] == nil })
        isBack.withLock { $0 = true }
        // Retried while other payments succeed.
        try await parts.wait(for: hanging, .created)
      }
      for id in hanging {
        let types = try parts.log.reader.stream(id.stream).map(\.type)
        #expect(types.count { $0 == "PaymentDelayed" } >= 1 && types.last == "PaymentCreated")
      }
    }
  }

  @Test("of payments that time out together, as many as can be retried soon wait in memory")
  func timeoutsTogether() async throws {
    try await ConsumerParts.withDelays { parts, options in
      var options = options
      options.callLimit = 8
      options.timeoutsToDelay = .max
      options.backoff = Backoff(base: .seconds(3_600), cap: .seconds(3_600))
      let hanging = try await parts.initiate(8)
      let provider = FakeProvider { payment, _ in hanging.contains(payment.id) ? Self.timeout : .created }
      try await parts.consuming(provider, options) { consumer in
        try await eventually("two wait in memory, six on the log") {
          let delayed = try hanging.filter { try parts.log.load($0)?.payment.delays.isEmpty == false }
          return await consumer.status.waiting == 2 && delayed.count == 6
        }
      }
    }
  }

  /// A source of due work that reads the log.
  private struct DueOnLog: DelayedWork {
    var log: PaymentLog
    var ids: [PaymentID]

    func due(
      _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
    ) async throws -> [(id: PaymentID, delay: Delay)] {
      let due = try ids.compactMap { id in try log.load(id)?.payment.delays.first.map { (id: id, delay: $0) } }
      return Array(due.filter { $0.delay.didTimeOut == didTimeOut }.prefix(limit))
    }
  }

  @Test("many payments that are due at once complete as fast as calls do, not a few with each tick")
  func manyDue() async throws {
    try await withStore { store in
      var parts = ConsumerParts(log: PaymentLog(store))
      let ids = try await parts.initiate(40)
      for id in ids {
        let delay = Delay(
          PaymentWork(.create), untilMicroseconds: 1, attempts: 2, ownFailures: 2, reason: "no response")
        _ = try await parts.log.record(.delay(delay), on: id, cursor: CursorCommit(name: "other", checkpoint: 0))
      }
      parts.delays = DueOnLog(log: parts.log, ids: ids)
      var options = ConsumerParts.quick
      options.callLimit = 2
      // The test ticks it, once.
      options.cursorInterval = .seconds(3_600)
      try await parts.consuming(FakeProvider { _, _ in .created }, options) { [parts] consumer in
        consumer.tick()
        try await parts.wait(for: ids, .created)
      }
    }
  }

  @Test("payments that time out, however many are due, hold up none that waits on the log for another reason")
  func manyHangingAreDue() async throws {
    try await withStore { store in
      var parts = ConsumerParts(log: PaymentLog(store))
      let ids = try await parts.initiate(60)
      for id in ids {
        let delay = Delay(
          PaymentWork(.create), untilMicroseconds: 1, attempts: 2, ownFailures: 2, reason: "500 or no response",
          didTimeOut: id != ids.last)
        _ = try await parts.log.record(.delay(delay), on: id, cursor: CursorCommit(name: "other", checkpoint: 0))
      }
      parts.delays = DueOnLog(log: parts.log, ids: ids)
      var options = ConsumerParts.quick
      options.callLimit = 8
      let isBack = Mutex(false)
      let provider = FakeProvider { [last = ids.last] payment, _ in
        while payment.id != last, !isBack.withLock({ $0 }), !Task.isCancelled {
          try? await Task.sleep(for: .milliseconds(2))
        }
        return .created
      }
      try await parts.consuming(provider, options) { [parts] _ in
        try await parts.wait(for: ids.suffix(1), .created)
        #expect(try parts.states(ids).dropLast().allSatisfy { $0 == .initiated }, "they hang still")
        isBack.withLock { $0 = true }
        try await parts.wait(for: ids, .created)
      }
    }
  }

  @Test("payments with a long Retry-After, however many, hold up no others: with 503 as with 429")
  func manyAskedToWait() async throws {
    for cause in [CallRetry.Cause.serverError, .busy] {
      try await ConsumerParts.withDelays { parts, options in
        var options = options
        options.unfinishedLimit = 20
        options.durableDelay = .seconds(10)
        let asked = CallOutcome.retry(CallRetry(cause, reason: "not now", after: .seconds(900)))
        let waiting = try await parts.initiate(60)
        let provider = FakeProvider { payment, _ in waiting.contains(payment.id) ? asked : .created }
        try await parts.consuming(provider, options) { consumer in
          try await parts.wait(for: try await parts.initiate(60), .created)
          try await eventually("nothing waits in memory") {
            try await consumer.status.unfinished == 0 && Self.atEnd(parts.log)
          }
        }
        // Nor are they retried sooner after a restart.
        let second = FakeProvider { payment, _ in waiting.contains(payment.id) ? asked : .created }
        try await parts.consuming(second, options) { _ in
          try await parts.wait(for: try await parts.initiate(20), .created)
        }
        #expect(second.callCount == 20)
      }
    }
  }

  @Test("a wait that a wrong clock wrote ends when the clock is right again; a possible wait continues")
  func clockSetBack() async throws {
    try await ConsumerParts.withDelays { parts, options in
      // Of an hour, by clocks that were 400 days, 10 minutes and half a second ahead.
      let ahead: [UInt64] = [400 * 86_400_000, 600_000, 500]
      let ids = try await parts.initiate(ahead.count)
      let now = Clock.microseconds()
      for (id, milliseconds) in zip(ids, ahead) {
        let began = now + milliseconds * 1_000
        let delay = Delay(
          PaymentWork(.create), untilMicroseconds: began + 3_600_000_000, attempts: 1, ownFailures: 0, reason: "429",
          beganMicroseconds: began)
        _ = try await parts.log.record(.delay(delay), on: id, cursor: CursorCommit(name: "other", checkpoint: 0))
      }
      try await parts.consuming(FakeProvider { _, _ in .created }, options) { _ in
        try await parts.wait(for: Array(ids.prefix(2)), .created)
        #expect(try parts.states([ids[2]]) == [.initiated])
      }
    }
  }

  @Test("the time of waits runs as real time does, whatever the clock is set to")
  func waitTime() {
    let start = ContinuousClock.now
    let now = Mutex(start)
    let time = WaitTime(startMicroseconds: 5_000_000) { now.withLock { $0 } }
    #expect(time.microseconds() == 5_000_000)
    now.withLock { $0 = start + .seconds(15) }
    #expect(time.microseconds() == 20_000_000)
  }

  @Test("a payment with a wrong address, while others succeed, is parked after five tries")
  func misconfiguredOne() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let wrong = try await parts.initiate(1)[0]
      let provider = FakeProvider { payment, _ in payment.id == wrong ? Self.wrongAddress : .created }
      try await parts.consuming(provider) { _ in
        try await parts.wait(for: try await parts.initiate(10), .created)
        try await parts.wait(for: [wrong], .failed)
      }
      #expect(provider.calls[wrong] == 5)
      #expect(try parts.log.load(wrong)?.payment.parked.first?.reason.contains("404") == true)
    }
  }

  @Test("an address that is wrong for all is an outage: no payment is parked, and all complete when it is right")
  func misconfiguredForAll() async throws {
    try await withStore { store in
      let parts = ConsumerParts(log: PaymentLog(store))
      let isRight = Mutex(false)
      let provider = FakeProvider { _, _ in isRight.withLock { $0 } ? .created : Self.wrongAddress }
      let ids = try await parts.initiate(10)
      try await parts.consuming(provider) { consumer in
        try await eventually("the breaker opens, and says why") {
          await consumer.status.breaker.status.reason == "404"
        }
        let before = provider.callCount
        try await eventually("trials continue") { provider.callCount >= before + 60 }
        #expect(try parts.states(ids).allSatisfy { $0 == .initiated })
        #expect(parts.breaker.state == .closed, "the other steps' calls go on")
        isRight.withLock { $0 = true }
        try await parts.wait(for: ids, .created)
      }
    }
  }
}

/// No call is made whose outcome can't be recorded.
@Suite("A consumer on a log that can't append")
struct RecordGateTests {
  /// A log that accepts or refuses appends.
  private final class FullDisk: Sendable {
    /// The appends to refuse now.
    enum Refuses: Sendable { case nothing, events, all }

    private let state = Mutex((refuses: Refuses.nothing, refusals: 0))

    var refusals: Int { state.withLock { $0.refusals } }

    func refuse(_ what: Refuses) { state.withLock { $0.refuses = what } }

    func log(_ store: LogStore) -> PaymentLog {
      PaymentLog(store) { [self] append async throws(LogStoreError) in
        let isRefused = state.withLock { state in
          let isRefused = state.refuses == .all || (state.refuses == .events && !append.events.isEmpty)
          if isRefused { state.refusals += 1 }
          return isRefused
        }
        if isRefused { throw .diskFull(operation: "write", path: "test") }
        return try await store.append(append)
      }
    }
  }

  @Test("with calls in flight when the disk fills, no other goes out and none is repeated until there is room")
  func full() async throws {
    try await withStore { store in
      let disk = FullDisk()
      let parts = ConsumerParts(log: disk.log(store))
      let ids = try await parts.initiate(60)
      let isAnswering = Mutex(false)
      let provider = FakeProvider { _, _ in
        while !isAnswering.withLock({ $0 }), !Task.isCancelled { try? await Task.sleep(for: .milliseconds(2)) }
        return .created
      }
      var options = ConsumerParts.quick
      options.callLimit = 20
      options.slowAfter = .seconds(3_600)
      try await parts.consuming(provider, options) { _ in
        try await eventually("the calls are in flight") { provider.callCount == 20 }
        // Small appends, such as a checkpoint's, still find room: they must not let calls out.
        disk.refuse(.events)
        isAnswering.withLock { $0 = true }
        try await eventually("their outcomes are held") { parts.log.gate.unrecordedCount == 20 }
        try await eventually("the appends are retried") { disk.refusals >= 60 }
        #expect(provider.callCount == 20)
        #expect(!parts.log.gate.isOpen && parts.log.gate.reason?.contains("disk full") == true)
        disk.refuse(.nothing)
        try await parts.wait(for: ids, .created)
        #expect(parts.log.gate.isOpen && parts.log.gate.reason == nil && parts.log.gate.unrecordedCount == 0)
      }
      #expect(provider.callCount == 60, "one call for each payment")
    }
  }

  @Test(
    "an append that fails while no call is in flight holds calls back, and a checkpoint's append finds out that there is room"
  )
  func probe() async throws {
    try await withStore { store in
      let disk = FullDisk()
      let parts = ConsumerParts(log: disk.log(store))
      let provider = FakeProvider { _, _ in .created }
      try await parts.consuming(provider) { _ in
        try await parts.wait(for: try await parts.initiate(1), .created)
        disk.refuse(.all)
        await #expect(throws: LogStoreError.self) { try await parts.initiate(1) }
        #expect(!parts.log.gate.isOpen)
        disk.refuse(.nothing)
        try await eventually("calls may go out again") { parts.log.gate.isOpen }
        try await parts.wait(for: try await parts.initiate(5), .created)
      }
    }
  }

  @Test("an error of one append holds no other call back")
  func ownFault() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let huge = NewEvent(stream: "s", type: "t", payload: [UInt8](repeating: 0, count: 64 << 20))
      await #expect(throws: LogStoreError.self) { try await log.append(Append([huge])) }
      #expect(log.gate.isOpen)
    }
  }

  @Test("stopped with unrecorded outcomes, the next start repeats those calls, and no others")
  func stopped() async throws {
    try await withStore { store in
      let disk = FullDisk()
      let parts = ConsumerParts(log: disk.log(store))
      let before = try await parts.initiate(3)
      let provider = FakeProvider { _, _ in .created }
      try await parts.consuming(provider) { _ in try await parts.wait(for: before, .created) }
      let ids = try await parts.initiate(3)
      disk.refuse(.events)
      let unrecorded = FakeProvider { _, _ in .created }
      try await parts.consuming(unrecorded) { _ in
        try await eventually("their outcomes are held") { parts.log.gate.unrecordedCount > 0 }
      }
      #expect(parts.log.gate.unrecordedCount == 0)
      disk.refuse(.nothing)
      let second = FakeProvider { _, _ in .created }
      try await parts.consuming(second) { _ in try await parts.wait(for: ids, .created) }
      #expect(second.calls.keys.allSatisfy { !before.contains($0) } && second.callCount == second.calls.count)
    }
  }
}
