import Synchronization

/// A wait for a result that ends when the task is cancelled, while the work itself goes on. The first result counts.
final class EndableWait<Value: Sendable>: Sendable {
  typealias Outcome = Result<Value, LogStoreError>

  private enum State {
    case new
    case waiting(UnsafeContinuation<Outcome, Never>)
    case ended(Outcome)
  }

  private let state = Mutex(State.new)

  /// Ends the wait. Has no effect if the wait has ended already.
  func end(with outcome: Outcome) {
    let continuation = state.withLock { state -> UnsafeContinuation<Outcome, Never>? in
      switch state {
      case .new:
        state = .ended(outcome)
        return nil
      case .waiting(let continuation):
        state = .ended(outcome)
        return continuation
      case .ended: return nil
      }
    }
    continuation?.resume(returning: outcome)
  }

  /// Calls `begin`, unless the task is cancelled, and waits. Call it once.
  func wait(_ begin: () -> Void) async throws(LogStoreError) -> Value {
    if Task.isCancelled { throw .cancelled }
    begin()
    let outcome = await withTaskCancellationHandler {
      await withUnsafeContinuation { (continuation: UnsafeContinuation<Outcome, Never>) in
        // Resumed exactly once: here, or by the call of `end` that changes `waiting` to `ended`.
        let outcome = state.withLock { state -> Outcome? in
          if case .ended(let outcome) = state { return outcome }
          state = .waiting(continuation)
          return nil
        }
        if let outcome { continuation.resume(returning: outcome) }
      }
    } onCancel: {
      end(with: .failure(.cancelled))
    }
    return try outcome.get()
  }
}
