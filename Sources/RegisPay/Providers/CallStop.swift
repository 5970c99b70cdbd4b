import Synchronization

/// Ends one call early, from outside of its task: its place is needed. The call then fails as one that was not answered.
///
/// It is handed down to the connection as a task-local value: what a step is has no part in it. Safe to use from any task.
final class CallStop: Sendable {
  /// Of the call that this task makes; nil where nobody ends it early.
  @TaskLocal static var current: CallStop?

  private struct Inside {
    var isStopped = false
    var action: (@Sendable () -> Void)?
  }

  private let inside = Mutex(Inside())

  var isStopped: Bool { inside.withLock { $0.isStopped } }

  func stop() {
    let action = inside.withLock { inside in
      inside.isStopped = true
      defer { inside.action = nil }
      return inside.action
    }
    action?()
  }

  /// What ends the call; done at once if it was stopped before. There is one for each call: a second takes its place.
  func whenStopped(_ action: @escaping @Sendable () -> Void) {
    let isStopped = inside.withLock { inside in
      if !inside.isStopped { inside.action = action }
      return inside.isStopped
    }
    if isStopped { action() }
  }
}
