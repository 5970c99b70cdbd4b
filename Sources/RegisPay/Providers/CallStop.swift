import Synchronization

/// Ends one call early, from outside of its task: its place is needed. The call then fails as one that was not answered.
///
/// It is handed down to the connection as a task-local value: what a step is has no part in it. Safe to use from any task.
final class CallStop: Sendable {
  /// Of the call that this task makes; nil where nobody ends it early.
  @TaskLocal static var current: CallStop?

  private struct State {
    var isStopped = false
    var action: (@Sendable () -> Void)?
  }

  private let state = Mutex(State())

  var isStopped: Bool { state.withLock { $0.isStopped } }

  func stop() {
    let action = state.withLock { state in
      state.isStopped = true
      defer { state.action = nil }
      return state.action
    }
    action?()
  }

  /// What ends the call; done at once if it was stopped before. There is one for each call: a second takes its place.
  func whenStopped(_ action: @escaping @Sendable () -> Void) {
    let isStopped = state.withLock { state in
      if !state.isStopped { state.action = action }
      return state.isStopped
    }
    if isStopped { action() }
  }
}
