import Glibc

enum Clock {
  /// The current time in microseconds since 1970-01-01 UTC, limited to the years 1970 to 9999.
  static func microseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    guard time.tv_sec >= 0 else { return 0 }
    return min(UInt64(time.tv_sec), 253_402_300_799) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
  }
}

/// Formats a time by RFC 3339, in UTC with microseconds: `2026-01-31T23:59:59.000001Z`.
///
/// - Parameter microseconds: since 1970-01-01 UTC.
func timestamp(microseconds: UInt64) -> String {
  let seconds = microseconds / 1_000_000
  // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: eras of 400 years from 0000-03-01.
  let days = seconds / 86_400 + 719_468
  let dayOfEra = days % 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let monthFromMarch = (5 * dayOfYear + 2) / 153
  let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
  let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
  let year = yearOfEra + days / 146_097 * 400 + (month <= 2 ? 1 : 0)
  func padded(_ value: UInt64, _ width: Int) -> String {
    let digits = String(value)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
  let date = "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))"
  let time = "\(padded(seconds / 3_600 % 24, 2)):\(padded(seconds / 60 % 60, 2)):\(padded(seconds % 60, 2))"
  return "\(date)T\(time).\(padded(microseconds % 1_000_000, 6))Z"
}

/// Parses a time of RFC 3339 with any offset from UTC, to microseconds since 1970-01-01 UTC, negative before that. Nil for any
/// other text. Digits below a microsecond are dropped.
func microseconds(timestamp text: String) -> Int64? {
  let bytes = Array(text.utf8)
  func number(_ range: Range<Int>) -> Int? {
    guard range.upperBound <= bytes.count else { return nil }
    var value = 0
    for byte in bytes[range] {
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
      value = value * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return value
  }
  func has(_ mark: Unicode.Scalar, at index: Int) -> Bool { bytes.count > index && bytes[index] == UInt8(ascii: mark) }
  guard let year = number(0..<4), has("-", at: 4), let month = number(5..<7), has("-", at: 7),
    let day = number(8..<10), has("T", at: 10) || has("t", at: 10), let hour = number(11..<13), has(":", at: 13),
    let minute = number(14..<16), has(":", at: 16), let second = number(17..<19), (1...12).contains(month),
    (1...dayCount(of: month, year)).contains(day), hour < 24, minute < 60, second < 61
  else { return nil }
  var index = 19
  var fraction = 0
  if has(".", at: index) {
    index += 1
    let start = index
    while number(index..<index + 1) != nil { index += 1 }
    guard index > start, let digits = number(start..<min(index, start + 6)) else { return nil }
    fraction = (min(index - start, 6)..<6).reduce(digits) { value, _ in value * 10 }
  }
  var shift = 0
  if has("Z", at: index) || has("z", at: index) {
    index += 1
  } else {
    guard has("+", at: index) || has("-", at: index), let hours = number(index + 1..<index + 3),
      has(":", at: index + 3), let minutes = number(index + 4..<index + 6), hours < 24, minutes < 60
    else { return nil }
    shift = (hours * 60 + minutes) * (has("-", at: index) ? -60 : 60)
    index += 6
  }
  guard index == bytes.count else { return nil }
  // The inverse of the above, from the same source; an era earlier, so that no intermediate value is negative in the year 0.
  let marchYear = (month <= 2 ? year - 1 : year) + 400
  let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
  let dayOfEra = marchYear % 400 * 365 + marchYear % 400 / 4 - marchYear % 400 / 100 + dayOfYear
  let days = marchYear / 400 * 146_097 + dayOfEra - 719_468 - 146_097
  let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - shift
  return Int64(seconds) * 1_000_000 + Int64(fraction)
}

private func dayCount(of month: Int, _ year: Int) -> Int {
  switch month {
  case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
  case 4, 6, 9, 11: 30
  default: 31
  }
}
