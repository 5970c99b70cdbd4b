import Synchronization

/// The points of the last hour: those of this process as they come, and those from before from the log.
///
/// Some 50 KiB. Safe to use from any task.
final class ActivityHistory: Sendable {
  /// An hour.
  static let capacity = 360

  private struct State {
    /// By number, modulo ``capacity``.
    var points = [ActivityPoint?](repeating: nil, count: ActivityHistory.capacity)
    /// The number of the point that is being counted.
    var open: UInt64
    var tally = PaymentFlow.Tally()
    var seconds = 0.0
    /// The two parts of the point in which the process began.
    var firstCounted: PaymentFlow.Tally?
    var firstRead: PaymentFlow.Tally?
    /// The points as JSON; nil after a change.
    var json: [UInt8]?

    /// A point to change; nil for one that has left the hour.
    mutating func update(_ number: UInt64, _ change: (inout ActivityPoint) -> Void) {
      let index = Int(number % UInt64(ActivityHistory.capacity))
      var point = points[index] ?? ActivityPoint(number)
      if point.number != number {
        guard point.number < number else { return }
        point = ActivityPoint(number)
      }
      change(&point)
      points[index] = point
      json = nil
    }
  }

  /// The start of the process, since 1970.
  let startMicroseconds: UInt64
  /// The number of the point in which the process began.
  let first: UInt64
  private let state: Mutex<State>

  init(startMicroseconds: UInt64) {
    self.startMicroseconds = startMicroseconds
    first = ActivityPoint.number(atMicroseconds: startMicroseconds)
    state = Mutex(State(open: first))
  }

  /// Adds what was counted until now.
  ///
  /// - Parameters:
  ///   - seconds: in which it was counted.
  ///   - now: microseconds since 1970.
  /// - Returns: the number of a point that is complete now.
  func add(_ tally: PaymentFlow.Tally, seconds: Double, now: UInt64) -> UInt64? {
    state.withLock { state in
      // What was counted up to the end of a point belongs to it.
      let earlier = move(to: ActivityPoint.number(atMicroseconds: now - min(now, 500_000)), &state)
      state.tally.add(tally)
      state.seconds += seconds
      return move(to: ActivityPoint.number(atMicroseconds: now), &state) ?? earlier
    }
  }

  /// Closes the open point and opens another.
  private func move(to number: UInt64, _ state: inout State) -> UInt64? {
    // A clock that is set back by a moment changes nothing.
    guard number > state.open || number + 1 < state.open else { return nil }
    let closed = state.open
    let (tally, seconds) = (state.tally, state.seconds)
    (state.open, state.tally, state.seconds) = (number, .init(), 0)
    guard number > closed else {
      // The clock was set back: these points' times come again.
      for (index, point) in state.points.enumerated() where point.map({ $0.number >= number }) ?? false {
        state.points[index] = nil
      }
      state.json = nil
      return nil
    }
    if closed == first, state.firstCounted == nil {
      state.firstCounted = tally
      state.update(closed) { _ in }
      setFirst(&state)
    } else {
      // The clock was set forward: of this point's time nothing was seen.
      guard seconds > 0 else { return nil }
      state.update(closed) { $0.flow = .init(tally, seconds: seconds) }
    }
    return closed
  }

  /// Sets the flow of the point in which the process began, once both parts are known.
  private func setFirst(_ state: inout State) {
    guard var tally = state.firstCounted, let read = state.firstRead else { return }
    tally.add(read)
    state.update(first) { $0.flow = .init(tally, seconds: Double(ActivityPoint.seconds)) }
  }

  /// Sets what payments did before this process began, as the log tells.
  func set(_ tally: PaymentFlow.Tally, readFor number: UInt64) {
    state.withLock { state in
      guard number <= first, number <= state.open, number + UInt64(Self.capacity) >= state.open else { return }
      guard number == first else {
        return state.update(number) { $0.flow = .init(tally, seconds: Double(ActivityPoint.seconds)) }
      }
      state.firstRead = tally
      setFirst(&state)
    }
  }

  /// Changes a point that is complete.
  func update(_ number: UInt64, _ change: (inout ActivityPoint) -> Void) {
    state.withLock { state in
      // The clock may have been set back since.
      if number < state.open { state.update(number, change) }
    }
  }

  /// The complete points of the last hour from the first known one on, without a gap.
  var points: [ActivityPoint] { state.withLock { Self.points($0) } }

  private static func points(_ state: State) -> [ActivityPoint] {
    let begin = state.open - min(state.open, UInt64(capacity))
    let points = (begin..<state.open).map { number in
      // `capacity` is not 0.
      let point = state.points[Int(number % UInt64(capacity))]
      return point.flatMap { $0.number == number ? $0 : nil } ?? ActivityPoint(number)
    }
    return Array(points.drop(while: \.isEmpty))
  }

  /// The points as a JSON array. Takes some milliseconds once in ten seconds, and none after that.
  var json: [UInt8] {
    if let json = state.withLock({ $0.json }) { return json }
    let points = points
    let json = JSONValue.array(points.map(\.json)).bytes
    // Unless a point has changed since.
    state.withLock { state in if Self.points(state) == points { state.json = json } }
    return json
  }
}
