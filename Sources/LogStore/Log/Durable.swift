import Synchronization

/// What readers of a log go by: how far it is durable, and whoever waits for it to go on. The writer, or the follower of
/// another process's writer, publishes; any thread reads.
@usableFromInline
final class Durable: Sendable {
  private struct State {
    var end: DurableEnd
    var cursors: CursorPlaces
    var waiters: [UInt64: (offset: UInt64, continuation: UnsafeContinuation<Bool, Never>)] = [:]
    var lastWaiter: UInt64 = 0
    var isClosed = false
    var failure: LogStoreError?
  }

  let segments: SegmentSet
  private let state: Mutex<State>

  init(segments: SegmentSet, end: DurableEnd, cursors: CursorPlaces) {
    self.segments = segments
    state = Mutex(State(end: end, cursors: cursors))
    segments.open.publish(endOffset: end.offset)
  }

  var end: DurableEnd { state.withLock { $0.end } }
  var cursors: CursorPlaces { state.withLock { $0.cursors } }

  /// Throws once the reader is closed, or its follower has found damage.
  @usableFromInline
  func check() throws(LogStoreError) {
    let (isClosed, failure) = state.withLock { ($0.isClosed, $0.failure) }
    if let failure { throw failure }
    if isClosed { throw .closed }
  }

  /// Everything before `end` is on disk, and its events are in the open index.
  func publish(_ end: DurableEnd, cursors: CursorPlaces) {
    segments.open.publish(endOffset: end.offset)
    let woken = state.withLock { state in
      let advanced = end.offset > state.end.offset
      state.end = end
      state.cursors = cursors
      return advanced && !state.waiters.isEmpty ? Self.take(from: &state) { $0 < end.offset } : []
    }
    for waiter in woken { waiter.resume(returning: true) }
  }

  /// Ends all waiting, now and later.
  func close(failure: LogStoreError? = nil) {
    let woken = state.withLock { state in
      state.isClosed = true
      if state.failure == nil { state.failure = failure }
      return Self.take(from: &state) { _ in true }
    }
    for waiter in woken { waiter.resume(returning: false) }
  }

  /// Returns true as soon as the event at `offset` is durable, false when the task is cancelled or the reader closed.
  func wait(for offset: UInt64) async throws(LogStoreError) -> Bool {
    let id = state.withLock { state in
      state.lastWaiter += 1
      return state.lastWaiter
    }
    let arrived = await withTaskCancellationHandler {
      // Unsafe continuations spare an allocation. Each is resumed exactly once: by whoever takes it out of `waiters`
      // under the lock, or right here if it never gets there.
      await withUnsafeContinuation { (continuation: UnsafeContinuation<Bool, Never>) in
        let answer: Bool? = state.withLock { state in
          if state.end.offset > offset { return true }
          // Under the lock, after the handler is set: a cancellation is seen here, or finds the waiter.
          if state.isClosed || Task.isCancelled { return false }
          state.waiters[id] = (offset, continuation)
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      let waiter = state.withLock { $0.waiters.removeValue(forKey: id) }
      waiter?.continuation.resume(returning: false)
    }
    if !arrived { try checkFailure() }
    return arrived
  }

  private func checkFailure() throws(LogStoreError) {
    if let failure = state.withLock({ $0.failure }) { throw failure }
  }

  private static func take(
    from state: inout State, where isDue: (UInt64) -> Bool
  ) -> [UnsafeContinuation<Bool, Never>] {
    var woken: [UnsafeContinuation<Bool, Never>] = []
    for (id, waiter) in state.waiters where isDue(waiter.offset) {
      woken.append(waiter.continuation)
      state.waiters[id] = nil
    }
    return woken
  }
}
