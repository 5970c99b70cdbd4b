/// The four escapes of the command's fields, in both directions, on bytes: a payload may be anything.
enum Escaping {
  /// Tab, newline, carriage return and backslash.
  case fields
  /// Newline and carriage return: keeps a message on one line and leaves the rest readable.
  case lineBreaks
}

extension [UInt8] {
  /// Appends `bytes`, escaped. Finds runs without special bytes eight bytes at a time and copies them whole: this is the
  /// hot path of `dump`, so nothing here may allocate per event.
  @inline(__always)
  mutating func append(escaping bytes: UnsafeRawBufferPointer, only escaping: Escaping = .fields) {
    var start = 0
    while start < bytes.count {
      let end = firstSpecial(in: bytes, from: start, escaping)
      if end > start { append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[start..<end])) }
      guard end < bytes.count else { return }
      append(UInt8(ascii: "\\"))
      switch bytes[end] {
      case UInt8(ascii: "\t"): append(UInt8(ascii: "t"))
      case UInt8(ascii: "\n"): append(UInt8(ascii: "n"))
      case UInt8(ascii: "\r"): append(UInt8(ascii: "r"))
      default: append(UInt8(ascii: "\\"))
      }
      start = end + 1
    }
  }

  /// As above, from borrowed memory.
  @inline(__always)
  mutating func append(escaping span: RawSpan) {
    span.withUnsafeBytes { append(escaping: $0) }
  }

  /// Appends the decimal digits of `number`.
  mutating func append(decimal number: UInt64) {
    if number < 10 {
      append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: number))
      return
    }
    var digits: (UInt64, UInt64, UInt64) = (0, 0, 0)
    Swift.withUnsafeMutableBytes(of: &digits) { digits in
      var index = digits.count
      var rest = number
      while rest > 0 {
        index -= 1
        digits[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
        rest /= 10
      }
      append(contentsOf: UnsafeRawBufferPointer(rebasing: digits[index...]))
    }
  }
}

/// The index of the first byte from `start` on that needs an escape, or `bytes.count`.
@inline(__always)
private func firstSpecial(in bytes: UnsafeRawBufferPointer, from start: Int, _ escaping: Escaping) -> Int {
  var index = start
  while index + 8 <= bytes.count {
    let word = bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
    // May report a special that isn't one (a borrow from the byte below); the loop over single bytes decides.
    let found =
      zeroBytes(word ^ 0x0909_0909_0909_0909) | zeroBytes(word ^ 0x0A0A_0A0A_0A0A_0A0A)
      | zeroBytes(word ^ 0x0D0D_0D0D_0D0D_0D0D) | zeroBytes(word ^ 0x5C5C_5C5C_5C5C_5C5C)
    if found != 0 {
      let end = index + 8
      while index < end {
        if isSpecial(bytes[index], escaping) { return index }
        index += 1
      }
    } else {
      index += 8
    }
  }
  while index < bytes.count {
    if isSpecial(bytes[index], escaping) { return index }
    index += 1
  }
  return index
}

/// Not zero if a byte of `word` is zero (the usual subtract-and-mask; higher bytes may be reported falsely).
@inline(__always)
private func zeroBytes(_ word: UInt64) -> UInt64 {
  (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
}

@inline(__always)
private func isSpecial(_ byte: UInt8, _ escaping: Escaping) -> Bool {
  switch byte {
  case UInt8(ascii: "\n"), UInt8(ascii: "\r"): true
  case UInt8(ascii: "\t"), UInt8(ascii: "\\"): escaping == .fields
  default: false
  }
}

/// Undoes the escapes of one field. A thrown refusal counts bytes from `lineStart`.
func unescape(
  _ field: Slice<UnsafeBufferPointer<UInt8>>, lineStart: Int
) throws(LineRefusal) -> [UInt8] {
  let backslash = UInt8(ascii: "\\")
  guard var escape = field.firstIndex(ofByte: backslash) else { return Array(UnsafeBufferPointer(rebasing: field)) }
  var bytes: [UInt8] = []
  bytes.reserveCapacity(field.count)
  var rest = field
  while true {
    bytes.append(contentsOf: UnsafeBufferPointer(rebasing: rest[..<escape]))
    guard escape + 1 < field.endIndex else {
      throw LineRefusal("invalid escape: a backslash ends the field at byte \(escape - lineStart)")
    }
    switch field[escape + 1] {
    case UInt8(ascii: "t"): bytes.append(UInt8(ascii: "\t"))
    case UInt8(ascii: "n"): bytes.append(UInt8(ascii: "\n"))
    case UInt8(ascii: "r"): bytes.append(UInt8(ascii: "\r"))
    case backslash: bytes.append(backslash)
    default:
      throw LineRefusal("invalid escape at byte \(escape - lineStart): only \\t, \\n, \\r and \\\\ are known")
    }
    rest = rest[(escape + 2)...]
    guard let next = rest.firstIndex(ofByte: backslash) else {
      bytes.append(contentsOf: UnsafeBufferPointer(rebasing: rest))
      return bytes
    }
    escape = next
  }
}
