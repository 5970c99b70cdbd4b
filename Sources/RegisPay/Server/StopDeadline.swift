import Foundation
import Synchronization

/// Watches that a stop does not take longer than it may, on a thread of its own, so that it holds whatever hangs: a task that
/// can't be cancelled, the threads that tasks share, a disk.
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

  /// The stop has begun; further calls change nothing.
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
