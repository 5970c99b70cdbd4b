import Synchronization

/// A consumer of the log that continues after a restart where it stopped. It gives each event in order, the consumer says
/// when an event is finished, and the subscription commits its checkpoint: the lowest offset that is not finished.
///
/// ```swift
/// let mails = try store.subscription("mails")
/// try await mails.run(concurrency: 8) { event in try await send(event) }
/// ```
///
/// or, one event after the other:
///
/// ```swift
/// for try await event in mails {
///   try await send(event)
///   mails.finish(event)
/// }
/// ```
///
/// Delivery is at least once: after a crash, events from the checkpoint on are given again, also those that were finished
/// since it was committed. An effect on the log itself happens once, if it is appended together with
/// ``commit(finishing:)``. The checkpoint is committed at most once in ``Options/commitInterval``, and when the loop ends.
///
/// The loop ends, without an error, at the next event after its task is cancelled or the store is closed: see *How reading
/// ends* at ``LogReader``. On a closed store nothing can be committed any more, so cancel the task and wait for it before you
/// close the store: otherwise the events since the last commit are given again. After an error the subscription can be
/// used again; it continues with the same event.
///
/// The checkpoint is a cursor of the log (``LogStore/subscription(_:options:)``), or the consumer keeps it elsewhere, such as
/// in its own database (``init(_:from:options:)``).
///
/// Can be used from any thread and task. Several loops over one subscription share its events. Use only one subscription
/// for a cursor at a time: each of two would get every event. Memory grows with the unfinished events, at most
/// ``Options/unfinishedLimit``. A subscription keeps its store open.
public final class Subscription: Sendable {
  /// How a subscription reads and commits.
  public struct Options: Sendable {
    /// The shortest time between two commits of the checkpoint by the subscription itself.
    public var commitInterval: Duration
    /// The most events that are given and not finished. At the limit the loop throws
    /// ``LogStoreError/limitExceeded(what:actual:limit:)``. ``Subscription/run(concurrency:_:)`` finishes each event itself,
    /// and does not reach it unless more are handled at a time.
    public var unfinishedLimit: Int
    /// What happens with damage. Nil: it is thrown, at each try, until the store is repaired. Otherwise the subscription
    /// continues with the next sound event, as ``LogReader/cursor(from:passingOverDamage:endsWithTask:)`` does. The loop
    /// first waits for this function, and the checkpoint moves past the range only after it returns: so it can record what
    /// was passed over. If it throws, the loop throws its error and calls it again at the next try. It is not called for
    /// damage that has hit no event.
    public var passOver: (@Sendable (DamagedRange) async throws(LogStoreError) -> Void)?

    /// Commits once a second at most, has at most 10,000 unfinished events, and throws damage, unless told otherwise.
    public init(
      commitInterval: Duration = .seconds(1), unfinishedLimit: Int = 10_000,
      passOver: (@Sendable (DamagedRange) async throws(LogStoreError) -> Void)? = nil
    ) {
      self.commitInterval = commitInterval
      self.unfinishedLimit = unfinishedLimit
      self.passOver = passOver
    }
  }

  /// What the loop gives next.
  enum Delivery: Sendable {
    case event(Event)
    case passed(DamagedRange)

    var offset: UInt64 {
      switch self {
      case .event(let event): event.offset
      case .passed(let range): range.offsets.lowerBound
      }
    }
  }

  struct State: Sendable {
    var progress: SubscriptionProgress
    /// Read by the loop and not given yet, in order. All are unfinished.
    var buffer: ArraySlice<Delivery> = []
    var lastCommit = ContinuousClock.now
  }

  /// What it reads.
  public let reader: LogReader
  let options: Options
  let state: Mutex<State>
  /// Held while a portion is read, so that each event is read once.
  let reading = Mutex(())
  /// The log's cursor; nil if the consumer keeps the checkpoint.
  private let cursor: (store: LogStore, name: String)?

  /// A subscription whose checkpoint the consumer keeps itself: in its own database, in the same transaction as its results.
  /// ``noteCommitted(_:)`` tells the subscription. Also for a reader in another process than the writer, which can't commit
  /// cursors.
  ///
  /// - Parameter reader: what it reads.
  /// - Parameter checkpoint: the offset of the first event that it gives.
  /// - Parameter options: how it reads.
  public convenience init(_ reader: LogReader, from checkpoint: UInt64, options: Options = Options()) {
    self.init(reader, from: checkpoint, cursor: nil, options: options)
  }

  init(_ reader: LogReader, from checkpoint: UInt64, cursor: (store: LogStore, name: String)?, options: Options) {
    self.reader = reader
    self.cursor = cursor
    self.options = options
    state = Mutex(State(progress: SubscriptionProgress(checkpoint: checkpoint)))
  }

  // MARK: - Progress

  /// The offset that is read next. Each event below it is finished or unfinished.
  public var readOffset: UInt64 { state.withLock { $0.progress.readOffset } }

  /// The durable checkpoint, as far as this subscription knows: a restart begins there.
  public var checkpoint: UInt64 { state.withLock { $0.progress.checkpoint } }

  /// The lowest offset that is not finished: how far the checkpoint may move.
  public var nextCheckpoint: UInt64 { state.withLock { $0.progress.nextCheckpoint } }

  /// What ``nextCheckpoint`` is once the event at an offset is finished too: the checkpoint to store together with its
  /// effect. Usually costs nothing; at most a step for each event above it that is finished.
  public func nextCheckpoint(finishing offset: UInt64) -> UInt64 {
    state.withLock { $0.progress.nextCheckpoint(finishing: offset) }
  }

  /// The number of events, and of damaged ranges, that are taken and not finished.
  public var unfinishedCount: Int { state.withLock { $0.progress.unfinishedCount } }

  /// Whether the event at an offset is taken and not finished.
  public func isUnfinished(_ offset: UInt64) -> Bool { state.withLock { $0.progress.isUnfinished(offset) } }

  /// Says that an event is done, so that the checkpoint may pass it. Events can be finished in any order, from any task.
  /// An event that is finished already stays so.
  public func finish(_ event: Event) { finish(event.offset) }

  /// Says that the event at an offset is done.
  public func finish(_ offset: UInt64) { state.withLock { $0.progress.finish(offset) } }

  /// Says that what had to be done about a damaged range that was passed over is done.
  public func finish(_ passed: DamagedRange) {
    // A range without events may begin at the offset of an event.
    if !passed.offsets.isEmpty { finish(passed.offsets.lowerBound) }
  }

  /// Says that all of a portion is done: what was taken, and what had to be done about damage.
  public func finish<Item>(_ portion: Portion<Item>) {
    state.withLock { state in
      for offset in portion.taken { state.progress.finish(offset) }
    }
  }

  /// Reads again from an offset, if it lies before ``readOffset``. What is unfinished is not given a second time.
  ///
  /// A cursor of the log stays where it is, so a restart begins there. To move it back, commit it with
  /// ``CursorCommit/isReset`` and make another subscription. A consumer that keeps the checkpoint itself stores the offset
  /// before it calls this.
  public func rewind(to offset: UInt64) {
    reading.withLock { _ in
      state.withLock { state in
        // What was not given is read again.
        state.progress.rewind(to: Swift.min(offset, state.buffer.first?.offset ?? offset))
        for delivery in state.buffer { state.progress.finish(delivery.offset) }
        state.buffer = []
      }
    }
  }

  // MARK: - The checkpoint

  /// The checkpoint to append together with the effect of an event: both are on disk, or neither is. Call
  /// ``finish(_:)-(Event)`` when the append has returned.
  ///
  /// ```swift
  /// try await store.append(Append(bill, cursors: [billing.commit(finishing: order)]))
  /// billing.finish(order)
  /// ```
  ///
  /// While the consumer handles one event at a time, each effect is appended exactly once. With several at a time, the
  /// checkpoint stays behind the lowest unfinished event, and effects of events above it are repeated after a crash: give
  /// the appended events ids, or a condition on their stream, so that a repeat changes nothing.
  ///
  /// - Precondition: the checkpoint is a cursor of the log.
  public func commit(finishing event: Event) -> CursorCommit { cursorCommit(nextCheckpoint(finishing: event.offset)) }

  /// Commits the checkpoint, if it has moved: returns once it is durable. The loop does this by itself. Call it after a loop
  /// that was left by `break`. Does nothing if the consumer keeps the checkpoint.
  ///
  /// - Throws: what ``LogStore/append(_:endsWithTask:)`` throws. The next commit includes what this one has not committed.
  public func commit() async throws(LogStoreError) {
    guard let cursor, let offset = state.withLock({ $0.progress.uncommitted }) else { return }
    // Usually it was appended with the effect of an event.
    if let present = try reader.cursor(cursor.name), present >= offset { return noteCommitted(present) }
    try await cursor.store.append(Append([], cursors: [cursorCommit(offset)]))
    noteCommitted(offset)
  }

  /// As ``commit()``, but only if ``Options/commitInterval`` has passed since the last call that committed.
  public func commitIfDue() async throws(LogStoreError) {
    let isDue = state.withLock { state in
      let now = ContinuousClock.now
      guard state.progress.uncommitted != nil, now >= state.lastCommit + options.commitInterval else { return false }
      // One of several tasks commits. If that fails, the next interval repeats it.
      state.lastCommit = now
      return true
    }
    if isDue { try await commit() }
  }

  /// Says that a checkpoint is durable. For a consumer that keeps the checkpoint itself. An offset below ``checkpoint``
  /// changes nothing.
  public func noteCommitted(_ checkpoint: UInt64) { state.withLock { $0.progress.noteCommitted(checkpoint) } }

  private func cursorCommit(_ checkpoint: UInt64) -> CursorCommit {
    guard let cursor else {
      preconditionFailure("the consumer keeps the checkpoint itself: there is no cursor to commit")
    }
    // A commit with an event's effect may overtake one without.
    return CursorCommit(name: cursor.name, checkpoint: checkpoint, mayLag: true)
  }

  // MARK: - Waiting

  /// Waits until there is an event to read; returns true at once if there is. Returns false when the task is cancelled or
  /// the reader is closed. Meanwhile commits the checkpoint when it is due.
  ///
  /// - Throws: what ``LogReader/waitForEvents(at:endsWithTask:)`` and ``commit()`` throw.
  public func waitForMore() async throws(LogStoreError) -> Bool {
    while true {
      try await commitIfDue()
      let (offset, time) = state.withLock { ($0.progress.readOffset, commitTime($0)) }
      guard let time else { return try await reader.waitForEvents(at: offset) }
      if let hasMore = try await waitForEvents(at: offset, until: time) { return hasMore }
      if Task.isCancelled { return false }
    }
  }

  /// When to check again whether there is something to commit; nil if all is committed.
  private func commitTime(_ state: State) -> ContinuousClock.Instant? {
    guard cursor != nil else { return nil }
    let interval = Swift.max(options.commitInterval, .milliseconds(1))
    if state.progress.uncommitted != nil { return state.lastCommit + interval }
    // Another task may finish an event meanwhile.
    return state.progress.unfinishedCount > 0 ? .now + interval : nil
  }

  /// Returns nil when the time has come first.
  private func waitForEvents(
    at offset: UInt64, until time: ContinuousClock.Instant
  ) async throws(LogStoreError) -> Bool? {
    let first = await withTaskGroup(of: Result<Bool?, LogStoreError>.self) { [reader] group in
      group.addTask {
        do throws(LogStoreError) {
          return .success(try await reader.waitForEvents(at: offset))
        } catch {
          return .failure(error)
        }
      }
      group.addTask {
        // Ends early only when the task is cancelled, or there are events.
        try? await Task.sleep(until: time, clock: .continuous)
        return .success(nil)
      }
      let first = await group.next()
      group.cancelAll()
      return first
    }
    // Proof: the group has two tasks, so there is a first one to end.
    return try first!.get()
  }
}

extension LogStore {
  /// A subscription whose checkpoint is the log's cursor `name`. It begins at the cursor, or at the log's first event if the
  /// cursor was never committed. To begin elsewhere, commit the cursor first.
  ///
  /// - Parameter name: the cursor's name, 1…255 bytes of UTF-8.
  /// - Parameter options: how it reads and commits.
  /// - Throws: ``LogStoreError/limitExceeded(what:actual:limit:)`` or ``LogStoreError/invalidArgument(_:)`` for the name;
  ///   what ``LogReader/cursor(_:)`` throws.
  public func subscription(
    _ name: String, options: Subscription.Options = .init()
  ) throws(LogStoreError) -> Subscription {
    let checkpoint = try reader.cursor(name) ?? 0
    // The rules of a cursor's name, now and not at the first commit.
    _ = try EncodedAppend(Append([], cursors: [CursorCommit(name: name, checkpoint: checkpoint)]))
    return Subscription(reader, from: checkpoint, cursor: (self, name), options: options)
  }
}
