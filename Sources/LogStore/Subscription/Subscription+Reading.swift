extension Subscription {
  /// What becomes of an event that is read.
  public enum Choice<Item: Sendable>: Sendable {
    /// The event is given to the consumer as this value. It is unfinished until the consumer finishes its offset.
    case take(Item)
    /// The event is of no interest, and finished.
    case skip
    /// Reading ends before this event.
    case stop
  }

  /// What was read at once.
  public struct Portion<Item: Sendable>: Sendable {
    /// What was taken, in order, with the offsets of the events.
    public var items: [(offset: UInt64, item: Item)] = []
    /// The damaged ranges that were passed over, in order. A range with offsets is unfinished until the consumer finishes it;
    /// a range without offsets has lost no event.
    public var passed: [DamagedRange] = []
    /// From where to where was read. Empty if there was nothing to read.
    public var offsets: Range<UInt64>
    /// The offsets of the items and of the first events of the ranges, in order.
    var taken: [UInt64] = []
  }

  /// Reads from ``readOffset`` on, without waiting: to the log's present end, to damage, or until `choose` returns
  /// ``Choice/stop``. For a consumer that takes few of the events, or many at once: `choose` sees each event without a copy.
  /// An event that is unfinished already is left out.
  ///
  /// Use either this or the loop over the subscription. One task at a time reads; another one waits.
  ///
  /// - Parameter endsWithTask: if false, a cancelled task still reads.
  /// - Parameter choose: what becomes of an event. A pure function of the event: bytes that became unreadable meanwhile were
  ///   zeros, and its result is discarded then. It must not read from the subscription.
  /// - Throws: ``LogStoreError/cancelled``, ``LogStoreError/closed`` and what ``EventCursor/next()`` throws, if nothing was
  ///   read before. Otherwise the next call throws it.
  public func read<Item>(
    endsWithTask: Bool = true, _ choose: (borrowing EventView) -> Choice<Item>
  ) throws(LogStoreError) -> Portion<Item> {
    try reading.withLock { _ throws(LogStoreError) in
      try readPortion(endsWithTask: endsWithTask, choose)
    }
  }

  /// As ``read(endsWithTask:_:)``, while ``reading`` is held.
  private func readPortion<Item>(
    endsWithTask: Bool, _ choose: (borrowing EventView) -> Choice<Item>
  ) throws(LogStoreError) -> Portion<Item> {
    try reader.commitPoint.checkReading(endsWithTask: endsWithTask)
    let start = readOffset
    var portion = Portion<Item>(offsets: start..<start)
    var cursor = reader.cursor(from: start, passingOverDamage: options.passOver != nil, endsWithTask: endsWithTask)
    let end = reader.endOffset
    // Only after the subscription has moved back.
    let hasUnfinished = state.withLock { $0.progress.hasUnfinished(from: start) }
    var goesOn = true
    do throws(LogStoreError) {
      while goesOn, cursor.offset < end {
        var isGiven = false
        if let event = try cursor.next() {
          isGiven = true
          let offset = event.offset
          let choice = hasUnfinished && isUnfinished(offset) ? .skip : choose(event)
          // Bytes that became unreadable were zeros when `choose` saw them.
          try cursor.check()
          goesOn = portion.add(choice, at: offset)
        }
        let passed = cursor.takePassed()
        for range in passed { portion.add(range) }
        if !isGiven {
          try cursor.checkEnding()
          if passed.isEmpty { break }
        }
      }
    } catch {
      // Events before the fault are not delayed by it.
      if portion.offsets.isEmpty, portion.passed.isEmpty { throw error }
    }
    state.withLock { state in
      for offset in portion.taken { state.progress.take(offset) }
      state.progress.read(upTo: portion.offsets.upperBound)
    }
    return portion
  }
}

extension Subscription.Portion {
  /// Adds the event at an offset.
  ///
  /// - Returns: whether to read on.
  fileprivate mutating func add(_ choice: Subscription.Choice<Item>, at offset: UInt64) -> Bool {
    switch choice {
    case .stop: return false
    case .skip: break
    case .take(let item):
      items.append((offset, item))
      taken.append(offset)
    }
    offsets = offsets.lowerBound..<offset + 1
    return true
  }

  fileprivate mutating func add(_ range: DamagedRange) {
    passed.append(range)
    if range.offsets.isEmpty { return }
    taken.append(range.offsets.lowerBound)
    offsets = offsets.lowerBound..<range.offsets.upperBound
  }
}

// MARK: - Event by event

extension Subscription: AsyncSequence {
  public typealias Element = Event
  /// What the loop throws: what ``EventCursor/next()`` and ``commit()`` throw, and
  /// ``LogStoreError/limitExceeded(what:actual:limit:)`` at ``Options/unfinishedLimit``.
  public typealias Failure = LogStoreError

  /// Takes one event after the other. Several iterators share the events of the subscription.
  public struct Iterator: AsyncIteratorProtocol {
    let subscription: Subscription

    /// The next event, as soon as it is durable; nil when the task is cancelled or the store is closed. Commits the
    /// checkpoint when it is due, and before it returns nil.
    public mutating func next(isolation actor: isolated (any Actor)? = #isolation) async throws(LogStoreError) -> Event?
    {
      if let event = try await subscription.next() { return event }
      try await subscription.commitAtEnd()
      return nil
    }

    /// As ``next(isolation:)``.
    public mutating func next() async throws(LogStoreError) -> Event? { try await next(isolation: nil) }
  }

  /// Continues where the subscription is.
  public func makeAsyncIterator() -> Iterator { Iterator(subscription: self) }

  /// Handles all events, the future ones included, and finishes each when `handle` returns. Ends, without an error, when its
  /// task is cancelled or the store is closed.
  ///
  /// The first error ends it: the other events in `handle` are cancelled and waited for, the checkpoint is committed, and
  /// the error is thrown. The next call begins at the lowest unfinished event, as after a restart. Make one call at a time,
  /// and none beside a loop over the subscription.
  ///
  /// - Parameter concurrency: the most events that are handled at a time. They begin in order. With 1, each ends before the
  ///   next one begins.
  /// - Parameter handle: called for each event.
  /// - Throws: what `handle` throws, and what the loop over the subscription throws.
  /// - Precondition: `concurrency` is positive.
  public func run(
    concurrency: Int = 1, _ handle: @escaping @Sendable (Event) async throws -> Void
  ) async throws {
    precondition(concurrency > 0, "nothing is handled with a concurrency of \(concurrency)")
    do {
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<concurrency {
          group.addTask { [self] in
            while let event = try await next() {
              try await handle(event)
              finish(event)
            }
          }
        }
        // Throws the first error at once, which cancels the others.
        while try await group.next() != nil {}
      }
      restart()
    } catch {
      restart()
      // A handler that ends with its task has not failed.
      guard error is CancellationError, Task.isCancelled else {
        // The error that came first is the one to report.
        try? await commit()
        throw error
      }
    }
    try await commitAtEnd()
  }

  /// Reads again all that is unfinished.
  private func restart() {
    state.withLock { state in
      state.buffer = []
      state.progress.restart()
    }
  }

  private func commitAtEnd() async throws(LogStoreError) {
    do throws(LogStoreError) {
      try await commit()
    } catch {
      // A closed store ends the loop without an error.
      if error != .closed { throw error }
    }
  }

  /// The next event; nil when reading ends.
  private func next() async throws(LogStoreError) -> Event? {
    while true {
      try await commitIfDue()
      switch try take() {
      case .event(let event)?: return event
      case .passed(let range)?:
        do throws(LogStoreError) {
          try await options.passOver?(range)
        } catch {
          state.withLock { $0.buffer.insert(.passed(range), at: $0.buffer.startIndex) }
          throw error
        }
        finish(range)
      case nil: if try await !waitForMore() { return nil }
      }
    }
  }

  /// Takes what comes next, if it is there. Returns nil also when reading ends.
  private func take() throws(LogStoreError) -> Delivery? {
    do throws(LogStoreError) {
      return try reading.withLock { _ throws(LogStoreError) in
        try reader.commitPoint.checkReading(endsWithTask: true)
        if state.withLock({ $0.buffer.isEmpty }) { try fillBuffer() }
        return state.withLock { $0.buffer.popFirst() }
      }
    } catch {
      guard error == .closed || error == .cancelled else { throw error }
      return nil
    }
  }

  /// The most events and bytes that are read ahead of the loop.
  private static let bufferLimit = (events: 64, byteCount: 256 << 10)

  private func fillBuffer() throws(LogStoreError) {
    let unfinished = unfinishedCount
    guard unfinished < options.unfinishedLimit else {
      throw .limitExceeded(
        what: "unfinished events of a subscription", actual: UInt64(unfinished), limit: UInt64(options.unfinishedLimit))
    }
    var room = Swift.min(Self.bufferLimit.events, options.unfinishedLimit - unfinished)
    var bytes = 0
    let portion = try readPortion(endsWithTask: true) { event -> Choice<Event> in
      guard room > 0, bytes < Self.bufferLimit.byteCount else { return .stop }
      let copy = event.copy()
      room -= 1
      bytes += copy.payload.count + copy.metadata.count
      return .take(copy)
    }
    // Each portion reports the places without a missing event that are ahead in its segment.
    let passed = portion.passed.filter { !$0.offsets.isEmpty }
    let deliveries = portion.items.map { Delivery.event($0.item) } + passed.map { Delivery.passed($0) }
    state.withLock { $0.buffer = ArraySlice(deliveries.sorted { $0.offset < $1.offset }) }
  }
}
