import LogStore

/// Reads a log in order for whoever follows it: goes on behind damage, which it reports on the log's board. The one way in
/// which consumers, list, webhooks and event streams read. A part of the log is read to its end also in a cancelled task:
/// each of them looks between two parts.
///
/// Safe to use from any task.
public struct LogFollower: Sendable {
  public let reader: LogReader
  public let damage: DamageStatus

  public init(_ reader: LogReader, _ damage: DamageStatus) {
    self.reader = reader
    self.damage = damage
  }

  /// Visits the events from an offset on until `body` returns false.
  ///
  /// - Returns: the offset to go on with, which may lie behind the last event: damage and gaps are passed over.
  ///
  /// - Parameter passed: called for each damaged place, before the event behind it.
  func forEach(
    from place: UInt64, passed: (DamagedRange) -> Void = { _ in }, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try forEach(from: place, waitsForDisk: true, passed: passed, body)
  }

  /// As above for an answer that can't wait: what the disk can't read at the moment is left out of it.
  func forEachNow(
    from place: UInt64, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try forEach(from: place, waitsForDisk: false, passed: { _ in }, body)
  }

  private func forEach(
    from place: UInt64, waitsForDisk: Bool, passed: (DamagedRange) -> Void, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    do throws(LogStoreError) {
      let next = try reader.forEach(
        from: place, waitsForDisk: waitsForDisk, endsWithTask: false,
        passingOver: { range in
          // What was left out of one answer is no reason for others to leave it out.
          if waitsForDisk { damage.report(range) } else { damage.metNow(range) }
          passed(range)
        }, body)
      damage.readOn(from: place, to: next)
      return next
    } catch {
      if case .unreadable(let found) = error { damage.waits(for: found, at: place) }
      throw error
    }
  }

  /// Looks something up in the log. If part of the log can't be read, `/health` reports it from then on.
  func look<Value>(
    _ body: (LogReader) throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    do throws(LogStoreError) {
      return try body(reader)
    } catch {
      damage.met(error)
      throw error
    }
  }

  /// Copies of at most `limit` events.
  ///
  /// - Returns: also the offset to go on with.
  func events(
    from place: UInt64, limit: Int
  ) throws(LogStoreError) -> (events: [Event], next: UInt64) {
    var events: [Event] = []
    let next = try forEach(from: place) { event in
      events.append(event.copy())
      return events.count < limit
    }
    return (events, next)
  }
}

extension LogStoreError {
  /// A place of a file is damaged or can't be read: what is not there goes on.
  var isOfAPlace: Bool {
    switch self {
    case .damaged, .unreadable: true
    default: false
    }
  }
}
