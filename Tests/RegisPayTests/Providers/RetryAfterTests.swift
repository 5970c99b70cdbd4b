import Testing

@testable import RegisPay

@Suite("Retry-After")
struct RetryAfterTests {
  /// Sun, 06 Nov 1994 08:49:37 GMT.
  private static let then = 784_111_777

  @Test(
    "a date is read in the three forms that there are",
    arguments: ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
  func forms(_ date: String) {
    #expect(RetryAfter.seconds(ofDate: date, nowSeconds: Self.then) == Self.then)
    #expect(RetryAfter.wait(date, nowSeconds: Self.then - 15) == .seconds(15))
    #expect(RetryAfter.wait(date, nowSeconds: Self.then + 15) == .zero, "it is over")
  }

  @Test("a date that we write is read back")
  func ours() {
    for second in stride(from: 0, to: 4_000_000_000, by: 86_399 * 13) {
      #expect(RetryAfter.seconds(ofDate: HTTPDate.text(of: second), nowSeconds: 1_800_000_000) == second)
    }
  }

  @Test("a date counts from the response's own date, whatever our clock says")
  func otherClock() {
    let (date, later) = (HTTPDate.text(of: Self.then), HTTPDate.text(of: Self.then + 15))
    for now in [0, Self.then, Self.then + 400 * 86_400] {
      #expect(RetryAfter.wait(later, date: date, nowSeconds: now) == .seconds(15))
    }
    #expect(RetryAfter.wait(later, date: "yesterday", nowSeconds: Self.then) == .seconds(15))
  }

  @Test("seconds are read, however many, and no wait is longer than 400 days")
  func seconds() {
    #expect(RetryAfter.wait("0") == .zero && RetryAfter.wait(" 120 ") == .seconds(120))
    for field in ["34560001", "9223372036854775807", "9223372036854775808", String(repeating: "9", count: 5_000)] {
      #expect(RetryAfter.wait(field) == .seconds(34_560_000))
    }
    #expect(RetryAfter.wait("Fri, 31 Dec 9999 23:59:59 GMT", nowSeconds: Self.then) == .seconds(34_560_000))
  }

  @Test(
    "what is neither is left alone",
    arguments: [
      "", " ", "-1", "+1", "1.5", "1e3", "soon", "٣", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49 GMT",
      "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 31 Nov 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
      "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:60:37 GMT",
      "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 08:49:37:00 GMT", "Sun, 29 Feb 2100 00:00:00 GMT",
      "Sun, 06 Nov 0001 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT GMT", "1994-11-06T08:49:37Z",
    ])
  func unread(_ field: String) {
    #expect(RetryAfter.wait(field, nowSeconds: Self.then) == nil)
  }
}
