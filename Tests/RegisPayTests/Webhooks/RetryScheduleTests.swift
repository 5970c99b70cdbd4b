import Testing

@testable import RegisPay

@Suite("The schedule of retries")
struct RetryScheduleTests {
  private let schedule = RetrySchedule()

  @Test("goes from seconds to days, ten tries over some three days")
  func days() {
    let delays = (1...9).compactMap { schedule.delay(attempts: $0, randomness: 0) }
    #expect(delays.first == .seconds(5))
    #expect(delays.last == .seconds(86_400))
    #expect(delays == delays.sorted())
    #expect(delays.count == 9)
    let sum = delays.reduce(.zero, +)
    #expect(sum > .seconds(3 * 86_400) && sum < .seconds(4 * 86_400))
    #expect(schedule.delay(attempts: 10) == nil)
    #expect(schedule.delay(attempts: .max) == nil)
  }

  @Test("no two that failed together come back together")
  func jitter() {
    #expect(schedule.delay(attempts: 2, randomness: 1) == .seconds(330))
    let delays = Set((0..<50).compactMap { _ in schedule.delay(attempts: 3) })
    #expect(delays.count > 40)
    #expect(delays.allSatisfy { $0 >= .seconds(1_800) && $0 <= .seconds(1_980) })
  }

  @Test("the receiver may ask for more, not for less")
  func asked() {
    #expect(schedule.delay(attempts: 1, atLeast: .seconds(60), randomness: 0) == .seconds(60))
    #expect(schedule.delay(attempts: 2, atLeast: .seconds(60), randomness: 0) == .seconds(300))
    #expect(schedule.delay(attempts: 10, atLeast: .seconds(60)) == nil)
  }
}
