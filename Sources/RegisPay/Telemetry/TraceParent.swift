/// A place in a trace: the trace's id and the id of a span in it, as the field `traceparent` of W3C Trace Context
/// (https://www.w3.org/TR/trace-context/) names them. Numbers, so that a request that names its trace costs no memory.
struct TraceParent: Sendable, Hashable {
  let trace: TraceID
  /// Not 0.
  let span: UInt64
  /// The flag `sampled`: the caller records the trace.
  let isSampled: Bool

  /// - Parameter span: not 0.
  init(_ trace: TraceID, span: UInt64, isSampled: Bool) {
    (self.trace, self.span, self.isSampled) = (trace, span, isSampled)
  }

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
      let span = number(digits: 16), span != 0, isDash(), let flags = number(digits: 2)
    else { return nil }
    let next = bytes.next()
    guard next == nil || (version > 0 && next == UInt8(ascii: "-")) else { return nil }
    self.init(TraceID(high: high, low: low), span: span, isSampled: flags & 1 == 1)
  }

  /// 32 lower-case hexadecimal digits, not all zero.
  var traceID: String { trace.text }
  /// 16 of them.
  var spanID: String { spanText(span) }

  /// The field's value, in version 00.
  var field: String {
    String(unsafeUninitializedCapacity: 55) { bytes in
      var end = 0
      func add(_ text: StaticString) {
        for byte in UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount) {
          bytes[end] = byte; end += 1
        }
      }
      func add(_ number: UInt64) {
        TraceID.write(number, to: UnsafeMutableBufferPointer(rebasing: bytes[end..<end + 16]))
        end += 16
      }
      add("00-")
      add(trace.high)
      add(trace.low)
      add("-")
      add(span)
      add(isSampled ? "-01" : "-00")
      return end
    }
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

/// The id of a trace: 128 bits, not all zero.
struct TraceID: Sendable, Hashable {
  let high: UInt64
  let low: UInt64

  /// 32 lower-case hexadecimal digits.
  var text: String {
    String(unsafeUninitializedCapacity: 32) { bytes in
      Self.write(high, to: UnsafeMutableBufferPointer(rebasing: bytes[..<16]))
      Self.write(low, to: UnsafeMutableBufferPointer(rebasing: bytes[16..<32]))
      return 32
    }
  }

  /// Writes 16 digits.
  fileprivate static func write(_ number: UInt64, to bytes: UnsafeMutableBufferPointer<UInt8>) {
    for digit in 0..<16 {
      let value = UInt8(truncatingIfNeeded: number >> UInt64(60 - 4 * digit)) & 0xF
      bytes[digit] = value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
    }
  }

  /// The id of a span in this trace, the same each time for the same words: a process that is started again, and a trace that is
  /// read again, name it alike.
  ///
  /// Mixes by the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). It only has
  /// to tell apart the spans of one trace.
  func span(_ words: UInt64...) -> UInt64 {
    var state = high ^ Self.mixed(low)
    for word in words { state = Self.mixed(state ^ Self.mixed(word &+ 0x9E37_79B9_7F4A_7C15)) }
    return state == 0 ? 1 : state
  }

  private static func mixed(_ word: UInt64) -> UInt64 {
    var word = word
    word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
    return word ^ word >> 31
  }
}

/// A span's id as 16 lower-case hexadecimal digits.
func spanText(_ span: UInt64) -> String {
  String(unsafeUninitializedCapacity: 16) { bytes in
    TraceID.write(span, to: bytes)
    return 16
  }
}
