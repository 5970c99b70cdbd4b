import Testing

@testable import RegisPay

/// A second within point 1,000, in microseconds since 1970.
func moment(_ second: Double, inPoint number: UInt64 = 1_000) -> UInt64 {
  ActivityPoint.beginMicroseconds(of: number) + UInt64(second * 1_000_000)
}

func tally(accepted: UInt64 = 0, completed: UInt64 = 0, milliseconds: UInt64? = nil) -> PaymentFlow.Tally {
  var tally = PaymentFlow.Tally()
  for _ in 0..<accepted { tally.count(.accepted) }
  for _ in 0..<completed {
    tally.count(.completed)
    if let milliseconds { tally.noteCompletion(from: 1, to: 1 + milliseconds * 1_000) }
  }
  return tally
}

@Suite("The points of the last hour")
struct ActivityHistoryTests {
  /// Adds a second for each of these, from the begin of a point on.
  private func add(_ history: ActivityHistory, _ seconds: Int, from number: UInt64, accepted: UInt64 = 1) {
    for second in 1...seconds {
      _ = history.add(tally(accepted: accepted), seconds: 1, now: moment(Double(second), inPoint: number) + 2_000)
    }
  }

  @Test("a point has what was counted in its ten seconds, and is shown when they are over")
  func points() {
    let history = ActivityHistory(startMicroseconds: moment(0, inPoint: 999))
    history.set(.init(), readFor: 999)
    #expect(history.points.isEmpty && history.json == Array("[]".utf8))
    add(history, 9, from: 999)
    #expect(history.points.isEmpty)
    _ = history.add(tally(accepted: 1), seconds: 1, now: moment(10, inPoint: 999) + 2_000)
    #expect(history.points.count == 1, "the last second of a point ends at the begin of the next")
    for second in 1...10 {
      let isLast = second == 10
      let closed = history.add(
        tally(accepted: 2, completed: 1, milliseconds: 30), seconds: 1, now: moment(Double(second) + 0.001))
      #expect((closed == 1_000) == isLast)
    }
    let points = history.points
    #expect(points.map(\.number) == [999, 1_000])
    #expect(points.first?.flow?.acceptedPerSecond == 1)
    #expect(points.last?.flow?.acceptedPerSecond == 2 && points.last?.flow?.completedPerSecond == 1)
    #expect(abs((points.last?.flow?.completion?.p99 ?? 0) - 30) < 1)
    #expect(points.last?.lag == nil)
    history.update(1_000) { $0.parked = 3 }
    #expect(history.points.last?.parked == 3 && history.json == JSONValue.array(history.points.map(\.json)).bytes)
  }

  @Test("360 points are kept, the latest, and times without one are shown as not known")
  func capacity() {
    let history = ActivityHistory(startMicroseconds: moment(0))
    for number in UInt64(1_000)..<1_500 where number != 1_300 { add(history, 10, from: number) }
    let points = history.points
    #expect(points.map(\.number) == Array(1_140..<1_500))
    #expect(points.filter { $0.flow == nil }.map(\.number) == [1_300])
  }

  @Test("the point in which the process began is known when both its parts are", arguments: [true, false])
  func first(isReadLast: Bool) {
    let history = ActivityHistory(startMicroseconds: moment(4))
    if !isReadLast { history.set(tally(accepted: 30), readFor: 1_000) }
    for second in 5...10 { _ = history.add(tally(accepted: 5), seconds: 1, now: moment(Double(second) + 0.001)) }
    if isReadLast {
      #expect(history.points.isEmpty)
      history.set(tally(accepted: 30), readFor: 1_000)
    }
    #expect(history.points.map { $0.flow?.acceptedPerSecond } == [6])
  }

  @Test("points from the log come before those of the process, and none older than an hour")
  func read() {
    let history = ActivityHistory(startMicroseconds: moment(0))
    for number in UInt64(500)...1_000 { history.set(tally(accepted: 10), readFor: number) }
    add(history, 10, from: 1_000)
    #expect(history.points.map(\.number) == Array(641...1_000))
    #expect(history.points.first?.flow?.acceptedPerSecond == 1 && history.points.last?.flow?.acceptedPerSecond == 2)
    history.set(tally(accepted: 10), readFor: 1_001)
    #expect(history.points.last?.number == 1_000, "what the process counts is not read")
  }

  @Test("a clock that is set back by a moment changes nothing; by more, its points come again")
  func clock() {
    let history = ActivityHistory(startMicroseconds: moment(0))
    history.set(.init(), readFor: 1_000)
    add(history, 30, from: 1_000)
    #expect(history.points.map(\.number) == [1_000, 1_001, 1_002])
    #expect(history.add(tally(accepted: 7), seconds: 1, now: moment(9.9, inPoint: 1_002)) == nil)
    #expect(history.points.map(\.number) == [1_000, 1_001, 1_002])
    #expect(history.add(tally(accepted: 3), seconds: 1, now: moment(5, inPoint: 1_001)) == nil)
    #expect(history.points.map(\.number) == [1_000])
    add(history, 10, from: 1_001, accepted: 3)
    #expect(history.points.map(\.number) == [1_000, 1_001])
    #expect(history.points.last?.flow?.acceptedPerSecond == 3)
    // And forward by hours.
    add(history, 11, from: 9_000)
    #expect(history.points.map(\.number) == [9_000])
  }

  @Test("numbers have at most two decimals")
  func numbers() {
    let texts = [(0, "0"), (1.5, "1.5"), (2, "2"), (0.126, "0.13"), (3.04, "3.04"), (99.999, "100"), (-1, "0")]
    for (value, text) in texts { #expect(JSONValue.rounded(value) == .number(text)) }
  }
}

@Suite("The rates of the last seconds")
struct ActivityWindowTests {
  private func syncs(_ count: UInt64) -> RangeCounts { RangeCounts(bounds: [100, 200], counts: [count, 0, 0]) }

  @Test("a rate is that of the last five seconds, by a clock that nobody sets")
  func rates() {
    var window = ActivityWindow(syncs: syncs(0), nanoseconds: 1_000_000_000)
    #expect(window.flow.acceptedPerSecond == 0 && window.sync == nil)
    #expect(window.add(tally(accepted: 10), syncs: syncs(0), nanoseconds: 3_000_000_000) == 2)
    #expect(window.flow.acceptedPerSecond == 5, "in the first seconds it is that since the start")
    for second in 4...8 {
      _ = window.add(
        tally(completed: 4, milliseconds: UInt64(second)), syncs: syncs(UInt64(second)),
        nanoseconds: UInt64(second) * 1_000_000_000)
    }
    #expect(window.flow.acceptedPerSecond == 0 && window.flow.completedPerSecond == 4)
    #expect(abs((window.flow.completion?.p50 ?? 0) - 6) < 0.2)
    #expect(abs((window.sync?.p50 ?? 0) - 0.05) < 0.001)
    for second in 9...13 {
      _ = window.add(tally(), syncs: syncs(8), nanoseconds: UInt64(second) * 1_000_000_000)
    }
    #expect(window.flow.completedPerSecond == 0 && window.flow.completion == nil && window.sync == nil)
  }
}
