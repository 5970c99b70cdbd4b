/// Why a value is no event, or an event no value.
public enum EventCodingError: Error, Sendable, Hashable, CustomStringConvertible {
  /// The payload can't be written as JSON.
  case notEncodable(type: String, reason: String)
  /// The event's payload is no JSON, or not that of its type.
  case notDecodable(type: String, stream: String, offset: UInt64, reason: String)
  /// The event is of another type than the one it was read as.
  case otherType(expected: String, found: String, offset: UInt64)

  public var description: String {
    switch self {
    case .notEncodable(let type, let reason): "a payload of \(type) can't be written as JSON: \(reason)"
    case .notDecodable(let type, let stream, let offset, let reason):
      "the event at offset \(offset) of the stream \(stream.debugDescription) does not decode as \(type): \(reason); "
        + "give a changed payload a new version, and decode the old one too"
    case .otherType(let expected, let found, let offset):
      "the event at offset \(offset) is of the type \(found), not \(expected)"
    }
  }
}
