import LogStore

/// Reads a log in order: passes over damage, and reports it to the log's ``DamageStatus``. Consumers, the list, webhooks and
/// event streams all read through it. A portion of the log is read to its end even in a cancelled task: each reader checks for
/// cancellation between two portions.
///
/// Safe to use from any task.
public struct LogFollower: Sendable {
  public let reader: LogReader
  public let damage: DamageStatus

  public init(_ reader: LogReader, _ damage: DamageStatus) {
    self.reader = reader
    self.damage = damage
  }

  /// Visits the events from an offset on, until `body` returns false.
  ///
  /// - Parameter passed: called for each damaged range, before the event behind it.
  /// - Returns: the offset to read next. It may lie behind the last event, as damage and gaps are passed over.
  func forEach(
    from offset: UInt64, passed: (DamagedRange) -> Void = { _ in }, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try forEach(from: offset, waitsForDisk: true, passed: passed, body)
  }

  /// Visits events as above for a response that can't wait: leaves out what the disk can't read at the moment.
  func forEachNow(
    from offset: UInt64, passed: (DamagedRange) -> Void = { _ in }, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try forEach(from: offset, waitsForDisk: false, passed: passed, body)
  }

  private func forEach(
    from offset: UInt64, waitsForDisk: Bool, passed: (DamagedRange) -> Void, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try reporting(from: offset) { () throws(LogStoreError) in
      let next = try reader.forEach(
        from: offset, waitsForDisk: waitsForDisk, endsWithTask: false,
        passingOver: { range in
          // A range that one response leaves out is not yet known as damage to others.
          if waitsForDisk { damage.report(range) } else { damage.noteLeftOut(range) }
          passed(range)
        }, body)
      return (next, next)
    }
  }

  /// Reports to ``damage`` whether a reader moves on or waits for the disk.
  ///
  /// - Parameter body: reads from `offset` on; also returns the offset to read next.
  private func reporting<Value>(
    from offset: UInt64, _ body: () throws(LogStoreError) -> (Value, next: UInt64)
  ) throws(LogStoreError) -> Value {
    do throws(LogStoreError) {
      let (value, next) = try body()
      damage.readerMoved(from: offset, to: next)
      return value
    } catch {
      if case .unreadable(let found) = error { damage.readerWaits(for: found, at: offset) }
      throw error
    }
  }

  /// A copy of the event at an offset; nil if there is none, or it is damaged.
  func event(at offset: UInt64) throws(LogStoreError) -> Event? {
    var found: Event?
    _ = try forEach(from: offset) { event in
      if event.offset == offset { found = event.copy() }
      return false
    }
    return found
  }

  /// Looks something up in the log. If a part of the log can't be read, `/health` reports it from then on.
  func lookUp<Value>(
    _ body: (LogReader) throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    do throws(LogStoreError) {
      return try body(reader)
    } catch {
      damage.note(error)
      throw error
    }
  }
}

// MARK: - Subscriptions

extension LogFollower {
  /// How all consumers of a log read. What they pass over is reported by ``read(_:_:)``.
  static func subscriptionOptions(commitInterval: Duration = .seconds(1)) -> Subscription.Options {
    Subscription.Options(commitInterval: commitInterval, passOver: { _ in })
  }

  /// A subscription that keeps its checkpoint outside the log, or commits it together with its events.
  func subscription(from checkpoint: UInt64) -> Subscription {
    Subscription(reader, from: checkpoint, options: Self.subscriptionOptions())
  }

  /// Reads a portion, and reports damage.
  ///
  /// - Returns: what ``Subscription/read(endsWithTask:_:)`` returns. The consumer finishes the ranges that were passed over.
  func read<Item>(
    _ subscription: Subscription, _ choose: (borrowing EventView) -> Subscription.Choice<Item>
  ) throws(LogStoreError) -> Subscription.Portion<Item> {
    try reporting(from: subscription.readOffset) { () throws(LogStoreError) in
      let portion = try subscription.read(endsWithTask: false, choose)
      for range in portion.passed { damage.report(range) }
      return (portion, portion.offsets.upperBound)
    }
  }

  /// Copies at most `limit` events, all of which are finished: for a consumer that handles them before it commits.
  ///
  /// - Returns: also the offsets that were read, with what was passed over; empty at the log's end.
  func events(
    of subscription: Subscription, limit: Int
  ) throws(LogStoreError) -> (events: [Event], offsets: Range<UInt64>) {
    var count = 0
    let portion = try read(subscription) { event -> Subscription.Choice<Event> in
      guard count < limit else { return .stop }
      count += 1
      return .take(event.copy())
    }
    subscription.finish(portion)
    return (portion.items.map(\.item), portion.offsets)
  }

  /// Repeats a consumer's work until its task is cancelled. After an error it waits for five seconds.
  ///
  /// - Parameter failed: reports an error.
  /// - Returns: false when the log was closed.
  func repeatUntilCancelled(_ work: () async throws -> Void, failed: (any Error) -> Void) async -> Bool {
    while !Task.isCancelled {
      do {
        try await work()
      } catch {
        if case .closed? = error as? LogStoreError { return false }
        if Task.isCancelled { break }
        failed(error)
        // Ends early only when the task is cancelled.
        try? await Task.sleep(for: .seconds(5))
      }
    }
    return true
  }
}

extension LogStoreError {
  /// Whether the error concerns a range of a file, which is damaged or can't be read: the rest of the log works.
  var isLocalDamage: Bool {
    switch self {
    case .damaged, .unreadable: true
    default: false
    }
  }

  /// Whether a repair could not save what was asked for.
  var isLoss: Bool { if case .streamIncomplete = self { true } else { false } }
}
