import SeededRandom
import Synchronization
import Testing

@testable import RegisPay

@Suite("Times of appends")
struct AppendTimesTests {
  private final class Machine: Sendable {
    let end = Mutex<UInt64>(10)
    let instant = Mutex(ContinuousClock.now)

    func times() -> AppendTimes {
      AppendTimes(end: { self.end.withLock { $0 } }, now: { self.instant.withLock { $0 } })
    }

    func pass(_ duration: Duration) { instant.withLock { $0 += duration } }
    func append(_ count: UInt64 = 1) { end.withLock { $0 += count } }
  }

  @Test("an event's age is the time since its append, and an event of an earlier process has none here")
  func ages() {
    let machine = Machine()
    let times = machine.times()
    machine.pass(.seconds(5))
    times.note()
    machine.pass(.milliseconds(300))
    machine.append()
    machine.pass(.milliseconds(700))
    times.note()
    machine.pass(.seconds(100))
    times.note()
    #expect(times.age(of: 9) == nil)
    #expect(times.age(of: 10) == .seconds(100) ... .seconds(101))
    #expect(times.age(of: 11) == .zero ... .zero, "not there yet")
    machine.append()
    machine.pass(.seconds(3))
    #expect(times.age(of: 11) == .zero ... .seconds(3), "not looked at since")
  }

  @Test("over a year, ages stay within 1/512 and a second, in bounded memory")
  func year() {
    var random = SeededGenerator.printed("APPEND_TIMES_SEED")
    let machine = Machine()
    let times = machine.times()
    var appended: [(offset: UInt64, at: ContinuousClock.Instant)] = []
    for _ in 0..<400_000 {
      machine.pass(.seconds(79))
      if random.next() % 1_000 == 0 { appended.append((machine.end.withLock { $0 }, machine.instant.withLock { $0 })) }
      machine.append()
      times.note()
    }
    #expect(times.count < 20_000)
    let now = machine.instant.withLock { $0 }
    #expect(!appended.isEmpty)
    for (offset, at) in appended {
      let age = at.duration(to: now)
      guard let found = times.age(of: offset) else {
        Issue.record("no age of \(offset)")
        continue
      }
      #expect(found.contains(age))
      let error = found.upperBound - found.lowerBound
      #expect(error <= .seconds(80) + age / 256, "\(age): \(found)")
    }
  }
}
