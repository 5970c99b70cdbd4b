/// Reads JSON strictly by RFC 8259, with two rules of our own: an object with a duplicate key is refused (two readers could
/// disagree on an amount), and nesting is limited, so that no input can exhaust the stack.
///
/// The caller bounds the size of the input; time and memory are linear in it.
public struct JSONReader {
  /// The deepest nesting of arrays and objects.
  public static let depthLimit = 32

  private let bytes: [UInt8]
  private var position = 0

  private init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Reads one value. Only white space may surround it.
  public static func read(_ bytes: [UInt8]) throws(JSONError) -> JSONValue {
    var reader = JSONReader(bytes)
    reader.skipWhiteSpace()
    let value = try reader.value(depth: 0)
    reader.skipWhiteSpace()
    guard reader.position == bytes.count else { throw reader.error("unexpected bytes after the value") }
    return value
  }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

  private func error(_ reason: String, at errorPosition: Int? = nil) -> JSONError {
    JSONError(position: errorPosition ?? position, reason: reason)
  }

  private mutating func skipWhiteSpace() {
    while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { position += 1 }
  }

  private mutating func value(depth: Int) throws(JSONError) -> JSONValue {
    guard let byte = next else { throw error("the input ends where a value is expected") }
    switch byte {
    case UInt8(ascii: "{"): return try object(depth: depth + 1)
    case UInt8(ascii: "["): return try array(depth: depth + 1)
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try literal("true", .bool(true))
    case UInt8(ascii: "f"): return try literal("false", .bool(false))
    case UInt8(ascii: "n"): return try literal("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try number())
    case 0xEF where bytes[position...].starts(with: [0xEF, 0xBB, 0xBF]): throw error("a byte order mark is not allowed")
    default: throw error("a value is expected")
    }
  }

  private mutating func literal(_ text: StaticString, _ value: JSONValue) throws(JSONError) -> JSONValue {
    let expected = text.description.utf8
    guard bytes[position...].starts(with: expected) else { throw error("\(text) is expected") }
    position += expected.count
    return value
  }

  private mutating func object(depth: Int) throws(JSONError) -> JSONValue {
    guard depth <= Self.depthLimit else { throw error("nested deeper than \(Self.depthLimit)") }
    position += 1
    var members: [JSONValue.Member] = []
    // Comparing a few keys is faster than hashing them.
    var keys: Set<String>?
    func occurs(_ key: String) -> Bool {
      if keys == nil {
        if members.count < 16 { return members.contains { $0.key == key } }
        keys = Set(members.lazy.map(\.key))
      }
      return keys?.insert(key).inserted == false
    }
    skipWhiteSpace()
    if next == UInt8(ascii: "}") {
      position += 1
      return .object([])
    }
    while true {
      guard next == UInt8(ascii: "\"") else { throw error("a key in quotation marks is expected") }
      let keyPosition = position
      let key = try string()
      if occurs(key) {
        throw error("the key \(key.debugDescription) occurs twice", at: keyPosition)
      }
      skipWhiteSpace()
      guard next == UInt8(ascii: ":") else { throw error("a colon is expected") }
      position += 1
      skipWhiteSpace()
      members.append(.init(key, try value(depth: depth)))
      skipWhiteSpace()
      if next == UInt8(ascii: "}") {
        position += 1
        return .object(members)
      }
      guard next == UInt8(ascii: ",") else { throw error("a comma or a closing brace is expected") }
      position += 1
      skipWhiteSpace()
    }
  }

  private mutating func array(depth: Int) throws(JSONError) -> JSONValue {
    guard depth <= Self.depthLimit else { throw error("nested deeper than \(Self.depthLimit)") }
    position += 1
    var elements: [JSONValue] = []
    skipWhiteSpace()
    if next == UInt8(ascii: "]") {
      position += 1
      return .array([])
    }
    while true {
      elements.append(try value(depth: depth))
      skipWhiteSpace()
      if next == UInt8(ascii: "]") {
        position += 1
        return .array(elements)
      }
      guard next == UInt8(ascii: ",") else { throw error("a comma or a closing bracket is expected") }
      position += 1
      skipWhiteSpace()
    }
  }

  private mutating func number() throws(JSONError) -> String {
    let start = position
    if next == UInt8(ascii: "-") { position += 1 }
    if next == UInt8(ascii: "0") {
      position += 1
    } else {
      try digits()
    }
    if next == UInt8(ascii: ".") {
      position += 1
      try digits()
    }
    if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
      position += 1
      if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { position += 1 }
      try digits()
    }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  private mutating func digits() throws(JSONError) {
    let start = position
    while let byte = next, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
    guard position > start else { throw error("a digit is expected") }
  }

  private mutating func string() throws(JSONError) -> String {
    let start = position
    position += 1
    // Fast path: most strings have no escapes.
    var end = position
    while end < bytes.count, bytes[end] >= 0x20, bytes[end] != UInt8(ascii: "\""), bytes[end] != UInt8(ascii: "\\") {
      end += 1
    }
    if end < bytes.count, bytes[end] == UInt8(ascii: "\"") {
      guard let text = String(validating: bytes[position..<end], as: UTF8.self) else {
        throw error("a string is not valid UTF-8", at: start)
      }
      position = end + 1
      return text
    }
    var text = Array(bytes[position..<end])
    position = end
    while true {
      guard let byte = next else { throw error("the input ends inside a string") }
      switch byte {
      case UInt8(ascii: "\""):
        position += 1
        guard let valid = String(validating: text, as: UTF8.self) else {
          throw error("a string is not valid UTF-8", at: start)
        }
        return valid
      case UInt8(ascii: "\\"):
        position += 1
        try escape(into: &text)
      case 0..<0x20:
        throw error("a control character must be escaped")
      default:
        text.append(byte)
        position += 1
      }
    }
  }

  private mutating func escape(into text: inout [UInt8]) throws(JSONError) {
    guard let byte = next else { throw error("the input ends inside a string") }
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
    case UInt8(ascii: "b"): text.append(0x08)
    case UInt8(ascii: "f"): text.append(0x0C)
    case UInt8(ascii: "n"): text.append(0x0A)
    case UInt8(ascii: "r"): text.append(0x0D)
    case UInt8(ascii: "t"): text.append(0x09)
    case UInt8(ascii: "u"):
      let start = position - 2
      var code = try hexadecimal()
      if (0xD800..<0xDC00).contains(code) {
        guard bytes[position...].starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "u")]) else {
          throw error("half of a surrogate pair", at: start)
        }
        position += 2
        let low = try hexadecimal()
        guard (0xDC00..<0xE000).contains(low) else { throw error("half of a surrogate pair", at: start) }
        code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
      }
      // The only non-scalar left is a lone low surrogate.
      guard let scalar = Unicode.Scalar(code) else { throw error("half of a surrogate pair", at: start) }
      text.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
    default:
      throw error("an unknown escape", at: position - 1)
    }
  }

  private mutating func hexadecimal() throws(JSONError) -> UInt32 {
    var code: UInt32 = 0
    for _ in 0..<4 {
      guard let byte = next, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
        throw error("four hexadecimal digits are expected")
      }
      code = code << 4 | UInt32(digit)
      position += 1
    }
    return code
  }
}
