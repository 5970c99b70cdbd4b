import Synchronization

/// What goes with a call from its step down to the connection, past the provider, which need not know of it.
struct CallContext: Sendable {
  /// For the call that this task makes; nil for calls that belong to no step.
  @TaskLocal static var current: CallContext?

  var stop: CallStop
  /// Sent with the call.
  var trace: TraceContext
}

/// Ends one call early, from outside its task, when other calls need its slot. The call then fails as one without a response.
///
/// ``CallContext`` carries it down to the connection. Safe to use from any task.
final class CallStop: Sendable {
  private struct State {
    var isStopped = false
    var reason: String?
    var action: (@Sendable () -> Void)?
  }

  private let state = Mutex(State())

  var isStopped: Bool { state.withLock { $0.isStopped } }

  /// Why it was stopped, if that was said.
  var reason: String? { state.withLock { $0.reason } }

  /// - Parameter reason: for a person; nil if other calls need the slot.
  func stop(because reason: String? = nil) {
    let action = state.withLock { state in
      if !state.isStopped { state.reason = reason }
      state.isStopped = true
      defer { state.action = nil }
      return state.action
    }
    action?()
  }

  /// Sets the action that ends the call. Runs it at once if the call was stopped before. A second action replaces the first.
  func whenStopped(_ action: @escaping @Sendable () -> Void) {
    let isStopped = state.withLock { state in
      if !state.isStopped { state.action = action }
      return state.isStopped
    }
    if isStopped { action() }
  }
}
