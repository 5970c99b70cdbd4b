/// A currency and the number of decimals of its amounts.
public struct Currency: Sendable, Hashable, CustomStringConvertible {
  /// ISO 4217, upper case.
  public let code: String
  /// Decimals of the minor unit: 2 for GBP, where 1 pound is 100 pence.
  public let exponent: Int

  /// Makes any currency; ``named(_:)`` returns those that payments are accepted in.
  ///
  /// - Parameter exponent: 0…6, which covers every currency of ISO 4217.
  public init(code: String, exponent: Int) {
    precondition((0...6).contains(exponent), "a currency has 0 to 6 decimals")
    self.code = code
    self.exponent = exponent
  }

  /// The currencies that payments are accepted in, in the order of error messages.
  public static let supported = ["GBP", "EUR", "USD"].map { Currency(code: $0, exponent: 2) }

  /// The supported currency with exactly this code; nil if there is none.
  public static func named(_ code: String) -> Currency? { supported.first { $0.code == code } }

  public var description: String { code }
}

/// An exact amount of money in minor units, never in binary floating point.
public struct Money: Sendable, Hashable, CustomStringConvertible {
  /// Pence, cents and so on.
  public let minorUnits: Int64
  public let currency: Currency

  public init(minorUnits: Int64, currency: Currency) {
    self.minorUnits = minorUnits
    self.currency = currency
  }

  /// Reads the text of a JSON number, by value: `12.34`, `12.340` and `1234e-2` are the same amount.
  ///
  /// - Throws: ``MoneyError`` when the number is not exact in this currency, or too large to hold.
  public init(_ number: DecimalText, currency: Currency) throws(MoneyError) {
    self.init(minorUnits: try number.scaled(byPowerOfTen: currency.exponent), currency: currency)
  }

  /// The amount with all the currency's decimals, such as `-0.05`; a legal JSON number.
  public var decimal: String {
    let digits = String(minorUnits.magnitude)
    let padded = String(repeating: "0", count: max(0, currency.exponent + 1 - digits.count)) + digits
    let sign = minorUnits < 0 ? "-" : ""
    guard currency.exponent > 0 else { return sign + padded }
    return sign + padded.dropLast(currency.exponent) + "." + padded.suffix(currency.exponent)
  }

  public var description: String { "\(decimal) \(currency)" }
}

/// Why a number is not an amount in a currency.
public enum MoneyError: Error, Sendable, Hashable {
  /// The value needs this many decimals, more than the currency has.
  case tooManyDecimals(Int)
  /// More minor units than 64 bits hold.
  case tooLarge
}

/// The exact value of a JSON number's text: ± digits × 10^exponent, without zeros at either end of the digits. Reading takes
/// time linear in the text's length, whatever its exponent.
public struct DecimalText: Sendable, Hashable, CustomStringConvertible {
  public let isNegative: Bool
  /// 0…9 each; empty for zero.
  private let digits: [UInt8]
  private let exponent: Int

  /// Beyond any amount and any text, and small enough that no arithmetic with it overflows.
  private static let exponentLimit = 1 << 40

  /// Nil when the text is not a legal JSON number. ``JSONReader`` returns legal numbers only.
  public init?(_ number: String) {
    var digits: [UInt8] = []
    var decimals = 0
    var power = 0
    var isPowerNegative = false
    var isNegative = false
    enum Part { case start, whole, fraction, powerStart, power }
    var part = Part.start
    for byte in number.utf8 {
      switch (byte, part) {
      case (UInt8(ascii: "-"), .start) where !isNegative: isNegative = true
      case (UInt8(ascii: "0")...UInt8(ascii: "9"), .start), (UInt8(ascii: "0")...UInt8(ascii: "9"), .whole):
        part = .whole
        digits.append(byte - UInt8(ascii: "0"))
      case (UInt8(ascii: "."), .whole): part = .fraction
      case (UInt8(ascii: "0")...UInt8(ascii: "9"), .fraction):
        decimals += 1
        digits.append(byte - UInt8(ascii: "0"))
      case (UInt8(ascii: "e"), .whole), (UInt8(ascii: "E"), .whole), (UInt8(ascii: "e"), .fraction),
        (UInt8(ascii: "E"), .fraction):
        part = .powerStart
      case (UInt8(ascii: "+"), .powerStart): part = .power
      case (UInt8(ascii: "-"), .powerStart):
        isPowerNegative = true
        part = .power
      case (UInt8(ascii: "0")...UInt8(ascii: "9"), .powerStart), (UInt8(ascii: "0")...UInt8(ascii: "9"), .power):
        part = .power
        power = min(power * 10 + Int(byte - UInt8(ascii: "0")), Self.exponentLimit)
      default: return nil
      }
    }
    // The text may not end with a sign, a point or an `e`.
    guard !digits.isEmpty, let last = number.utf8.last, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(last) else {
      return nil
    }
    let trailingZeros = digits.reversed().prefix { $0 == 0 }.count
    digits.removeLast(trailingZeros)
    self.digits = Array(digits.drop { $0 == 0 })
    self.isNegative = isNegative && !self.digits.isEmpty
    self.exponent = self.digits.isEmpty ? 0 : (isPowerNegative ? -power : power) - decimals + trailingZeros
  }

  public var isZero: Bool { digits.isEmpty }

  /// The value as a legal JSON number, such as `1234e-2`.
  public var description: String {
    guard !isZero else { return "0" }
    return (isNegative ? "-" : "") + digits.map(String.init).joined() + (exponent == 0 ? "" : "e\(exponent)")
  }

  /// Whether the value is at least `other`; linear in the digits.
  func isAtLeast(_ other: DecimalText) -> Bool {
    if isNegative != other.isNegative { return !isNegative }
    return isNegative ? !hasLargerMagnitude(than: other) : !other.hasLargerMagnitude(than: self)
  }

  private func hasLargerMagnitude(than other: DecimalText) -> Bool {
    if isZero || other.isZero { return !isZero }
    // Neither first digit is 0: the power of ten of the first digit decides, then the digits.
    let (power, otherPower) = (digits.count + exponent, other.digits.count + other.exponent)
    if power != otherPower { return power > otherPower }
    return other.digits.lexicographicallyPrecedes(digits)
  }

  /// The value × 10^power, which must be a whole number that fits 64 bits.
  func scaled(byPowerOfTen power: Int) throws(MoneyError) -> Int64 {
    let zeros = exponent + power
    guard zeros >= 0 else { throw .tooManyDecimals(-exponent) }
    // 64 bits hold at most 19 digits. Checked before any arithmetic, as `zeros` may be huge.
    guard digits.count <= 19, digits.count + zeros <= 19 || isZero else { throw .tooLarge }
    var value: Int64 = 0
    for digit in digits + Array(repeating: 0, count: isZero ? 0 : zeros) {
      let (product, isOver) = value.multipliedReportingOverflow(by: 10)
      let (sum, isSumOver) = product.subtractingReportingOverflow(Int64(digit))
      guard !isOver, !isSumOver else { throw .tooLarge }
      value = sum
    }
    // The loop computes below zero, where the range has one value more.
    guard !isNegative else { return value }
    guard value != .min else { throw .tooLarge }
    return -value
  }
}
