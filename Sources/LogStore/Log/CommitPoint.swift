import Synchronization

/// What readers of a log go by: how far it is durable, and whoever waits for it to go on. The writer, or the follower of
/// another process's writer, publishes; any thread reads.
@usableFromInline
final class CommitPoint: Sendable {
  private struct Waiter {
    var id: UInt64
    /// The event that it waits for.
    var offset: UInt64
    var continuation: UnsafeContinuation<Bool, Never>
  }

  private struct State {
    var end: DurableEnd
    var cursors: CursorPlaces
    /// Few as a rule, in no order; as a list, since it keeps its memory.
    var waiters: [Waiter] = []
    /// The lowest of their offsets: while the end has not come to it nobody is due.
    var firstAwaited = UInt64.max
    var lastWaiter: UInt64 = 0
    /// Memory of a list of those that were woken, kept from one time to the next.
    var spare: [Waiter] = []
    var isClosed = false
    var failure: LogStoreError?
    /// Called once when it is closed.
    var closings: [@Sendable () -> Void] = []
    /// Why no more events can come, while those that are there can be read.
    var waitFailure: LogStoreError?
  }

  let segments: SegmentSet
  private let state: Mutex<State>
  /// Set with `State/isClosed`, for those who look often.
  private let hasEnded = Atomic(false)

  init(segments: SegmentSet, end: DurableEnd, cursors: CursorPlaces) {
    self.segments = segments
    state = Mutex(State(end: end, cursors: cursors))
    segments.open.publish(endOffset: end.offset)
  }

  var end: DurableEnd { state.withLock { $0.end } }
  var cursors: CursorPlaces { state.withLock { $0.cursors } }

  /// Ended for good: closed, or its follower has found damage.
  var isClosed: Bool { hasEnded.load(ordering: .acquiring) }

  /// Throws once the reader is closed, or its follower has found damage.
  @usableFromInline
  func check() throws(LogStoreError) {
    _ = try checkedEnd()
  }

  /// As ``check()`` for a call that gives events: throws `cancelled` in a cancelled task.
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

  /// Everything before `end` is on disk, and its events are in the open index.
  ///
  /// On the way of every append: with nobody to wake it is one lock that hardly anyone holds, and it never allocates.
  func publish(_ end: DurableEnd, cursors: CursorPlaces) {
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
    // Outside the lock, since a waiter may run at once, and read.
    for waiter in due { waiter.continuation.resume(returning: true) }
    due.removeAll(keepingCapacity: true)
    state.withLock { $0.spare = due }
  }

  /// Ends all waiting, now and later.
  func close(failure: LogStoreError? = nil) {
    let (due, closings) = state.withLock { state in
      // What was closed by its owner does not fail afterwards.
      if !state.isClosed { state.failure = failure }
      state.isClosed = true
      hasEnded.store(true, ordering: .releasing)
      var due: [Waiter] = []
      Self.take(from: &state, into: &due) { _ in true }
      defer { state.closings = [] }
      return (due, state.closings)
    }
    for waiter in due { waiter.continuation.resume(returning: false) }
    for tell in closings { tell() }
  }

  /// Calls `tell` once when it is closed: at once if it is.
  func whenClosed(_ tell: @escaping @Sendable () -> Void) {
    let isClosed = state.withLock { state in
      if !state.isClosed { state.closings.append(tell) }
      return state.isClosed
    }
    if isClosed { tell() }
  }

  /// Fails all waiting for events that are not there, now and later. What is durable is read as before.
  func endWaits(_ failure: LogStoreError) {
    let due = state.withLock { state in
      if state.waitFailure == nil { state.waitFailure = failure }
      var due: [Waiter] = []
      Self.take(from: &state, into: &due) { _ in true }
      return due
    }
    for waiter in due { waiter.continuation.resume(returning: false) }
  }

  /// Returns true as soon as the event at `offset` is durable, false when the task is cancelled or the reader closed, also
  /// if the event is there.
  func wait(for offset: UInt64, endsWithTask: Bool = true) async throws(LogStoreError) -> Bool {
    let id = state.withLock { state in
      state.lastWaiter += 1
      return state.lastWaiter
    }
    let arrived = await withTaskCancellationHandler {
      // Unsafe continuations spare an allocation. Each is resumed exactly once: by whoever takes it out of `waiters`
      // under the lock, or right here if it never gets there.
      await withUnsafeContinuation { (continuation: UnsafeContinuation<Bool, Never>) in
        let answer: Bool? = state.withLock { state in
          // Under the lock, after the handler is set: a cancellation is seen here, or finds the waiter.
          if state.isClosed || endsWithTask && Task.isCancelled { return false }
          if state.end.offset > offset { return true }
          if state.waitFailure != nil { return false }
          state.waiters.append(Waiter(id: id, offset: offset, continuation: continuation))
          state.firstAwaited = min(state.firstAwaited, offset)
          return nil
        }
        if let answer { continuation.resume(returning: answer) }
      }
    } onCancel: {
      guard endsWithTask else { return }
      let waiter = state.withLock { state in
        // `firstAwaited` may stay too low: then the next event is one look for nobody.
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
    var kept = 0
    for index in state.waiters.indices {
      let waiter = state.waiters[index]
      if isDue(waiter) {
        due.append(waiter)
      } else {
        state.waiters[kept] = waiter
        kept += 1
        state.firstAwaited = min(state.firstAwaited, waiter.offset)
      }
    }
    state.waiters.removeLast(state.waiters.count - kept)
  }
}
