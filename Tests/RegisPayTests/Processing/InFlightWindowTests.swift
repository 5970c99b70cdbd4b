import Testing

@testable import RegisPay

private let start = ContinuousClock.now

@Suite("A consumer's window")
struct WindowTests {
  private func window(_ count: Int, limit: Int = 100) -> InFlightWindow<String> {
    var window = InFlightWindow<String>(limit: limit)
    for index in 0..<count { window.admit("work \(index)", at: UInt64(10 + index)) }
    return window
  }

  @Test("work is returned once, in order")
  func order() {
    var window = window(3)
    #expect((0..<3).map { _ in window.next(.first)?.offset } == [10, 11, 12])
    #expect(window.next(.first) == nil)
    #expect(!window.hasReady(.first))
  }

  @Test("a full window is read into again when a fortieth of it is free, and a small one with each place")
  func roomToRead() {
    for (limit, needed) in [(1, 1), (39, 1), (80, 2), (10_000, 250)] {
      for room in 0...min(limit, needed + 1) {
        #expect(window(limit - room, limit: limit).hasRoomToRead == (room >= needed), "\(room) of \(limit)")
      }
    }
  }

  @Test("work that waits for a retry is returned when it is due, the earliest first")
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
    #expect(!window.hasReady(.retry))
    window.wake(at: start + .seconds(2))
    #expect(window.next(.retry)?.offset == 11)
    #expect(window.next(.retry)?.offset == 12)
    #expect(window.next(.retry) == nil)
    window.retry(11, due: start + .seconds(2))
    #expect(window.attempts(11) == 2, "attempts add up")
  }

  @Test("untried work that is put back is the next of its lane and counts no attempt")
  func putBack() {
    var window = window(2)
    #expect(window.next(.first)?.offset == 10)
    window.putBack(10)
    #expect(window.next(.first)?.offset == 10)
    #expect(window.attempts(10) == 0)
    window.retry(10, due: start, isTimeout: true)
    window.wake(at: start)
    #expect(window.next(.timedOut)?.offset == 10)
    window.putBack(10)
    #expect(window.next(.timedOut)?.offset == 10)
    #expect(window.attempts(10) == 1)
  }

  @Test(
    "first tries, repeats and payments that have hung are in lanes of their own; one that has hung stays in its lane")
  func lanes() {
    var window = window(4)
    while window.next(.first) != nil {}
    window.retry(10, due: start)
    window.retry(11, due: start, isTimeout: true)
    window.admit("work 4", at: 14)
    window.wake(at: start)
    #expect(CallSlots.Lane.allCases.map { window.hasReady($0) } == [true, true, true])
    #expect(CallSlots.Lane.allCases.map { window.next($0)?.offset } == [14, 10, 11])
    #expect(CallSlots.Lane.allCases.map { window.hasReady($0) } == [false, false, false])
    window.retry(11, due: start)
    window.retry(10, due: start + .milliseconds(1), isTimeout: true)
    window.wake(at: start + .milliseconds(1))
    #expect(window.timedOutCount == 2)
    #expect([window.timeouts(10), window.timeouts(11), window.timeouts(12)] == [1, 1, 0])
    #expect([window.next(.timedOut)?.offset, window.next(.timedOut)?.offset] == [11, 10])
    window.finish(10)
    window.finish(12)
    #expect(window.timedOutCount == 1)
  }

  @Test("it is full at its limit and has room again when work finishes")
  func full() {
    var window = window(5, limit: 5)
    #expect(window.room == 0)
    window.finish(12)
    #expect(window.room == 1)
  }

  @Test("one payment that stays unfinished while a hundred thousand others finish takes no memory for those")
  func bounded() {
    var window = window(1)
    for offset in UInt64(11)..<100_000 {
      window.admit("other", at: offset)
      _ = window.next(.first)
      window.finish(offset)
    }
    #expect(window.unfinishedCount == 1)
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

  @Test("the wait that the other side asks for holds, also above the cap")
  func asked() {
    let backoff = Backoff(base: .milliseconds(500), cap: .seconds(60))
    #expect(backoff.delay(attempts: 1, atLeast: .seconds(120)) == .seconds(120))
    #expect(backoff.delay(attempts: 9, atLeast: .seconds(1), randomness: 1) == .seconds(60))
  }

  private func seconds(_ value: Double) -> Duration { .milliseconds(Int(value * 1_000)) }
}
