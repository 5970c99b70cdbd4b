import Synchronization
import Testing

@testable import RegisPay

@Suite("The time that gives ages")
struct SteadyTimeTests {
  /// A machine with a clock that the test sets, a last event, and real time that passes.
  private final class Machine: Sendable {
    let clock = Mutex<UInt64>(1_000_000_000)
    let lastEvent = Mutex<UInt64>(0)
    let instant = Mutex(ContinuousClock.now)

    func time() -> SteadyTime {
      SteadyTime(
        logTime: { max(self.clock.withLock { $0 }, self.lastEvent.withLock { $0 }) },
        now: { self.instant.withLock { $0 } })
    }

    func pass(_ seconds: UInt64) {
      clock.withLock { $0 += seconds * 1_000_000 }
      instant.withLock { $0 += .seconds(Int64(seconds)) }
    }
  }

  @Test("it follows the clock while nobody sets that")
  func clock() {
    let machine = Machine()
    let time = machine.time()
    machine.pass(10)
    #expect(time.microseconds() == 1_010_000_000)
    #expect(time.microseconds() == 1_010_000_000)
  }

  @Test("a clock that is set back makes no age smaller, and the time that passes then counts")
  func setBack() {
    let machine = Machine()
    let time = machine.time()
    machine.pass(10)
    machine.clock.withLock { $0 = 5 }
    machine.pass(30)
    #expect(time.microseconds() == 1_040_000_000)
  }

  @Test("an event from when the clock was ahead grows older once the clock is right")
  func ahead() {
    let machine = Machine()
    let time = machine.time()
    machine.clock.withLock { $0 += 7_200_000_000 }
    machine.lastEvent.withLock { $0 = 8_200_000_000 }
    #expect(time.microseconds() == 8_200_000_000)
    machine.clock.withLock { $0 = 1_000_000_000 }
    machine.pass(36)
    #expect(time.microseconds() == 8_236_000_000)
    // After a restart it continues from the last event.
    let next = machine.time()
    machine.pass(4)
    #expect(next.microseconds() == 8_204_000_000)
  }
}
