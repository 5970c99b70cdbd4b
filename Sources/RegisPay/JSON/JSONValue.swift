/// A JSON value as written. A number keeps its text, so that no digit of an amount passes through binary floating point.
public enum JSONValue: Sendable, Hashable {
  case null
  case bool(Bool)
  /// The number's text, exactly as written; a legal JSON number.
  case number(String)
  case string(String)
  case array([JSONValue])
  /// Members in the order written. No key occurs twice.
  case object([Member])

  public struct Member: Sendable, Hashable {
    public var key: String
    public var value: JSONValue

    public init(_ key: String, _ value: JSONValue) {
      self.key = key
      self.value = value
    }
  }

  /// The value of an object's member with this key; nil when there is none, or when this is not an object.
  /// Linear in the number of members.
  public subscript(key: String) -> JSONValue? {
    guard case .object(let members) = self else { return nil }
    return members.first { $0.key == key }?.value
  }

  /// The value of a whole number from 0 to 2^64 - 1; nil for any other value.
  public var unsigned: UInt64? {
    if case .number(let digits) = self { UInt64(digits) } else { nil }
  }

  /// The text of a string; nil for any other value.
  public var text: String? {
    if case .string(let text) = self { text } else { nil }
  }
}

/// Why bytes are not JSON, and at which byte.
public struct JSONError: Error, Sendable, Hashable, CustomStringConvertible {
  /// In bytes from the start.
  public var position: Int
  public var reason: String

  public var description: String { "not valid JSON at byte \(position): \(reason)" }
}
