import Synchronization
import Testing

@testable import RegisPay

@Suite("The time that ages are told by")
struct SteadyTimeTests {
  /// A machine whose clock is set, whose last event has a time, and on which time passes.
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

  @Test("it goes with the clock while nobody sets it")
  func clock() {
    let machine = Machine()
    let time = machine.time()
    machine.pass(10)
    #expect(time.microseconds() == 1_010_000_000)
    #expect(time.microseconds() == 1_010_000_000)
  }

  @Test("a clock that is set back takes nothing from an age, and none of what passes then is lost")
  func setBack() {
    let machine = Machine()
    let time = machine.time()
    machine.pass(10)
    machine.clock.withLock { $0 = 5 }
    machine.pass(30)
    #expect(time.microseconds() == 1_040_000_000)
  }

  @Test("an event of the time when the clock was ahead grows older once it is set right")
  func ahead() {
    let machine = Machine()
    let time = machine.time()
    machine.clock.withLock { $0 += 7_200_000_000 }
    machine.lastEvent.withLock { $0 = 8_200_000_000 }
    #expect(time.microseconds() == 8_200_000_000)
    machine.clock.withLock { $0 = 1_000_000_000 }
    machine.pass(36)
    #expect(time.microseconds() == 8_236_000_000)
    // After a restart it goes on from the last event.
    let next = machine.time()
    machine.pass(4)
    #expect(next.microseconds() == 8_204_000_000)
  }
}
