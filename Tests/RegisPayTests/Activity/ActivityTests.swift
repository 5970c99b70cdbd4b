import LogStore
import NIOCore
import Synchronization
import Testing

@testable import RegisPay

@Suite("The activity")
struct ActivityTests {
  /// An activity whose readings a test sets.
  private final class Fake: Sendable {
    let flow = PaymentFlow()
    let readings = Mutex(ActivityReadings())
    /// How often they were read.
    let count = Atomic<Int>(0)

    var activity: Activity {
      Activity(
        .init(
          flow: flow, syncs: { RangeCounts(bounds: [100], counts: [0, 0]) },
          readings: { [self] in
            count.add(1, ordering: .relaxed)
            return readings.withLock { $0 }
          }), microseconds: moment(0))
    }
  }

  /// Passes seconds until this one of a point.
  private func pass(_ activity: Activity, _ seconds: ClosedRange<Int>) async {
    let begin = MonotonicTime.nanoseconds
    for second in seconds {
      await activity.pass(
        microseconds: moment(Double(second)) + 1_000, nanoseconds: begin + UInt64(second) * 1_000_000_000)
    }
  }

  @Test("while nobody looks, nothing is read but once for a point")
  func unseen() async throws {
    let fake = Fake()
    let activity = fake.activity
    fake.readings.withLock { $0.list = .init(parked: 2, outcomeUnknown: 3, delayed: 4) }
    await pass(activity, 1...9)
    #expect(fake.count.load(ordering: .relaxed) == 0)
    await pass(activity, 10...10)
    #expect(fake.count.load(ordering: .relaxed) == 1)
    let point = try #require(activity.history.points.first)
    #expect(point.number == 1_000 && point.parked == 2 && point.outcomeUnknown == 3 && point.lag == nil)
    // Someone looks, and ticks are made for two minutes.
    _ = await activity.tick()
    // One more if the first tick was old by then.
    let before = fake.count.load(ordering: .relaxed)
    #expect(before <= 2)
    await pass(activity, 11...19)
    #expect(fake.count.load(ordering: .relaxed) == before + 9)
    await activity.pass(microseconds: moment(19.5), nanoseconds: MonotonicTime.nanoseconds + 121_000_000_000)
    #expect(fake.count.load(ordering: .relaxed) == before + 9)
  }

  @Test("all who follow get the same tick, made once; who does not read gets the latest when he does")
  func followers() async throws {
    let fake = Fake()
    let activity = fake.activity
    let (first, second, slow) = (activity.follow(), activity.follow(), activity.follow())
    var ticks: [(ByteBuffer?, ByteBuffer?)] = []
    var (firstTicks, secondTicks) = (first.ticks.makeAsyncIterator(), second.ticks.makeAsyncIterator())
    for second in 1...3 {
      fake.readings.withLock { $0.logEnd = UInt64(second) }
      await pass(activity, second...second)
      ticks.append((await firstTicks.next(), await secondTicks.next()))
    }
    #expect(fake.count.load(ordering: .relaxed) == 3)
    for (number, (one, other)) in ticks.enumerated() {
      let text = try #require(one.map { String(buffer: $0) })
      #expect(one == other && text.hasPrefix("data: {\"at\":\"") && text.hasSuffix("}\n\n"))
      #expect(text.contains("\"logEnd\":\(number + 1),") && !text.dropLast(2).contains("\n"))
    }
    var slowTicks = slow.ticks.makeAsyncIterator()
    #expect(await slowTicks.next() == ticks.last?.0, "only the latest was kept")
    for follower in [first, second, slow] { activity.end(follower.number) }
    #expect(await slowTicks.next() == nil)
    #expect(activity.followerCount == 0)
    await pass(activity, 4...4)
    #expect(fake.count.load(ordering: .relaxed) == 3)
  }

  @Test("a part that can't be read keeps its last value in a tick, and is not known in a point")
  func hanging() async throws {
    let fake = Fake()
    let activity = fake.activity
    fake.readings.withLock { readings in
      readings.list = .init(parked: 7)
      readings.health = .init(problems: 1, warnings: 2)
    }
    _ = activity.follow()
    await pass(activity, 1...1)
    fake.readings.withLock { $0 = ActivityReadings() }
    await pass(activity, 2...10)
    let tick = try JSONReader.read(await activity.tick())
    #expect(tick["parked"] == .integer(7) && tick["healthy"] == .bool(false) && tick["warnings"] == .integer(2))
    #expect(activity.history.points.first?.parked == nil)
  }

  @Test("payments that are counted show in the next tick")
  func rates() async throws {
    let fake = Fake()
    let activity = fake.activity
    let id = PaymentID.random()
    for _ in 0..<10 {
      fake.flow.count([.initiated(id, Money(minorUnits: 1, currency: Currency.supported[0]))], from: nil, to: 0)
      fake.flow.count([.completed], from: 1_000_000, to: 1_040_000)
    }
    fake.flow.count([.created(reference: "r")], from: 1, to: 2)
    fake.flow.count([.declined(step: .create, reason: "no")], from: 1, to: 2)
    await pass(activity, 1...5)
    let tick = try JSONReader.read(await activity.tick())
    func number(_ name: String) -> Double { if case .number(let text)? = tick[name] { Double(text) ?? -1 } else { -1 } }
    #expect(abs(number("acceptedPerSecond") - 2) < 0.1 && abs(number("completedPerSecond") - 2) < 0.1)
    #expect(abs(number("otherEndsPerSecond") - 0.2) < 0.1)
    guard case .number(let p50)? = tick["completionMilliseconds"]?["p50"] else {
      return #expect(Bool(false), "\(tick)")
    }
    #expect(abs((Double(p50) ?? 0) - 40) < 1)
  }
}
