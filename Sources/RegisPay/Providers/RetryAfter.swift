import Foundation

/// The `Retry-After` field (RFC 9110, 10.2.3): seconds, or a date.
enum RetryAfter {
  /// Longer than any caller waits, and short enough that no arithmetic overflows. In seconds.
  private static let longest = 400 * 24 * 3_600

  /// How long the other side asks to wait; nil for text in neither form. A date in the past means zero.
  ///
  /// - Parameters:
  ///   - date: the response's `Date` field. A date in `field` counts from it: the other side's clock against itself, whatever
  ///     our clock says. Without it, the date counts from our clock.
  ///   - nowSeconds: since 1970, by our clock.
  static func wait(_ field: String, date: String? = nil, nowSeconds: Int = time(nil)) -> Duration? {
    let field = field.trimmingCharacters(in: .whitespaces)
    if !field.isEmpty, field.utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
      return .seconds(min(Int(field) ?? longest, longest))
    }
    guard let end = seconds(ofDate: field, nowSeconds: nowSeconds) else { return nil }
    let start = date.flatMap { seconds(ofDate: $0, nowSeconds: nowSeconds) } ?? nowSeconds
    return .seconds(min(max(end - start, 0), longest))
  }

  private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

  /// Reads the three forms of a date that a recipient must accept (RFC 9110, 5.6.7); nil for any other text.
  ///
  /// - Returns: seconds since 1970.
  static func seconds(ofDate text: String, nowSeconds: Int) -> Int? {
    // The longest form has 33 characters.
    guard text.utf8.count <= 40, text.utf8.allSatisfy({ $0 < 0x80 }) else { return nil }
    let parts = text.split { $0 == " " || $0 == "," || $0 == "-" }
    guard parts.count == 5 || (parts.count == 6 && parts[5] == "GMT") else { return nil }
    // Sun Nov  6 08:49:37 1994, or Sun, 06 Nov 1994 08:49:37 GMT, or Sunday, 06-Nov-94 08:49:37 GMT.
    let (dayPart, monthPart, yearPart, clock) =
      parts.count == 5 ? (parts[2], parts[1], parts[4], parts[3]) : (parts[1], parts[2], parts[3], parts[4])
    let times = clock.split(separator: ":", omittingEmptySubsequences: false).map { number($0, digits: 2...2) }
    guard let month = months.firstIndex(of: String(monthPart)), times.count == 3, let hour = times[0],
      let minute = times[1], let second = times[2], hour < 24, minute < 60, second <= 60,
      let day = number(dayPart, digits: 1...2), (1...31).contains(day), var year = number(yearPart, digits: 2...4)
    else { return nil }
    if yearPart.utf8.count == 2 {
      // RFC 9110: a year that seems to be more than 50 years ahead is the most recent past year with these digits.
      let thisYear = 1970 + nowSeconds / 31_556_952
      year += thisYear / 100 * 100
      if year > thisYear + 50 { year -= 100 }
    }
    guard year >= 1900, let parsed = days(year, month + 1, day) else { return nil }
    return parsed * 86_400 + hour * 3_600 + minute * 60 + second
  }

  private static func number(_ text: Substring, digits: ClosedRange<Int>) -> Int? {
    guard digits.contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
    return Int(text)
  }

  /// Days since 1970; nil for a day that the month doesn't have.
  private static func days(_ year: Int, _ month: Int, _ day: Int) -> Int? {
    let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    let lengths = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    guard day <= lengths[month - 1] else { return nil }
    let before = year - 1
    let ofYears = before * 365 + before / 4 - before / 100 + before / 400 - 719_162
    return ofYears + lengths.prefix(month - 1).reduce(0, +) + day - 1
  }
}
