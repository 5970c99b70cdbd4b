import Synchronization

@testable import RegisPay

/// A calendar that moves, and time that passes, when a test says so.
final class ManualClock: Sendable {
  private struct Sleeper {
    /// So much has passed in all.
    var until: UInt64
    var number: Int
    var continuation: CheckedContinuation<Void, Never>
  }

  private struct State {
    var now: UInt64 = 1_800_000_000_000_000
    var elapsed: UInt64 = 0
    var count = 0
    var sleepers: [Sleeper] = []
    /// Those that were cancelled before they slept.
    var cancelled: Set<Int> = []
  }

  private let state = Mutex(State())

  var now: UInt64 { state.withLock { $0.now } }

  /// When the first sleeper wakes, by the calendar as it is set.
  var nextWake: UInt64? {
    state.withLock { state in state.sleepers.map { state.now + $0.until - state.elapsed }.min() }
  }

  var clock: WebhookClock {
    WebhookClock(
      read: { self.state.withLock { .init(now: $0.now, elapsed: $0.elapsed) } },
      sleep: { await self.sleep(until: $0) })
  }

  func advance(by duration: Duration) {
    let woken = state.withLock { state in
      state.now += duration.microseconds
      state.elapsed += duration.microseconds
      let elapsed = state.elapsed
      defer { state.sleepers.removeAll { $0.until <= elapsed } }
      return state.sleepers.filter { $0.until <= elapsed }
    }
    for sleeper in woken { sleeper.continuation.resume() }
  }

  /// Somebody sets the calendar. Nobody who sleeps notices.
  func set(by seconds: Int64) {
    state.withLock { $0.now = UInt64(Int64($0.now) + seconds * 1_000_000) }
  }

  private func sleep(until: UInt64) async {
    let number = state.withLock { state in
      state.count += 1
      return state.count
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let isOver = state.withLock { state in
          if state.elapsed >= until || state.cancelled.remove(number) != nil { return true }
          state.sleepers.append(Sleeper(until: until, number: number, continuation: continuation))
          return false
        }
        if isOver { continuation.resume() }
      }
    } onCancel: {
      let sleeper = state.withLock { state -> Sleeper? in
        guard let index = state.sleepers.firstIndex(where: { $0.number == number }) else {
          state.cancelled.insert(number)
          return nil
        }
        return state.sleepers.remove(at: index)
      }
      sleeper?.continuation.resume()
    }
  }
}
