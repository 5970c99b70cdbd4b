import Foundation
import Synchronization

/// Limits the time of a stop. Its thread is made when the server starts, and needs nothing when the stop begins. So it works whatever
/// hangs: a task that can't be cancelled, the threads that tasks share, a disk, or a system that gives the process no further thread.
final class StopDeadline: Sendable {
  private enum State {
    case waiting, begun, ended
  }

  /// Microseconds between two looks at whether the stop has ended.
  private static let pause: UInt32 = 10_000

  private let limit: Duration
  private let state = Mutex(State.waiting)
  private let changes = DispatchSemaphore(value: 0)

  init(_ limit: Duration) {
    self.limit = limit
  }

  /// Starts the thread, which ends with ``end()``. Called once, before or after ``begin()``.
  ///
  /// - Parameter onOverdue: called on that thread if a stop takes longer than the limit.
  func start(onOverdue: @escaping @Sendable () -> Void) {
    let thread = Thread { [self] in
      changes.wait()
      // A wait with a limit goes by the machine's clock on Linux, which may be set meanwhile.
      let end = MonotonicTime.nanoseconds + UInt64(limit / .nanoseconds(1))
      while hasBegun {
        guard MonotonicTime.nanoseconds < end else { return onOverdue() }
        usleep(Self.pause)
      }
    }
    thread.name = "stop deadline"
    thread.start()
  }

  /// The stop begins. Further calls have no effect. Takes no memory, and never waits for longer than a short lock.
  func begin() {
    let isFirst = state.withLock { state in
      guard case .waiting = state else { return false }
      state = .begun
      return true
    }
    if isFirst { changes.signal() }
  }

  func end() {
    state.withLock { $0 = .ended }
    changes.signal()
  }

  private var hasBegun: Bool { state.withLock { if case .begun = $0 { true } else { false } } }
}
