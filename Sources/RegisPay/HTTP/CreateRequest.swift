/// The body of a request to create a payment, with the same checks and messages as the reference design.
struct CreateRequest: Sendable, Hashable {
  /// Bytes of a body; an amount and a currency need fewer than a hundred.
  static let bodyLimit = 64 << 10

  var money: Money

  /// - Throws: all errors, `amount` before `currency`.
  init(_ body: JSONValue) throws(ValidationError) {
    guard case .object = body else {
      throw ValidationError(errors: [FieldError(field: "body", messages: ["The body must be a JSON object"])])
    }
    switch (Self.amount(body["amount"]), Self.currency(body["currency"])) {
    case (.success(let number), .success(let currency)): self.money = try Self.money(number, currency)
    case (.failure(let error), .success), (.success, .failure(let error)): throw ValidationError(errors: [error])
    case (.failure(let amountError), .failure(let currencyError)):
      throw ValidationError(errors: [amountError, currencyError])
    }
  }

  private static func amount(_ value: JSONValue?) -> Result<DecimalText, FieldError> {
    func failure(_ messages: String...) -> Result<DecimalText, FieldError> {
      .failure(FieldError(field: "amount", messages: messages))
    }
    switch value {
    case nil, .null: return failure("Amount must not be empty", notPositive)
    case .number(let text):
      guard let number = DecimalText(text) else { return failure(notANumber) }
      if number.isZero { return failure("Amount must not be empty", notPositive) }
      return number.isNegative ? failure(notPositive) : .success(number)
    default: return failure(notANumber)
    }
  }

  private static func money(_ number: DecimalText, _ currency: Currency) throws(ValidationError) -> Money {
    func amountError(_ message: String) -> ValidationError {
      ValidationError(errors: [FieldError(field: "amount", messages: [message])])
    }
    do throws(MoneyError) {
      return try Money(number, currency: currency)
    } catch {
      switch error {
      case .tooManyDecimals(let count):
        throw amountError("Amount has \(count) decimals, \(currency) allows \(currency.exponent)")
      case .tooLarge:
        throw amountError("Amount is too large, at most \(Money(minorUnits: .max, currency: currency)) is possible")
      }
    }
  }

  private static func currency(_ value: JSONValue?) -> Result<Currency, FieldError> {
    func failure(_ messages: String...) -> Result<Currency, FieldError> {
      .failure(FieldError(field: "currency", messages: messages))
    }
    switch value {
    case nil, .null: return failure(noCurrency, unsupportedCurrency)
    case .string(let code):
      // White space alone counts as empty, as in the reference's validator.
      guard code.contains(where: { !$0.isWhitespace }) else { return failure(noCurrency, unsupportedCurrency) }
      guard let currency = Currency.named(code) else { return failure(unsupportedCurrency) }
      return .success(currency)
    default: return failure("Currency must be a string, such as \"GBP\"")
    }
  }

  // The misspellings are the reference's; clients may match on them.
  private static let notPositive = "Amount must be a postive value"
  private static let noCurrency = "Currency must not be empty"
  private static let unsupportedCurrency =
    "Please use one of these suppored currencies: " + Currency.supported.map(\.code).joined(separator: ", ")
  private static let notANumber = "Amount must be a number, such as 12.34"
}

extension FieldError: Error {}

/// The errors of a request's body.
struct ValidationError: Error, Sendable, Hashable {
  var errors: [FieldError]

  init(errors: [FieldError]) { self.errors = errors }

  init(_ error: JSONError) { errors = [FieldError(field: "body", messages: ["The body is \(error)"])] }

  /// The body in the reference's form.
  var compatibleBody: JSONValue {
    ["statusCode": .integer(400), "message": "One or more errors occurred!", "errors": FieldError.json(errors)]
  }

  /// The same as a problem.
  var problem: Problem {
    Problem(
      status: .badRequest, name: "validation", detail: "The body of the request is not what this route accepts.",
      errors: errors)
  }
}
