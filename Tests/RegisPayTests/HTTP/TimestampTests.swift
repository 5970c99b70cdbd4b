import Testing

@testable import RegisPay

@Suite("A time on the wire")
struct TimestampTests {
  @Test(
    "is RFC 3339 in UTC with microseconds",
    arguments: [
      (0, "1970-01-01T00:00:00.000000Z"), (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
      (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"), (951_868_800_000_001, "2000-03-01T00:00:00.000001Z"),
      (1_795_488_693_000_000, "2026-11-24T02:51:33.000000Z"), (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
      (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"), (1_735_689_599_500_000, "2024-12-31T23:59:59.500000Z"),
    ])
  func known(_ microseconds: UInt64, _ text: String) {
    #expect(timestamp(microseconds: microseconds) == text)
    #expect(RegisPay.microseconds(timestamp: text) == Int64(microseconds))
  }

  @Test("no number of microseconds makes it crash")
  func extremes() {
    for microseconds: UInt64 in [.max, .max - 1, 1 << 63] {
      #expect(timestamp(microseconds: microseconds).hasSuffix("Z"))
    }
  }

  @Test(
    "is read with any precision and any offset from UTC",
    arguments: [
      ("1970-01-01T00:00:00Z", 0), ("1970-01-01T00:00:01.5z", 1_500_000), ("1970-01-01t02:00:00+02:00", 0),
      ("1969-12-31T23:00:00-01:00", 0), ("1969-12-31T23:59:59.75Z", -250_000),
      ("1970-01-01T00:00:00-00:30", 1_800_000_000),
      ("1970-01-01T00:00:00.1234569Z", 123_456), ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
      ("2023-02-29T00:00:00Z", nil), ("2024-02-30T00:00:00Z", nil), ("2024-13-01T00:00:00Z", nil),
      ("2024-01-01", nil), ("2024-01-01T00:00:00", nil), ("2024-01-01T00:00:00.Z", nil), ("2024-01-01T24:00:00Z", nil),
      ("0000-01-01T00:00:00Z", -62_167_219_200_000_000), ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
      ("1900-02-28T23:59:59Z", -2_203_891_201_000_000), ("1900-02-29T00:00:00Z", nil),
      ("9999-12-31T23:59:59Z", 253_402_300_799_000_000), ("2024-04-31T00:00:00Z", nil),
      ("2024-01-00T00:00:00Z", nil), ("2024-00-01T00:00:00Z", nil), ("2024-01-01T00:00:00Zx", nil),
      ("2024-01-01 00:00:00Z", nil), ("", nil), ("2024-01-01T00:00:00+0100", nil),
    ] as [(String, Int64?)])
  func read(_ text: String, _ expected: Int64?) {
    #expect(microseconds(timestamp: text) == expected)
  }
}
