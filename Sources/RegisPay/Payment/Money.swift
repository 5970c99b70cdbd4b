/// A currency with the number of decimals that its amounts have.
public struct Currency: Sendable, Hashable, CustomStringConvertible {
  /// ISO 4217, upper case.
  public let code: String
  /// Decimals of the minor unit: 2 for GBP, where 1 pound is 100 pence.
  public let exponent: Int

  /// For a currency that payments are accepted in, use ``named(_:)``.
  ///
  /// - Parameter exponent: 0…6, which covers every currency of ISO 4217.
  public init(code: String, exponent: Int) {
    precondition((0...6).contains(exponent), "a currency has 0 to 6 decimals")
    self.code = code
    self.exponent = exponent
  }

  /// The currencies that payments are accepted in, in the order in which error messages name them.
  public static let supported = ["GBP", "EUR", "USD"].map { Currency(code: $0, exponent: 2) }

  /// The supported currency with exactly this code; nil if there is none.
  public static func named(_ code: String) -> Currency? { supported.first { $0.code == code } }

  public var description: String { code }
}

/// An exact amount of money: minor units, never binary floating point.
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
  /// - Throws: ``MoneyError`` when it is not exact in this currency, or too large to hold.
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

/// Why a number is no amount in a currency.
public enum MoneyError: Error, Sendable, Hashable {
  /// The value needs this many decimals, more than the currency has.
  case tooManyDecimals(Int)
  /// Over what 64 bits of minor units hold.
  case tooLarge
}

/// The value of a JSON number's text, exactly: ± digits × 10^exponent, without zeros at either end of the digits.
/// Reading it is linear in the text's length, whatever its exponent.
public struct DecimalText: Sendable, Hashable, CustomStringConvertible {
  public let isNegative: Bool
  /// 0…9 each; empty for zero.
  private let digits: [UInt8]
  private let exponent: Int

  /// Farther than any amount and any text can reach, and far from overflowing what is computed with it.
  private static let exponentLimit = 1 << 40

  /// - Parameter number: a legal JSON number, as ``JSONReader`` hands out; nil if it is not.
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
    // A sign, a point or an `e` must be followed by something.
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

  /// Whether the value is `other`'s or more; linear in the digits.
  func isAtLeast(_ other: DecimalText) -> Bool {
    if isNegative != other.isNegative { return !isNegative }
    return isNegative ? !hasLargerMagnitude(than: other) : !other.hasLargerMagnitude(than: self)
  }

  private func hasLargerMagnitude(than other: DecimalText) -> Bool {
    if isZero || other.isZero { return !isZero }
    // The first digit of neither is 0: the place of it decides, then the digits from there on.
    let (place, otherPlace) = (digits.count + exponent, other.digits.count + other.exponent)
    if place != otherPlace { return place > otherPlace }
    return other.digits.lexicographicallyPrecedes(digits)
  }

  /// The value × 10^power, which must be whole and fit.
  func scaled(byPowerOfTen power: Int) throws(MoneyError) -> Int64 {
    let zeros = exponent + power
    guard zeros >= 0 else { throw .tooManyDecimals(-exponent) }
    // 19 digits are the most that fit 64 bits; checked before anything is computed, as `zeros` may be huge.
    guard digits.count <= 19, digits.count + zeros <= 19 || isZero else { throw .tooLarge }
    var value: Int64 = 0
    for digit in digits + Array(repeating: 0, count: isZero ? 0 : zeros) {
      let (product, isOver) = value.multipliedReportingOverflow(by: 10)
      let (sum, isSumOver) = product.subtractingReportingOverflow(Int64(digit))
      guard !isOver, !isSumOver else { throw .tooLarge }
      value = sum
    }
    // Computed below zero, where there is one value more.
    guard !isNegative else { return value }
    guard value != .min else { throw .tooLarge }
    return -value
  }
}
