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

  private struct Inside {
    var now: UInt64 = 1_800_000_000_000_000
    var passed: UInt64 = 0
    var count = 0
    var sleepers: [Sleeper] = []
    /// Those that were cancelled before they slept.
    var cancelled: Set<Int> = []
  }

  private let inside = Mutex(Inside())

  var now: UInt64 { inside.withLock { $0.now } }

  /// When the first sleeper wakes, by the calendar as it is set.
  var nextWake: UInt64? {
    inside.withLock { inside in inside.sleepers.map { inside.now + $0.until - inside.passed }.min() }
  }

  var clock: WebhookClock {
    WebhookClock(
      look: { self.inside.withLock { .init(now: $0.now, passed: $0.passed) } },
      sleep: { await self.sleep(until: $0) })
  }

  func advance(by duration: Duration) {
    let woken = inside.withLock { inside in
      inside.now += duration.microseconds
      inside.passed += duration.microseconds
      let passed = inside.passed
      defer { inside.sleepers.removeAll { $0.until <= passed } }
      return inside.sleepers.filter { $0.until <= passed }
    }
    for sleeper in woken { sleeper.continuation.resume() }
  }

  /// Somebody sets the calendar. Nobody who sleeps notices.
  func set(by seconds: Int64) {
    inside.withLock { $0.now = UInt64(Int64($0.now) + seconds * 1_000_000) }
  }

  private func sleep(until: UInt64) async {
    let number = inside.withLock { inside in
      inside.count += 1
      return inside.count
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let isOver = inside.withLock { inside in
          if inside.passed >= until || inside.cancelled.remove(number) != nil { return true }
          inside.sleepers.append(Sleeper(until: until, number: number, continuation: continuation))
          return false
        }
        if isOver { continuation.resume() }
      }
    } onCancel: {
      let sleeper = inside.withLock { inside -> Sleeper? in
        guard let index = inside.sleepers.firstIndex(where: { $0.number == number }) else {
          inside.cancelled.insert(number)
          return nil
        }
        return inside.sleepers.remove(at: index)
      }
      sleeper?.continuation.resume()
    }
  }
}
