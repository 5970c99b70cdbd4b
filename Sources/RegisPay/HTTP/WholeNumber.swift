extension JSONValue {
  /// The value of a whole number that fits 64 bits with its sign; nil for any other value. By JSON Schema 7.0 and 70e-1 are whole numbers,
  /// too.
  var wholeNumber: Int64? {
    guard case .number(let text) = self, let number = DecimalText(text) else { return nil }
    // It throws only for a number that is not whole or does not fit 64 bits, for which the result is nil.
    return try? number.scaled(byPowerOfTen: 0)
  }
}

extension StringProtocol {
  /// The value of a whole number in an address: decimal digits only, without a sign and without leading zeros, so that each number is
  /// written in one way; nil for any other text.
  var wholeNumber: UInt64? {
    guard (1...20).contains(utf8.count), utf8.allSatisfy({ (48...57).contains($0) }), self == "0" || first != "0" else {
      return nil
    }
    return UInt64(self)
  }
}
