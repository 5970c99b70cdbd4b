import Synchronization

/// A wait for an answer that the task's cancellation ends, while what is waited for goes on. The first answer counts.
final class EndableWait<Value: Sendable>: Sendable {
  typealias Answer = Result<Value, LogStoreError>

  private enum State {
    case new
    case waiting(UnsafeContinuation<Answer, Never>)
    case ended(Answer)
  }

  private let state = Mutex(State.new)

  /// Answers; a later answer counts for nothing.
  func end(with answer: Answer) {
    let continuation = state.withLock { state -> UnsafeContinuation<Answer, Never>? in
      switch state {
      case .new:
        state = .ended(answer)
        return nil
      case .waiting(let continuation):
        state = .ended(answer)
        return continuation
      case .ended: return nil
      }
    }
    continuation?.resume(returning: answer)
  }

  /// Calls `begin`, unless the task is cancelled, and waits. To be called once.
  func wait(_ begin: () -> Void) async throws(LogStoreError) -> Value {
    if Task.isCancelled { throw .cancelled }
    begin()
    let answer = await withTaskCancellationHandler {
      await withUnsafeContinuation { (continuation: UnsafeContinuation<Answer, Never>) in
        // Resumed exactly once: here, or by the call of `end` that changes `waiting` to `ended`.
        let answer = state.withLock { state -> Answer? in
          if case .ended(let answer) = state { return answer }
          state = .waiting(continuation)
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      end(with: .failure(.cancelled))
    }
    return try answer.get()
  }
}
