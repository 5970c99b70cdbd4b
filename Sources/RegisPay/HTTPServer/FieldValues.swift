import NIOHTTP1

extension HTTPHeaders {
  /// The values of a field, one for each of its lines, without the white space around them, which is not part of a value
  /// (RFC 9110, 5.5). The decoder leaves trailing white space.
  func values(_ name: String) -> [Substring] {
    self[name].map { value in
      let isSpace = { (byte: UInt8) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
      let bytes = value.utf8
      guard let first = bytes.firstIndex(where: { !isSpace($0) }), let last = bytes.lastIndex(where: { !isSpace($0) })
      else { return "" }
      return value[first...last]
    }
  }
}
