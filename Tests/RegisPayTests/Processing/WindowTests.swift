import Testing

@testable import RegisPay

private let start = ContinuousClock.now

@Suite("A consumer's window")
struct WindowTests {
  private func window(_ count: Int, limit: Int = 100) -> Window<String> {
    var window = Window<String>(place: 10, limit: limit)
    for index in 0..<count { window.admit("work \(index)") }
    return window
  }

  @Test("the place is the lowest unfinished offset, whatever finishes first")
  func place() {
    var window = window(3)
    #expect(window.place == 10)
    window.finish(11)
    #expect(window.place == 10)
    window.finish(10)
    #expect(window.place == 12)
    window.finish(12)
    #expect(window.place == 13)
  }

  @Test("skipped events move the place along, but never past unfinished work")
  func skipping() {
    var window = Window<String>(place: 0, limit: 10)
    window.skip()
    window.skip()
    #expect(window.place == 2)
    window.admit("work")
    window.skip()
    #expect(window.place == 2)
    window.finish(2)
    #expect(window.place == 4)
  }

  @Test("offsets without events, as a repair leaves them, are passed over")
  func gap() {
    var window = Window<String>(place: 0, limit: 10)
    window.admit("first")
    window.move(to: 5)
    window.admit("second")
    #expect(window.readPlace == 6 && window.place == 0)
    #expect(window.place(finishing: 0) == 5)
    #expect(window.next(now: start)?.offset == 0 && window.next(now: start)?.offset == 5)
    window.finish(0)
    window.move(to: 2)
    #expect(window.readPlace == 6)
    window.finish(5)
    #expect(window.place == 6)
  }

  @Test("the place to commit with an effect is the one that holds once it is finished, for every order of finishing")
  func placeFinishing() {
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<200 {
      var window = Window<Int>(place: 0, limit: 100)
      for index in 0..<20 { if Bool.random(using: &generator) { window.admit(index) } else { window.skip() } }
      var offsets: [UInt64] = []
      while let work = window.next(now: start) { offsets.append(work.offset) }
      for offset in offsets.shuffled(using: &generator) {
        let promised = window.place(finishing: offset)
        window.finish(offset)
        #expect(window.place == promised)
      }
      #expect(window.place == 20)
    }
  }

  @Test("work is handed out once, in order")
  func order() {
    var window = window(3)
    #expect((0..<3).map { _ in window.next(now: start)?.offset } == [10, 11, 12])
    #expect(window.next(now: start) == nil)
    #expect(!window.hasReadyWork)
  }

  @Test("what waits for a retry is handed out when it is due, the earliest first")
  func retries() {
    var window = window(3)
    while window.next(now: start) != nil {}
    window.retry(10, due: start + .seconds(3))
    window.retry(11, due: start + .seconds(1))
    window.retry(12, due: start + .seconds(2))
    #expect(window.attempts(11) == 1)
    #expect(window.waitingCount == 3)
    #expect(window.nextDue == start + .seconds(1))
    #expect(window.next(now: start) == nil)
    #expect(window.next(now: start + .seconds(2))?.offset == 11)
    #expect(window.next(now: start + .seconds(2))?.offset == 12)
    #expect(window.next(now: start + .seconds(2)) == nil)
    window.retry(11, due: start + .seconds(2))
    #expect(window.attempts(11) == 2, "attempts add up")
    #expect(window.place == 10)
  }

  @Test("what was put back untried is handed out first and counts no attempt")
  func putBack() {
    var window = window(2)
    #expect(window.next(now: start)?.offset == 10)
    window.putBack(10)
    #expect(window.next(now: start)?.offset == 10)
    #expect(window.attempts(10) == 0)
  }

  @Test("what has not failed yet can be had before what has, and it is known whether there is any")
  func untriedFirst() {
    var window = window(4)
    while window.next(now: start) != nil {}
    for offset in [10, 11] as [UInt64] { window.retry(offset, due: start) }
    #expect(!window.hasUntriedWork)
    // The oldest comes first again, behind those two that are due: 12, 13, 10, 11.
    for offset in [13, 12] as [UInt64] { window.putBack(offset) }
    #expect(window.next(now: start)?.offset == 12)
    window.retry(12, due: start)
    #expect(window.hasUntriedWork)
    window.admit("work 4")
    #expect(window.next(now: start, untriedFirst: true)?.offset == 13)
    #expect(window.next(now: start, untriedFirst: true)?.offset == 14)
    #expect(!window.hasUntriedWork)
    window.putBack(14)
    #expect(window.hasUntriedWork)
    #expect(window.next(now: start)?.offset == 14)
    #expect(!window.hasUntriedWork)
    #expect(window.next(now: start, untriedFirst: true)?.offset == 10, "else what there is")
    #expect(window.next(now: start)?.offset == 11)
  }

  @Test("it is full at its limit and has room again when something finishes")
  func full() {
    var window = window(5, limit: 5)
    #expect(window.isFull)
    window.finish(12)
    #expect(!window.isFull)
  }

  @Test("a payment that stays unfinished while a hundred thousand others pass takes no more memory than itself")
  func bounded() {
    var window = window(1)
    for _ in 0..<100_000 {
      let offset = window.readPlace
      window.admit("other")
      _ = window.next(now: start)
      window.finish(offset)
    }
    #expect(window.unfinishedCount == 1)
    #expect(window.place == 10)
    #expect(window.rememberedCount < 1_000)
  }
}

@Suite("Delays between tries")
struct BackoffTests {
  @Test("they double up to the cap, half of them at random")
  func doubling() {
    let backoff = Backoff(base: .milliseconds(500), cap: .seconds(60))
    #expect(
      (1...9).map { backoff.delay(attempts: $0, randomness: 1) } == [0.5, 1, 2, 4, 8, 16, 32, 60, 60].map(seconds))
    #expect(
      (1...9).map { backoff.delay(attempts: $0, randomness: 0) } == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30].map(seconds))
    #expect(backoff.delay(attempts: .max, randomness: 1) == .seconds(60))
    #expect(backoff.delay(attempts: 0, randomness: 1) == .milliseconds(500))
  }

  @Test("what the other side asks for is kept, also over the cap")
  func asked() {
    let backoff = Backoff(base: .milliseconds(500), cap: .seconds(60))
    #expect(backoff.delay(attempts: 1, atLeast: .seconds(120)) == .seconds(120))
    #expect(backoff.delay(attempts: 9, atLeast: .seconds(1), randomness: 1) == .seconds(60))
  }

  private func seconds(_ value: Double) -> Duration { .milliseconds(Int(value * 1_000)) }
}

@Suite("A circuit breaker")
struct BreakerTests {
  private let breaker = Breaker(name: "test", options: .init(failureLimit: 5, openDuration: .seconds(30)))

  private func pass(_ now: ContinuousClock.Instant, hasUntried: Bool = false) throws -> Breaker.Pass {
    guard case .pass(let pass) = breaker.admit(hasUntried: hasUntried, now: now) else { throw Refused() }
    return pass
  }

  /// A failure of another payment each time.
  private func fail(_ pass: Breaker.Pass, now: ContinuousClock.Instant) -> Bool {
    breaker.failed(pass, by: .random(), now: now)
  }

  private struct Refused: Error {}

  @Test("five failures in a row open it, fewer or with a success between do not")
  func opening() throws {
    for _ in 0..<4 { #expect(!fail(try pass(start), now: start)) }
    breaker.succeeded(try pass(start))
    for _ in 0..<4 { #expect(!fail(try pass(start), now: start)) }
    #expect(breaker.state == .closed)
    #expect(fail(try pass(start), now: start))
    #expect(breaker.admit(hasUntried: false, now: start + .seconds(29)) == .wait(until: start + .seconds(30)))
  }

  @Test("after its time one trial passes and the others wait; its success closes it")
  func trialSucceeds() throws {
    for _ in 0..<5 { _ = fail(try pass(start), now: start) }
    let later = start + .seconds(30)
    let trial = try pass(later)
    #expect(throws: Refused.self) { try pass(later) }
    breaker.succeeded(trial)
    #expect(breaker.state == .closed)
    _ = try pass(later)
  }

  @Test("a failed trial opens it again at once")
  func trialFails() throws {
    for _ in 0..<5 { _ = fail(try pass(start), now: start) }
    let later = start + .seconds(31)
    #expect(fail(try pass(later), now: later))
    #expect(breaker.admit(hasUntried: false, now: later) == .wait(until: later + .seconds(30)))
  }

  @Test("a trial that was given up leaves its place to another call")
  func trialAbandoned() throws {
    for _ in 0..<5 { _ = fail(try pass(start), now: start) }
    let later = start + .seconds(31)
    breaker.abandoned(try pass(later), now: later)
    _ = try pass(later)
    #expect(breaker.state == .trying)
  }

  @Test("calls that began before it opened have no say in it any more")
  func stragglers() throws {
    let early = try (0..<10).map { _ in try pass(start) }
    for pass in early.prefix(5) { _ = fail(pass, now: start) }
    let later = start + .seconds(10)
    for pass in early[5..<8] { #expect(!fail(pass, now: later)) }
    breaker.succeeded(early[8])
    breaker.abandoned(early[9], now: later)
    #expect(breaker.state == .open(until: start + .seconds(30)))
  }

  @Test("failures of one payment open it to all that have failed, and let one that has not been tried through at once")
  func onePayment() throws {
    let poisoned = PaymentID.random()
    for _ in 0..<4 { #expect(!breaker.failed(try pass(start), by: poisoned, now: start)) }
    #expect(breaker.failed(try pass(start), by: poisoned, now: start))
    #expect(throws: Refused.self) { try pass(start) }
    let trial = try pass(start, hasUntried: true)
    #expect(trial.isTrial)
    #expect(throws: Refused.self, "one at a time") { try pass(start, hasUntried: true) }
    breaker.succeeded(trial)
    #expect(breaker.state == .closed)
  }

  @Test(
    "once as many payments have failed as failures open it, it is an outage: those that were not tried wait as well")
  func manyPayments() throws {
    let poisoned = PaymentID.random()
    for _ in 0..<5 { _ = breaker.failed(try pass(start), by: poisoned, now: start) }
    for _ in 0..<4 { #expect(fail(try pass(start, hasUntried: true), now: start)) }
    #expect(throws: Refused.self) { try pass(start, hasUntried: true) }
    let later = start + .seconds(30)
    breaker.succeeded(try pass(later, hasUntried: true))
    for _ in 0..<5 { _ = breaker.failed(try pass(later), by: poisoned, now: later) }
    _ = try pass(later, hasUntried: true)
  }
}
