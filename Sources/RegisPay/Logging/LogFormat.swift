import Logging

/// How a log line is written.
public enum LogFormat: String, Sendable, CaseIterable {
  /// For people: time, level, message, then `key=value` for each field. What is not a plain word is quoted and escaped, so
  /// that a line is always one line, whatever a peer has sent.
  case text
  /// For programs: one JSON object a line (<https://jsonlines.org>) with `timestamp`, `level`, `message`, `source` and a member
  /// for each field.
  case json

  /// The members of a JSON line that no field replaces.
  private static let reserved: Set<String> = ["timestamp", "level", "message", "source"]

  /// One line, with its line feed.
  ///
  /// - Parameters:
  ///   - microseconds: since 1970-01-01 UTC.
  ///   - fields: in the order in which they are written.
  public func line(
    _ level: Logger.Level, _ message: String, source: String, fields: [(key: String, value: String)],
    microseconds: UInt64
  ) -> String {
    switch self {
    case .text:
      var line = "\(timestamp(microseconds: microseconds)) \(level) \(Self.oneLine(message))"
      for (key, value) in fields { line += " \(Self.word(key))=\(Self.word(value))" }
      return line + "\n"
    case .json:
      var members: [JSONValue.Member] = [
        .init("timestamp", .string(timestamp(microseconds: microseconds))), .init("level", .string(level.rawValue)),
        .init("message", .string(message)), .init("source", .string(source)),
      ]
      for (key, value) in fields {
        members.append(.init(Self.reserved.contains(key) ? "field.\(key)" : key, .string(value)))
      }
      return String(decoding: JSONValue.object(members).bytes, as: UTF8.self) + "\n"
    }
  }

  /// A message without control characters, which could forge a line or command a terminal.
  private static func oneLine(_ text: String) -> String { isPrintable(text) ? text : escaped(text) }

  private static func word(_ text: String) -> String {
    let isPlain = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x22 && $0 != 0x3D && $0 != 0x5C }
    return isPlain && isPrintable(text) ? text : "\"\(escaped(text))\""
  }

  /// C0 and C1 controls, and the separators at which some programs end a line.
  private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || (0x2028...0x2029).contains(scalar.value)
  }

  private static func isPrintable(_ text: String) -> Bool { !text.unicodeScalars.contains(where: isControl) }

  private static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case _ where isControl(scalar): result += "\\u{\(String(scalar.value, radix: 16))}"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
