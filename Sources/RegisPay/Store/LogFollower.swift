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
    from offset: UInt64, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try forEach(from: offset, waitsForDisk: false, passed: { _ in }, body)
  }

  private func forEach(
    from offset: UInt64, waitsForDisk: Bool, passed: (DamagedRange) -> Void, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    do throws(LogStoreError) {
      let next = try reader.forEach(
        from: offset, waitsForDisk: waitsForDisk, endsWithTask: false,
        passingOver: { range in
          // A range that one response leaves out is not yet known as damage to others.
          if waitsForDisk { damage.report(range) } else { damage.noteLeftOut(range) }
          passed(range)
        }, body)
      damage.readerMoved(from: offset, to: next)
      return next
    } catch {
      if case .unreadable(let found) = error { damage.readerWaits(for: found, at: offset) }
      throw error
    }
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

  /// Copies at most `limit` events.
  ///
  /// - Returns: also the offset to read next.
  func events(
    from offset: UInt64, limit: Int
  ) throws(LogStoreError) -> (events: [Event], next: UInt64) {
    var events: [Event] = []
    let next = try forEach(from: offset) { event in
      events.append(event.copy())
      return events.count < limit
    }
    return (events, next)
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
}
