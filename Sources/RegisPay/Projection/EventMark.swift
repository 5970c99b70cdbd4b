import LogStore

/// Tells an event from the one that another history of the same log has at its offset.
struct EventMark: Hashable, Sendable, CustomStringConvertible {
  var offset: UInt64
  var version: UInt64
  var timestampMicroseconds: UInt64
  var stream: String

  init(_ event: Event) {
    offset = event.offset
    version = event.version
    timestampMicroseconds = event.timestampMicroseconds
    stream = event.stream
  }

  /// Reads ``description``.
  init?(_ text: String) {
    let words = text.split(separator: " ", maxSplits: 3)
    guard words.count == 4, let offset = UInt64(words[0]), let version = UInt64(words[1]), let time = UInt64(words[2])
    else { return nil }
    (self.offset, self.version, timestampMicroseconds, stream) = (offset, version, time, String(words[3]))
  }

  var description: String { "\(offset) \(version) \(timestampMicroseconds) \(stream)" }

  /// Whether the log has another event at the offset. False where it can't tell: the event can't be read, or was lost.
  func contradicts(_ reader: LogReader) -> Bool {
    guard let event = try? reader.events(from: offset, limit: 1, endsWithTask: false).first, event.offset == offset
    else {
      return false
    }
    return EventMark(event) != self
  }
}
