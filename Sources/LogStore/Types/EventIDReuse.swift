/// Why an append was refused for one of its event ids: the log has an event with the id, and it is not this append's event
/// at the same offset and version.
public struct EventIDReuse: Sendable, Hashable {
  /// What differs in the append.
  public enum Difference: Sendable, Hashable {
    /// The event is for this stream.
    case stream(String)
    /// The append's condition on the stream gives the event this version.
    case version(UInt64)
    /// The event is of this type.
    case type(String)
    /// The event has another payload, with this number of bytes, where the log's has `knownByteCount`. The first
    /// `firstDifference` bytes are the same.
    case payload(byteCount: Int, knownByteCount: Int, firstDifference: Int)
    /// The event is the same, but the append is another one: its event with this index has no id, or the log does not have
    /// it at the matching offset after the first.
    case append(event: Int)
  }

  /// The id that both events have.
  public var id: EventID
  /// The index of the event in the append, from 0.
  public var event: Int
  /// The offset of the event in the log that has the id.
  public var offset: UInt64
  /// The stream of the event in the log.
  public var stream: String
  /// The version of the event in the log.
  public var version: UInt64
  /// The type of the event in the log.
  public var type: String
  /// What differs between the append and the event in the log.
  public var difference: Difference

  /// Describes the event in the log, and what differs.
  public init(
    id: EventID, event: Int, offset: UInt64, stream: String, version: UInt64, type: String, difference: Difference
  ) {
    self.id = id
    self.event = event
    self.offset = offset
    self.stream = stream
    self.version = version
    self.type = type
    self.difference = difference
  }
}

extension EventIDReuse: CustomStringConvertible {
  /// What the append and the log have under the id, in one line.
  public var description: String {
    let asked =
      switch difference {
      case .stream(let stream): "has it for stream \(stream)"
      case .version(let version): "has it for version \(version)"
      case .type(let type): "has it with type \(type)"
      case .payload(let byteCount, let knownByteCount, let position):
        "has it with another payload (in bytes: \(byteCount), in the log \(knownByteCount)), different from byte \(position) on"
      case .append(let event):
        "is another one: its event \(event), counted from 0, has no id or is not in the log in its place beside that one"
      }
    return
      "event id \(id) is used already, by version \(version) of stream \(stream), of type \(type), at offset \(offset);"
      + " this append \(asked); nothing was written, a new event needs an id of its own"
  }
}
