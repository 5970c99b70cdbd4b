import NIOCore
import Synchronization

/// What the server does: points of ten seconds for an hour, always, and one tick a second while somebody looks.
///
/// A second without a look costs some microseconds: it takes what was counted. All who follow the ticks get the same bytes, made once.
/// Safe to use from any task.
final class Activity: Sendable {
  /// What is read.
  struct Sources: Sendable {
    let flow: PaymentFlow
    /// The syncs of the payments log since the start.
    let syncs: @Sendable () -> RangeCounts
    /// Returns within about a second, whatever hangs.
    let readings: @Sendable () async -> ActivityReadings
  }

  /// How long ticks are made after the last request for one.
  private static let interest: UInt64 = 120_000_000_000
  /// A tick of this age, in nanoseconds, is as good as a new one.
  private static let freshness: UInt64 = 1_500_000_000

  private struct Made: Sendable {
    let bytes: [UInt8]
    /// Without what earlier ticks had.
    let readings: ActivityReadings
    let nanoseconds: UInt64
  }

  private struct State {
    var window: ActivityWindow
    /// The syncs until the begin of the open point.
    var syncs: RangeCounts
    var readings = ActivityReadings()
    var last: Made?
    /// Until when ticks are wanted though nobody follows.
    var wantedUntil: UInt64 = 0
    var listeners: [Int: AsyncStream<ByteBuffer>.Continuation] = [:]
    var nextListener = 0
    /// The tick that is being made.
    var making: Task<Made, Never>?
  }

  let history: ActivityHistory
  private let sources: Sources
  private let state: Mutex<State>

  /// - Parameter microseconds: now, since 1970.
  init(_ sources: Sources, microseconds: UInt64 = Clock.microseconds()) {
    self.sources = sources
    history = ActivityHistory(startMicroseconds: microseconds)
    let syncs = sources.syncs()
    state = Mutex(State(window: .init(syncs: syncs, nanoseconds: MonotonicTime.nanoseconds), syncs: syncs))
  }

  /// Counts and makes ticks until the task is cancelled.
  func run() async {
    while !Task.isCancelled {
      // Up to a whole second, so that points end where they should. Ends early only when the task is cancelled.
      try? await Task.sleep(for: .microseconds(Int64(1_000_000 - Clock.microseconds() % 1_000_000)))
      if !Task.isCancelled { await pass(microseconds: Clock.microseconds(), nanoseconds: MonotonicTime.nanoseconds) }
    }
  }

  /// Does what is due once a second.
  ///
  /// - Parameters:
  ///   - microseconds: now, since 1970.
  ///   - nanoseconds: now, of a clock that only goes forwards.
  func pass(microseconds: UInt64, nanoseconds: UInt64) async {
    let (tally, syncs) = (sources.flow.take(), sources.syncs())
    let seconds = state.withLock { $0.window.add(tally, syncs: syncs, nanoseconds: nanoseconds) }
    let closed = history.add(tally, seconds: seconds, now: microseconds)
    let isWanted = state.withLock { !$0.listeners.isEmpty || nanoseconds < $0.wantedUntil }
    guard isWanted || closed != nil else { return }
    let made = await make()
    if let closed {
      let earlier = state.withLock { state in
        defer { state.syncs = syncs }
        return state.syncs
      }
      history.update(closed) { point in
        point.lag = made.readings.lag
        point.parked = made.readings.list?.parked
        point.outcomeUnknown = made.readings.list?.outcomeUnknown
        point.sync = TimeQuantiles(syncs, since: earlier)
      }
    }
    let event = ByteBuffer(bytes: Array("data: ".utf8) + made.bytes + Array("\n\n".utf8))
    for listener in state.withLock({ Array($0.listeners.values) }) { listener.yield(event) }
  }

  // MARK: - Ticks

  /// The present tick as JSON. Ticks are made each second from then on, for a while.
  func tick() async -> [UInt8] {
    let now = MonotonicTime.nanoseconds
    let last = state.withLock { state in
      state.wantedUntil = now + Self.interest
      return state.last
    }
    if let last, now < last.nanoseconds + Self.freshness { return last.bytes }
    return await make().bytes
  }

  /// Makes a tick, or waits for the one that is being made.
  private func make() async -> Made {
    let task = state.withLock { state in
      if let task = state.making { return task }
      let task = Task { [self] in
        let readings = await sources.readings()
        let tick = self.state.withLock { state in
          state.readings = readings.completed(with: state.readings)
          return ActivityTick(
            microseconds: Clock.microseconds(), flow: state.window.flow, sync: state.window.sync,
            readings: state.readings)
        }
        let made = Made(bytes: tick.json.bytes, readings: readings, nanoseconds: MonotonicTime.nanoseconds)
        self.state.withLock { state in
          state.last = made
          state.making = nil
        }
        return made
      }
      state.making = task
      return task
    }
    return await task.value
  }

  // MARK: - Followers

  /// Follows the ticks, as server-sent events. One that does not take them in time misses some, and holds one in memory.
  ///
  /// - Returns: ends with its task; pass its number to ``end(_:)`` then.
  func follow() -> (number: Int, ticks: AsyncStream<ByteBuffer>) {
    let (ticks, continuation) = AsyncStream<ByteBuffer>.makeStream(bufferingPolicy: .bufferingNewest(1))
    let number = state.withLock { state in
      state.nextListener += 1
      state.listeners[state.nextListener] = continuation
      return state.nextListener
    }
    return (number, ticks)
  }

  func end(_ number: Int) { state.withLock { $0.listeners.removeValue(forKey: number) }?.finish() }

  /// Those who follow.
  var followerCount: Int { state.withLock { $0.listeners.count } }
}
