import LogStore
import Synchronization
import Testing

@testable import RegisPay

/// A log of payments whose times a test knows. Each event follows from its offset, so that a log may be of any length.
private struct KnownLog: ActivityLog {
  let end: UInt64
  let event: @Sendable (UInt64) -> ActivityEvent
  /// Offsets that can't be read.
  var damaged: Range<UInt64> = 0..<0
  let reads = Reads()

  final class Reads: Sendable {
    let events = Atomic<UInt64>(0)
    let probes = Atomic<Int>(0)
    let lookUps = Atomic<Int>(0)
    let portions = Mutex<[Range<UInt64>]>([])
  }

  init(_ end: UInt64, _ event: @escaping @Sendable (UInt64) -> ActivityEvent) { (self.end, self.event) = (end, event) }

  init(_ events: [ActivityEvent]) { self.init(UInt64(events.count)) { events[Int($0)] } }

  func first(from offset: UInt64, below end: UInt64) -> ActivityEvent? {
    reads.probes.add(1, ordering: .relaxed)
    let sound = damaged.contains(offset) ? damaged.upperBound : offset
    return sound < min(end, self.end) ? event(sound) : nil
  }

  func forEach(in offsets: Range<UInt64>, _ body: (ActivityEvent) -> Void) -> Bool {
    reads.portions.withLock { $0.append(offsets) }
    for offset in offsets where !damaged.contains(offset) {
      reads.events.add(1, ordering: .relaxed)
      body(event(offset))
    }
    return !offsets.overlaps(damaged)
  }

  func begin(of payment: PaymentID) -> UInt64? {
    reads.lookUps.add(1, ordering: .relaxed)
    return (0..<end).lazy.map(event).first { $0.kind == .accepted && $0.payment == payment }?.microseconds
  }
}

@Suite("What the log tells of the hour before the start")
struct ActivityFillTests {
  /// The process begins in the middle of point 1,000.
  private static let start = moment(5)

  /// The points of the log, with the first one closed as if nothing had happened in the process.
  private func points(
    _ log: KnownLog, end: UInt64? = nil, limits: ActivityFill.Limits = .init()
  ) async throws -> [ActivityPoint] {
    let history = ActivityHistory(startMicroseconds: Self.start)
    try await ActivityFill(log, into: history, end: end ?? log.end, limits: limits).run()
    _ = history.add(.init(), seconds: 5, now: moment(0.001, inPoint: 1_001))
    return history.points
  }

  /// Payments that begin at these times and complete after as many milliseconds, as events in order.
  private func events(_ payments: [(begin: UInt64, milliseconds: UInt64)]) -> [ActivityEvent] {
    var events: [ActivityEvent] = []
    for payment in payments {
      let id = PaymentID.random()
      events.append(.init(offset: 0, microseconds: payment.begin, kind: .accepted, payment: id))
      events.append(.init(offset: 0, microseconds: payment.begin, kind: nil, payment: nil))
      let end = payment.begin + payment.milliseconds * 1_000
      events.append(.init(offset: 0, microseconds: end, kind: .completed, payment: id))
    }
    events.sort { $0.microseconds < $1.microseconds }
    for index in events.indices { events[index].offset = UInt64(index) }
    return events
  }

  @Test(
    "rates and completion times are those of the log, however it is cut into portions", arguments: [1, 2, 7, 50, 8_192])
  func known(_ portion: UInt64) async throws {
    var limits = ActivityFill.Limits()
    limits.portion = portion
    // 40 in point 990, of which half complete in 991; none in 992; one in 1,000, before the start.
    var payments = (0..<20).map { (begin: moment(Double($0) / 10, inPoint: 990), milliseconds: UInt64(200)) }
    payments += (0..<20).map { (begin: moment(8 + Double($0) / 20, inPoint: 990), milliseconds: UInt64(4_000)) }
    payments.append((begin: moment(1), milliseconds: 1_000))
    let points = try await points(KnownLog(events(payments)), limits: limits)
    #expect(points.map(\.number) == Array(990...1_000))
    let flows = points.compactMap(\.flow)
    #expect(flows.map(\.acceptedPerSecond) == [4] + Array(repeating: 0, count: 9) + [0.1])
    #expect(flows.map(\.completedPerSecond) == [2, 2] + Array(repeating: 0, count: 8) + [0.1])
    for (index, milliseconds) in [(0, 200.0), (1, 4_000), (10, 1_000)] {
      let p99 = try #require(flows[index].completion?.p99)
      #expect(abs(p99 - milliseconds) < milliseconds * 0.02, "\(points[index].number)")
    }
    #expect(flows[2].completion == nil)
    #expect(points.allSatisfy { $0.lag == nil && $0.parked == nil && $0.sync == nil })
  }

  @Test("other ends are counted, and they have no completion time")
  func otherEnds() async throws {
    let log = KnownLog([
      .init(offset: 0, microseconds: moment(1, inPoint: 998), kind: .endedOtherwise),
      .init(offset: 1, microseconds: moment(2, inPoint: 998), kind: .endedOtherwise),
    ])
    let flow = try #require(try await points(log).first?.flow)
    #expect(flow.otherEndsPerSecond == 0.2 && flow.acceptedPerSecond == 0 && flow.completion == nil)
  }

  @Test("of an hour that is longer than the limit the latest events are read, and what isn't read is not known")
  func long() async throws {
    // 50 million events in the hour, and as many in the hour before: 13,889 in each second.
    let (perPoint, hour): (UInt64, UInt64) = (138_889, 50_000_000)
    let begin = Self.start - 7_200_000_000
    let log = KnownLog(2 * hour) { offset in
      .init(offset: offset, microseconds: begin + offset * 72, kind: .accepted)
    }
    var limits = ActivityFill.Limits()
    limits.events = 400_000
    let points = try await points(log, limits: limits)
    // Half a point is before the start, then two points, and the rest of the limit is less than another.
    #expect(points.map(\.number) == [998, 999, 1_000])
    let rate = Double(perPoint) / 10
    #expect(points.map { $0.flow?.acceptedPerSecond ?? 0 }.allSatisfy { $0 > rate * 0.49 && $0 < rate * 1.01 })
    #expect(log.reads.events.load(ordering: .relaxed) == 400_000)
    #expect(log.reads.probes.load(ordering: .relaxed) < 60)
    let portions = log.reads.portions.withLock { $0 }
    #expect(
      portions.first?.upperBound == 2 * hour && portions.map(\.lowerBound) == portions.map(\.lowerBound).sorted(by: >))
    #expect(portions.allSatisfy { $0.count <= 8_192 })
  }

  @Test("events of earlier hours are not read, and without one in this hour nothing happened in it")
  func idle() async throws {
    let log = KnownLog(events((0..<1_000).map { (begin: moment(Double($0), inPoint: 500), milliseconds: 10) }))
    let points = try await points(log)
    #expect(points.map(\.number) == Array(641...1_000))
    #expect(points.allSatisfy { $0.flow?.acceptedPerSecond == 0 && $0.flow?.completion == nil })
    #expect(log.reads.events.load(ordering: .relaxed) == 0)
  }

  @Test("of an empty log only the point in which it began is shown")
  func empty() async throws {
    #expect(try await points(KnownLog([])).map(\.number) == [1_000])
  }

  @Test("after a clock that was ahead, times from then on are not known")
  func ahead() async throws {
    let before = (0..<10).map { (begin: moment(Double($0), inPoint: 980), milliseconds: UInt64(100)) }
    let later = (0..<10).map { (begin: moment(Double($0), inPoint: 995), milliseconds: UInt64(100)) }
    let ahead = (0..<500).map { (begin: moment(Double($0), inPoint: 3_000), milliseconds: UInt64(100)) }
    let log = KnownLog(events(before + later + ahead))
    let points = try await points(log)
    let known = points.filter { $0.flow != nil }
    // The clock was set forward at some time after the last event of 995.
    #expect(known.map(\.number) == Array(980..<995))
    #expect(known.first?.flow?.completedPerSecond == 1)
    // Nothing is known if all of the hour's events have later times.
    #expect(try await self.points(KnownLog(events(ahead))).isEmpty)
  }

  @Test("times that stand still say nothing of how long completion took")
  func standsStill() async throws {
    let points = try await points(
      KnownLog(
        events([(begin: moment(1, inPoint: 999), milliseconds: 0), (begin: moment(2, inPoint: 999), milliseconds: 50)]))
    )
    let flow = try #require(points.first?.flow)
    #expect(flow.completedPerSecond == 0.2)
    #expect(abs((flow.completion?.p50 ?? 0) - 50) < 1)
  }

  @Test("payments that began before the hour, or before what is read, are looked up")
  func lookedUp() async throws {
    let old = (0..<5).map { (begin: moment(Double($0), inPoint: 500), milliseconds: UInt64(4_950_000)) }
    let log = KnownLog(events(old))
    let points = try await points(log)
    let found = try #require(points.first { $0.number == 995 }?.flow)
    #expect(found.completedPerSecond == 0.5)
    #expect(abs((found.completion?.p50 ?? 0) - 4_950_000) < 99_000)
    var limits = ActivityFill.Limits()
    limits.lookUps = 2
    _ = try await self.points(log, limits: limits)
    #expect(log.reads.lookUps.load(ordering: .relaxed) == 5 + 2)
  }

  @Test("what is before damage is not known")
  func damaged() async throws {
    let payments = (990..<1_000).map { (begin: moment(1, inPoint: $0), milliseconds: UInt64(100)) }
    var log = KnownLog(events(payments))
    log.damaged = 13..<14
    var limits = ActivityFill.Limits()
    limits.portion = 3
    let points = try await points(log, limits: limits)
    // Whether more of 995 is in the damage is not known.
    #expect(points.map(\.number) == Array(996...1_000))
    #expect(points.allSatisfy { $0.number == 1_000 || $0.flow?.completedPerSecond == 0.1 })
  }

  @Test("it ends when its task is cancelled")
  func cancelled() async throws {
    let log = KnownLog(3_000_000) { .init(offset: $0, microseconds: Self.start - 3_000_000 + $0, kind: .accepted) }
    let history = ActivityHistory(startMicroseconds: Self.start)
    let task = Task { try await ActivityFill(log, into: history, end: log.end).run() }
    try await eventually("it reads") { log.reads.events.load(ordering: .relaxed) > 0 }
    task.cancel()
    try await task.value
    #expect(log.reads.events.load(ordering: .relaxed) < 3_000_000)
  }

  @Test("a real log tells what was appended to it")
  func real() async throws {
    try await withStore { store in
      let log = PaymentLog(store)
      let nowhere = CursorCommit(name: "test", checkpoint: 0)
      let refund = PaymentWork(refund: 1)
      for number in 0..<30 {
        let id = try await log.initiate(Money(minorUnits: 100, currency: Currency.supported[0]))
        if number % 3 == 0 {
          _ = try await log.record(.decline(PaymentWork(.create), reason: "no"), on: id, cursor: nowhere)
          continue
        }
        for command: PaymentCommand in [.recordCreated(reference: "r"), .recordSettled, .recordCompleted] {
          _ = try await log.record(command, on: id, cursor: nowhere)
        }
        guard number == 1 else { continue }
        _ = try await log.request(.refund(nil), of: id)
        _ = try await log.record(.markUnknown(refund, reason: "?"), of: refund, on: id, cursor: nowhere)
      }
      let counted = log.flow.take()
      #expect(counted.accepted == 30 && counted.completed == 20 && counted.otherEnds == 10)
      #expect(counted.completionTimes.count == 20)
      #expect(log.flow.take().accepted == 0)
      // A process that begins half an hour later.
      let history = ActivityHistory(startMicroseconds: Clock.microseconds() + 1_800_000_000)
      try await ActivityFill(log.follower, into: history, end: store.reader.endOffset).run()
      _ = history.add(.init(), seconds: 1, now: ActivityPoint.beginMicroseconds(of: history.first + 1))
      let points = history.points
      let first = try #require(try store.reader.events(from: 0, limit: 1).first)
      #expect(points.first?.number == ActivityPoint.number(atMicroseconds: first.timestampMicroseconds))
      #expect(points.allSatisfy { $0.flow != nil })
      func sum(_ value: (ActivityPoint.Flow) -> Double) -> Double {
        points.compactMap(\.flow).map(value).reduce(0, +) * 10
      }
      #expect(abs(sum(\.acceptedPerSecond) - 30) < 0.001 && abs(sum(\.completedPerSecond) - 20) < 0.001)
      #expect(abs(sum(\.otherEndsPerSecond) - 10) < 0.001)
      #expect(points.contains { $0.flow?.completion != nil })
    }
  }
}
