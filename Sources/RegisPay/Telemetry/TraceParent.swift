/// The trace that a request belongs to, by the field `traceparent` of W3C Trace Context. Numbers, so that a request that names its
/// trace costs no memory.
struct TraceParent: Sendable, Hashable {
  private let high: UInt64
  private let low: UInt64
  private let span: UInt64

  /// Nil unless the text is `00-{trace id}-{span id}-{flags}`, or of a later version and begins like it.
  init?(_ text: String) {
    var bytes = text.utf8.makeIterator()
    func isDash() -> Bool { bytes.next() == UInt8(ascii: "-") }
    func number(digits: Int) -> UInt64? {
      var number: UInt64 = 0
      for _ in 0..<digits {
        guard let digit = bytes.next().flatMap(Self.value) else { return nil }
        number = number << 4 | digit
      }
      return number
    }
    guard let version = number(digits: 2), version != 0xFF, isDash(),
      let high = number(digits: 16), let low = number(digits: 16), high | low != 0, isDash(),
      let span = number(digits: 16), span != 0, isDash(), number(digits: 2) != nil
    else { return nil }
    let next = bytes.next()
    guard next == nil || (version > 0 && next == UInt8(ascii: "-")) else { return nil }
    (self.high, self.low, self.span) = (high, low, span)
  }

  /// 32 lower-case hexadecimal digits, not all zero.
  var traceID: String { Self.text(high) + Self.text(low) }
  /// 16 of them.
  var spanID: String { Self.text(span) }

  private static func text(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// Of a lower-case hexadecimal digit.
  private static func value(_ digit: UInt8) -> UInt64? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt64(digit - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt64(digit - UInt8(ascii: "a") + 10)
    default: nil
    }
  }
}
