import Testing

@testable import RegisPay

private let pounds = Currency(code: "GBP", exponent: 2)

private func money(_ text: String, _ currency: Currency = pounds) throws(MoneyError) -> Int64 {
  // Every text here is a legal JSON number.
  try Money(DecimalText(text)!, currency: currency).minorUnits
}

@Suite("Money")
struct MoneyTests {
  @Test(
    "an amount is read by value",
    arguments: [
      ("12.34", 1234), ("12.340", 1234), ("12.3", 1230), ("12", 1200), ("1e2", 10_000), ("1E+2", 10_000),
      ("1234e-2", 1234),
      ("0.01", 1), ("1e-2", 1), ("100e-4", 1), ("0.1e-1", 1), ("0", 0), ("-0", 0), ("0.000000", 0),
      ("0e999999999999", 0),
      ("0e-999999999999999999999999", 0), ("-12.34", -1234), ("0.10", 10), ("0.30", 30), ("0.07", 7), ("1.15", 115),
      ("4.35", 435), ("1000000.01", 100_000_001), ("92233720368547758.07", .max), ("-92233720368547758.08", .min),
      ("9223372036854775807e-2", .max), ("12340000000000000000000000000e-27", 1234),
    ] as [(String, Int64)])
  func values(_ text: String, _ expected: Int64) throws {
    #expect(try money(text) == expected)
  }

  @Test(
    "more decimals than the currency has are refused with their number",
    arguments: [
      ("12.345", 3), ("0.001", 3), ("1e-3", 3), ("12.3450", 3), ("0.0000001", 7), ("1e-400", 400),
      ("99999999999999999999.999", 3),
    ])
  func decimals(_ text: String, _ count: Int) {
    #expect(throws: MoneyError.tooManyDecimals(count)) { try money(text) }
  }

  @Test(
    "what 64 bits can't hold is refused",
    arguments: [
      "92233720368547758.08", "-92233720368547758.09", "100000000000000000", "1e17", "1e400", "-1e400",
      "1e99999999999999999999",
      "99999999999999999999999999", "9223372036854775808e-2", "184467440737095516.16", "184467440737095516.17",
    ])
  func overflow(_ text: String) {
    #expect(throws: MoneyError.tooLarge) { try money(text) }
  }

  @Test("a currency's exponent decides", arguments: 0...6)
  func exponents(_ exponent: Int) throws {
    let currency = Currency(code: "XXX", exponent: exponent)
    let smallest = "1e-\(exponent)"
    #expect(try money(smallest, currency) == 1)
    #expect(throws: MoneyError.tooManyDecimals(exponent + 1)) { try money("1e-\(exponent + 1)", currency) }
  }

  @Test("every amount of up to ten thousand minor units is written and read back the same", arguments: [0, 2, 3])
  func roundTrip(_ exponent: Int) throws {
    let currency = Currency(code: "XXX", exponent: exponent)
    for minorUnits in (-10_000 as Int64)...10_000 {
      let text = Money(minorUnits: minorUnits, currency: currency).decimal
      #expect(try JSONReader.read(Array(text.utf8)) == .number(text))
      #expect(try money(text, currency) == minorUnits)
    }
  }

  @Test("amounts of any size are written and read back the same")
  func extremes() throws {
    var generator = SystemRandomNumberGenerator()
    let random = (0..<1_000).map { _ in Int64.random(in: .min...(.max), using: &generator) }
    for minorUnits in [.min, .min + 1, .max, .max - 1] + random {
      #expect(try money(Money(minorUnits: minorUnits, currency: pounds).decimal) == minorUnits)
    }
  }

  @Test(
    "an amount is written with all of its currency's decimals",
    arguments: [(1234, "12.34"), (100, "1.00"), (5, "0.05"), (0, "0.00"), (-5, "-0.05"), (-1234, "-12.34")]
      as [(Int64, String)])
  func written(_ minorUnits: Int64, _ text: String) {
    #expect(Money(minorUnits: minorUnits, currency: pounds).decimal == text)
    #expect(Money(minorUnits: minorUnits, currency: Currency(code: "JPY", exponent: 0)).decimal == "\(minorUnits)")
  }

  @Test(
    "what is no number is none",
    arguments: ["", "-", ".", "e", "1.", "1e", "1e+", "-.5", "1-", "1e1.5", "one", " 1", "1 "])
  func noNumber(_ text: String) {
    #expect(DecimalText(text) == nil)
  }

  @Test("the supported currencies are those of the messages, by their exact codes")
  func currencies() {
    #expect(Currency.supported.map(\.code) == ["GBP", "EUR", "USD"])
    #expect(Currency.named("GBP")?.exponent == 2)
    for text in ["gbp", "GBP ", "", "JPY", "GB"] { #expect(Currency.named(text) == nil) }
  }
}
