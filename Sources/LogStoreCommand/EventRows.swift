import ArgumentParser
import LogStore

/// How an event is printed.
enum RowFormat: String, ExpressibleByArgument, CaseIterable {
  case tsv
  case json
}

extension [UInt8] {
  /// Appends one event and a newline. The TSV form is the hot path of `dump`: copies only, no allocation.
  @inline(__always)
  mutating func append(_ event: borrowing EventView, as format: RowFormat) {
    switch format {
    case .tsv: append(tsv: event)
    case .json: append(json: event.copy())
    }
    append(UInt8(ascii: "\n"))
  }

  @inline(__always)
  private mutating func append(tsv event: borrowing EventView) {
    let tab = UInt8(ascii: "\t")
    append(decimal: event.offset)
    append(tab)
    append(escaping: event.stream)
    append(tab)
    append(decimal: event.version)
    append(tab)
    append(escaping: event.type)
    append(tab)
    append(escaping: event.payload)
  }

  private mutating func append(json event: Event) {
    append(contentsOf: #"{"offset":"#.utf8)
    append(decimal: event.offset)
    append(contentsOf: #","stream":"#.utf8)
    append(jsonString: event.stream)
    append(contentsOf: #","version":"#.utf8)
    append(decimal: event.version)
    append(contentsOf: #","type":"#.utf8)
    append(jsonString: event.type)
    append(contentsOf: #","id":""#.utf8)
    append(contentsOf: event.id.description.utf8)
    append(contentsOf: #"","timestamp":""#.utf8)
    append(timestamp: event.timestampMicroseconds)
    append(UInt8(ascii: "\""))
    append(json: "payload", event.payload)
    if !event.metadata.isEmpty { append(json: "metadata", event.metadata) }
    append(UInt8(ascii: "}"))
  }

  /// `,"NAME":"text"` when the bytes are UTF-8, `,"NAME_base64":"…"` when not.
  private mutating func append(json name: String, _ bytes: [UInt8]) {
    append(contentsOf: #",""#.utf8)
    append(contentsOf: name.utf8)
    if let text = String(validating: bytes, as: UTF8.self) {
      append(contentsOf: #"":"#.utf8)
      append(jsonString: text)
    } else {
      append(contentsOf: #"_base64":""#.utf8)
      append(base64: bytes)
      append(UInt8(ascii: "\""))
    }
  }

  /// A JSON string with its quotes (RFC 8259, section 7).
  mutating func append(jsonString text: String) {
    let digits = StaticString("0123456789abcdef")
    append(UInt8(ascii: "\""))
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"):
        append(UInt8(ascii: "\\"))
        append(byte)
      case UInt8(ascii: "\n"): append(contentsOf: #"\n"#.utf8)
      case UInt8(ascii: "\r"): append(contentsOf: #"\r"#.utf8)
      case UInt8(ascii: "\t"): append(contentsOf: #"\t"#.utf8)
      case 0..<0x20:
        append(contentsOf: #"\u00"#.utf8)
        digits.withUTF8Buffer { digits in
          append(digits[Int(byte >> 4)])
          append(digits[Int(byte & 15)])
        }
      default: append(byte)
      }
    }
    append(UInt8(ascii: "\""))
  }

  /// RFC 4648, section 4.
  mutating func append(base64 bytes: [UInt8]) {
    let alphabet = StaticString("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    alphabet.withUTF8Buffer { alphabet in
      var index = 0
      while index < bytes.count {
        let count = Swift.min(3, bytes.count - index)
        var group: UInt32 = 0
        for ordinal in 0..<3 {
          group = group << 8 | (ordinal < count ? UInt32(bytes[index + ordinal]) : 0)
        }
        for ordinal in 0..<4 {
          append(ordinal <= count ? alphabet[Int(group >> UInt32(18 - 6 * ordinal)) & 63] : UInt8(ascii: "="))
        }
        index += 3
      }
    }
  }

  /// RFC 3339 in UTC with microseconds: `2026-11-24T03:03:13.000000Z`.
  mutating func append(timestamp microseconds: UInt64) {
    let (seconds, fraction) = microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    let (days, secondOfDay) = seconds.quotientAndRemainder(dividingBy: 86_400)
    let (year, month, day) = civilDate(daysSince1970: days)
    append(padded: year, 4)
    append(UInt8(ascii: "-"))
    append(padded: month, 2)
    append(UInt8(ascii: "-"))
    append(padded: day, 2)
    append(UInt8(ascii: "T"))
    append(padded: secondOfDay / 3600, 2)
    append(UInt8(ascii: ":"))
    append(padded: secondOfDay / 60 % 60, 2)
    append(UInt8(ascii: ":"))
    append(padded: secondOfDay % 60, 2)
    append(UInt8(ascii: "."))
    append(padded: fraction, 6)
    append(UInt8(ascii: "Z"))
  }

  private mutating func append(padded number: UInt64, _ width: Int) {
    let digits = String(number).utf8
    for _ in digits.count..<Swift.max(width, digits.count) { append(UInt8(ascii: "0")) }
    append(contentsOf: digits)
  }
}

/// The proleptic Gregorian date. The year is taken to begin in March, so that a leap day is its last; an era is the 400
/// years after which the calendar repeats, 146,097 days.
private func civilDate(daysSince1970 days: UInt64) -> (year: UInt64, month: UInt64, day: UInt64) {
  // 1970-01-01 is 719,468 days after 0000-03-01.
  let (era, dayOfEra) = (days + 719_468).quotientAndRemainder(dividingBy: 146_097)
  let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let monthFromMarch = (5 * dayOfYear + 2) / 153
  let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
  let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
  return (era * 400 + yearOfEra + (month <= 2 ? 1 : 0), month, day)
}
