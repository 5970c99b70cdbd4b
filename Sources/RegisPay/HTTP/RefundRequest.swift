import Hummingbird

/// The body of a request for a refund: `{"amount": 1.50, "currency": "GBP"}`. Without an amount, or without a body, it requests all
/// that is left. Without a currency the amount is in the payment's currency.
struct RefundRequest: Sendable {
  /// Nil for all that is left.
  var amount: Money?

  /// - Throws: ``Problem`` that names the mistake.
  init(_ request: Request, _ bytes: [UInt8], currency own: Currency) async throws {
    guard !bytes.isEmpty else { return }
    try request.requireJSON()
    let body: JSONValue
    do {
      body = try await Request.json(bytes)
    } catch {
      throw ValidationError(error).problem
    }
    do {
      amount = try Self.amount(body, currency: own)
    } catch let error as ValidationError {
      throw error.problem
    } catch let refusal as PaymentRefusal {
      throw Problem(refusal)
    }
  }

  /// - Throws: ``ValidationError``; ``PaymentRefusal`` for a valid currency that is not the payment's.
  static func amount(_ body: JSONValue, currency own: Currency) throws -> Money? {
    func failure(_ field: String, _ message: String) -> ValidationError {
      ValidationError(errors: [FieldError(field: field, messages: [message])])
    }
    guard case .object(let members) = body else { throw failure("body", "The body must be a JSON object") }
    // A misspelt member must not turn a partial refund into a full one.
    for member in members where member.key != "amount" && member.key != "currency" {
      throw failure(member.key, "There is no such member; amount and currency are possible")
    }
    switch body["currency"] {
    case nil, .string(own.code): break
    case let value:
      if case .string(let code)? = value, let asked = Currency.named(code) {
        throw PaymentRefusal.otherCurrency(asked, of: own)
      }
      throw failure("currency", "The payment is in \(own)")
    }
    switch body["amount"] {
    case nil:
      return nil
    case .number(let text):
      guard let number = DecimalText(text), !number.isNegative, !number.isZero else {
        throw failure("amount", "Amount must be positive")
      }
      do throws(MoneyError) {
        return try Money(number, currency: own)
      } catch {
        switch error {
        case .tooManyDecimals(let count):
          throw failure("amount", "Amount has \(count) decimals, \(own) allows \(own.exponent)")
        case .tooLarge: throw failure("amount", "Amount is too large")
        }
      }
    default: throw failure("amount", "Amount must be a number, such as 12.34")
    }
  }
}
