extension JSONValue {
  /// The value of a whole number that fits 64 bits with its sign; nil for any other value. By JSON Schema 7.0 and 70e-1 are whole numbers,
  /// too.
  var wholeNumber: Int64? {
    guard case .number(let text) = self, let number = DecimalText(text) else { return nil }
    // The error says no more than that it is none.
    return try? number.scaled(byPowerOfTen: 0)
  }
}
