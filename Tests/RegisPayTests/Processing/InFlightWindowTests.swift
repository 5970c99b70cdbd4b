import Testing

@testable import RegisPay

private let start = ContinuousClock.now

@Suite("A consumer's window")
struct WindowTests {
  private func window(_ count: Int, limit: Int = 100) -> InFlightWindow<String> {
    var window = InFlightWindow<String>(place: 10, limit: limit)
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
    var window = InFlightWindow<String>(place: 0, limit: 10)
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
    var window = InFlightWindow<String>(place: 0, limit: 10)
    window.admit("first")
    window.move(to: 5)
    window.admit("second")
    #expect(window.readPlace == 6 && window.place == 0)
    #expect(window.place(finishing: 0) == 5)
    #expect(window.next(.first)?.offset == 0 && window.next(.first)?.offset == 5)
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
      var window = InFlightWindow<Int>(place: 0, limit: 100)
      for index in 0..<20 { if Bool.random(using: &generator) { window.admit(index) } else { window.skip() } }
      var offsets: [UInt64] = []
      while let work = window.next(.first) { offsets.append(work.offset) }
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
    #expect((0..<3).map { _ in window.next(.first)?.offset } == [10, 11, 12])
    #expect(window.next(.first) == nil)
    #expect(!window.hasReady(.first))
  }

  @Test("what waits for a retry is handed out when it is due, the earliest first")
  func retries() {
    var window = window(3)
    while window.next(.first) != nil {}
    window.retry(10, due: start + .seconds(3))
    window.retry(11, due: start + .seconds(1))
    window.retry(12, due: start + .seconds(2))
    #expect(window.attempts(11) == 1)
    #expect(window.waitingCount == 3)
    #expect(window.nextDue == start + .seconds(1))
    window.wake(at: start)
    #expect(!window.hasReady(.again))
    window.wake(at: start + .seconds(2))
    #expect(window.next(.again)?.offset == 11)
    #expect(window.next(.again)?.offset == 12)
    #expect(window.next(.again) == nil)
    window.retry(11, due: start + .seconds(2))
    #expect(window.attempts(11) == 2, "attempts add up")
    #expect(window.place == 10)
  }

  @Test("what was put back untried is the next of its lane and counts no attempt")
  func putBack() {
    var window = window(2)
    #expect(window.next(.first)?.offset == 10)
    window.putBack(10)
    #expect(window.next(.first)?.offset == 10)
    #expect(window.attempts(10) == 0)
    window.retry(10, due: start, isTimeout: true)
    window.wake(at: start)
    #expect(window.next(.patient)?.offset == 10)
    window.putBack(10)
    #expect(window.next(.patient)?.offset == 10)
    #expect(window.attempts(10) == 1)
  }

  @Test(
    "first tries, repeats and payments that have hung are in lanes of their own; one that has hung stays in its lane")
  func lanes() {
    var window = window(4)
    while window.next(.first) != nil {}
    window.retry(10, due: start)
    window.retry(11, due: start, isTimeout: true)
    window.admit("work 4")
    window.wake(at: start)
    #expect(CallSlots.Lane.allCases.map { window.hasReady($0) } == [true, true, true])
    #expect(CallSlots.Lane.allCases.map { window.next($0)?.offset } == [14, 10, 11])
    #expect(CallSlots.Lane.allCases.map { window.hasReady($0) } == [false, false, false])
    window.retry(11, due: start)
    window.retry(10, due: start, isTimeout: true)
    window.wake(at: start)
    #expect(window.patientCount == 2)
    #expect([window.timeouts(10), window.timeouts(11), window.timeouts(12)] == [1, 1, 0])
    #expect([window.next(.patient)?.offset, window.next(.patient)?.offset] == [11, 10])
    window.finish(10)
    window.finish(12)
    #expect(window.patientCount == 1)
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
      _ = window.next(.first)
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
