import Synchronization

/// The durable end of a log, and the tasks that wait for it to advance. The writer publishes it, or the follower of another
/// process's writer. Any thread reads it.
@usableFromInline
final class CommitPoint: Sendable {
  private struct Waiter {
    var id: UInt64
    /// The offset of the event that it waits for.
    var offset: UInt64
    var continuation: UnsafeContinuation<Bool, Never>
  }

  private struct State {
    var end: DurableEnd
    var cursors: Checkpoints
    /// Usually few, unordered. An array, since it reuses its memory.
    var waiters: [Waiter] = []
    /// The lowest awaited offset. No waiter is due before the end has passed it.
    var firstAwaited = UInt64.max
    var lastWaiter: UInt64 = 0
    /// The memory of the last list of woken waiters, for the next one.
    var spare: [Waiter] = []
    var isClosed = false
    var failure: LogStoreError?
    /// Called once, on closing.
    var closings: [@Sendable () -> Void] = []
    /// The reason why no more events can come, while those that exist can be read.
    var waitFailure: LogStoreError?
  }

  let segments: SegmentSet
  private let state: Mutex<State>
  /// Set with `State/isClosed`, for frequent checks without the lock.
  private let hasEnded = Atomic(false)

  init(segments: SegmentSet, end: DurableEnd, cursors: Checkpoints) {
    self.segments = segments
    state = Mutex(State(end: end, cursors: cursors))
    segments.open.publish(endOffset: end.offset)
  }

  var end: DurableEnd { state.withLock { $0.end } }
  var cursors: Checkpoints { state.withLock { $0.cursors } }

  /// Ended for good: the reader was closed, or its follower has found damage.
  var isClosed: Bool { hasEnded.load(ordering: .acquiring) }

  /// Throws once the reader is closed, or its follower has found damage.
  @usableFromInline
  func check() throws(LogStoreError) {
    _ = try checkedEnd()
  }

  /// As ``check()``, for a call that returns events: throws `cancelled` in a cancelled task.
  @usableFromInline
  func checkReading(endsWithTask: Bool) throws(LogStoreError) {
    try check()
    if endsWithTask, Task.isCancelled { throw .cancelled }
  }

  /// The durable end; throws as ``check()`` does.
  func checkedEnd() throws(LogStoreError) -> DurableEnd {
    let (end, isClosed, failure) = state.withLock { ($0.end, $0.isClosed, $0.failure) }
    if let failure { throw failure }
    if isClosed { throw .closed }
    return end
  }

  /// Publishes that everything before `end` is on disk and that its events are in the open index.
  ///
  /// On the path of every append. Without waiters it takes one lock, which is rarely contended, and it never allocates.
  func publish(_ end: DurableEnd, cursors: Checkpoints) {
    segments.open.publish(endOffset: end.offset)
    var due = state.withLock { state -> [Waiter] in
      state.end = end
      state.cursors = cursors
      guard end.offset > state.firstAwaited else { return [] }
      var due: [Waiter] = []
      swap(&due, &state.spare)
      Self.take(from: &state, into: &due) { $0.offset < end.offset }
      return due
    }
    if due.isEmpty { return }
    // Outside the lock, since a waiter may run at once and read.
    for waiter in due { waiter.continuation.resume(returning: true) }
    due.removeAll(keepingCapacity: true)
    state.withLock { $0.spare = due }
  }

  /// Ends all waits, current and future.
  func close(failure: LogStoreError? = nil) {
    let (due, closings) = state.withLock { state in
      // A reader that its owner has closed does not fail afterwards.
      if !state.isClosed { state.failure = failure }
      state.isClosed = true
      hasEnded.store(true, ordering: .releasing)
      var due: [Waiter] = []
      Self.take(from: &state, into: &due) { _ in true }
      defer { state.closings = [] }
      return (due, state.closings)
    }
    for waiter in due { waiter.continuation.resume(returning: false) }
    for action in closings { action() }
  }

  /// Calls `action` once on closing; at once if it is closed already.
  func whenClosed(_ action: @escaping @Sendable () -> Void) {
    let isClosed = state.withLock { state in
      if !state.isClosed { state.closings.append(action) }
      return state.isClosed
    }
    if isClosed { action() }
  }

  /// Fails all current and future waits for events that don't exist yet. Durable events can still be read.
  func endWaits(_ failure: LogStoreError) {
    let due = state.withLock { state in
      if state.waitFailure == nil { state.waitFailure = failure }
      var due: [Waiter] = []
      Self.take(from: &state, into: &due) { _ in true }
      return due
    }
    for waiter in due { waiter.continuation.resume(returning: false) }
  }

  /// Returns true as soon as the event at `offset` is durable. Returns false if the task is cancelled or the reader closed,
  /// even if the event exists.
  func wait(for offset: UInt64, endsWithTask: Bool = true) async throws(LogStoreError) -> Bool {
    let id = state.withLock { state in
      state.lastWaiter += 1
      return state.lastWaiter
    }
    let arrived = await withTaskCancellationHandler {
      // An unsafe continuation avoids an allocation. Each is resumed exactly once: by the code that removes it from
      // `waiters` under the lock, or here if it is never added.
      await withUnsafeContinuation { (continuation: UnsafeContinuation<Bool, Never>) in
        let result: Bool? = state.withLock { state in
          // Under the lock, after the handler is set: a cancellation is either seen here, or finds the waiter.
          if state.isClosed || endsWithTask && Task.isCancelled { return false }
          if state.end.offset > offset { return true }
          if state.waitFailure != nil { return false }
          state.waiters.append(Waiter(id: id, offset: offset, continuation: continuation))
          state.firstAwaited = min(state.firstAwaited, offset)
          return nil
        }
        if let result { continuation.resume(returning: result) }
      }
    } onCancel: {
      guard endsWithTask else { return }
      let waiter = state.withLock { state in
        // `firstAwaited` may stay too low. Then the next event causes one search that finds no waiter.
        state.waiters.firstIndex { $0.id == id }.map { state.waiters.remove(at: $0) }
      }
      waiter?.continuation.resume(returning: false)
    }
    if !arrived {
      let (isClosed, failure, waitFailure) = state.withLock { ($0.isClosed, $0.failure, $0.waitFailure) }
      if let failure { throw failure }
      if let waitFailure, !isClosed, !(endsWithTask && Task.isCancelled) { throw waitFailure }
    }
    return arrived
  }

  func checkFailure() throws(LogStoreError) {
    if let failure = state.withLock({ $0.failure }) { throw failure }
  }

  private static func take(from state: inout State, into due: inout [Waiter], where isDue: (Waiter) -> Bool) {
    state.firstAwaited = .max
    var remaining = 0
    for index in state.waiters.indices {
      let waiter = state.waiters[index]
      if isDue(waiter) {
        due.append(waiter)
      } else {
        state.waiters[remaining] = waiter
        remaining += 1
        state.firstAwaited = min(state.firstAwaited, waiter.offset)
      }
    }
    state.waiters.removeLast(state.waiters.count - remaining)
  }
}
