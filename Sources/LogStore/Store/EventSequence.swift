/// The log's events from an offset on, as copies, for `for try await`. It catches up and then follows the log:
///
/// ```swift
/// for try await event in store.reader.events(from: 0) { print(event.offset, event.type) }
/// ```
///
/// The loop ends, without an error, when its task is cancelled or the reader is closed: see *How reading ends* at
/// ``LogReader``. Each loop reads by itself, from the sequence's first offset. An event costs four allocations;
/// ``EventCursor`` lends events and allocates nothing.
///
/// Safe to use from any task; an iterator is for one task at a time.
public struct EventSequence: AsyncSequence, Sendable {
  public typealias Element = Event
  /// What ``EventCursor/next()`` and ``EventCursor/waitForMore()`` throw.
  public typealias Failure = LogStoreError

  let reader: LogReader
  let offset: UInt64

  /// Reads from the sequence's first offset on.
  public func makeAsyncIterator() -> Iterator { Iterator(reader.cursor(from: offset)) }

  /// Takes one event after the other. It keeps the segment that it is in mapped.
  public final class Iterator: AsyncIteratorProtocol {
    private var cursor: EventCursor

    init(_ cursor: consuming EventCursor) {
      self.cursor = cursor
    }

    /// The next event, as soon as it is durable; nil when the task is cancelled or the reader is closed.
    ///
    /// - Throws: what ``EventCursor/next()`` throws. After an error the same event is tried again.
    public func next(isolation actor: isolated (any Actor)? = #isolation) async throws(LogStoreError) -> Event? {
      repeat {
        if let event = try take() { return event }
      } while try await cursor.waitForMore()
      return nil
    }

    /// As ``next(isolation:)``.
    public func next() async throws(LogStoreError) -> Event? { try await next(isolation: nil) }

    private func take() throws(LogStoreError) -> Event? {
      guard let event = try cursor.next()?.copy() else { return nil }
      // A page that became unreadable while it was copied gave zeros.
      try cursor.check()
      return event
    }
  }
}

extension LogReader {
  /// All events from an offset on, the future ones included, as an `AsyncSequence` of copies. From behind the end of the log
  /// it waits until the log has grown to there.
  ///
  /// - Parameter offset: the offset of the first event.
  public func events(from offset: UInt64) -> EventSequence { EventSequence(reader: self, offset: offset) }
}
