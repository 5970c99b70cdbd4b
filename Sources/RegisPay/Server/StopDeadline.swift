import Foundation
import Synchronization

/// Limits the time of a stop. It uses its own thread, so that it works whatever hangs: a task that can't be cancelled, the threads that
/// tasks share, a disk.
final class StopDeadline: Sendable {
  private enum State {
    case waiting, begun, ended
  }

  private let limit: Duration
  private let onOverdue: @Sendable () -> Void
  private let state = Mutex(State.waiting)

  init(_ limit: Duration, onOverdue: @escaping @Sendable () -> Void) {
    self.limit = limit
    self.onOverdue = onOverdue
  }

  /// The stop begins. Further calls have no effect.
  func begin() {
    let isFirst = state.withLock { state in
      guard case .waiting = state else { return false }
      state = .begun
      return true
    }
    guard isFirst else { return }
    Thread.detachNewThread { [self] in
      Thread.sleep(forTimeInterval: limit / .seconds(1))
      if state.withLock({ if case .begun = $0 { true } else { false } }) { onOverdue() }
    }
  }

  func end() { state.withLock { $0 = .ended } }
}
