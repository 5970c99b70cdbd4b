import Foundation
import Hummingbird
import HummingbirdCore

extension URI {
  /// The query's parameters as forms, browsers and curl write them: a plus sign is a space
  /// (https://url.spec.whatwg.org/#application/x-www-form-urlencoded).
  var formParameters: Parameters {
    guard let query, query.utf8.contains(UInt8(ascii: "+")) else { return queryParameters }
    return URI("/?" + query.replacingOccurrences(of: "+", with: "%20")).queryParameters
  }
}

extension PaymentQuery {
  /// The parameters that choose payments.
  static let filters = [
    "status", "currency", "refunded", "search", "amount", "createdFrom", "createdBefore", "step", "reason",
  ]

  /// Reads a list's query: its ``filters``, `sort`, `limit`, `after`.
  ///
  /// - Throws: ``Problem`` that names the mistake. An unknown parameter is a mistake too: a misspelt filter must not show
  ///   everything.
  init(_ parameters: some Sequence<(key: Substring, value: Substring)>) throws(Problem) {
    self.init()
    var seen: Set<Substring> = []
    for (name, value) in parameters {
      guard seen.insert(name).inserted else { throw Problem.badRequest("\(name) is given twice.") }
      try read(name, String(value))
    }
  }

  private mutating func read(_ name: Substring, _ value: String) throws(Problem) {
    switch name {
    case "status":
      guard let known = PaymentStatus(rawValue: value) else {
        throw Problem.badRequest(
          "status must be one of \(PaymentStatus.allCases.map(\.rawValue).joined(separator: ", ")).")
      }
      status = known
    case "currency":
      guard let known = Currency.named(value) else {
        throw Problem.badRequest("currency must be one of \(Currency.supported.map(\.code).joined(separator: ", ")).")
      }
      currency = known
    case "refunded":
      guard let known = PaymentRow.RefundedPart(rawValue: value) else {
        let names = PaymentRow.RefundedPart.allCases.map(\.rawValue).joined(separator: ", ")
        throw Problem.badRequest("refunded must be one of \(names).")
      }
      refunded = known
    case "search":
      guard (1...Self.searchLimit).contains(value.unicodeScalars.count) else {
        throw Problem.badRequest("search must be 1 to \(Self.searchLimit) characters.")
      }
      search = value
    case "amount":
      amount = try Self.amount(value)
    case "createdFrom":
      createdFrom = try Self.time(value, name)
    case "createdBefore":
      createdBefore = try Self.time(value, name)
    case "step":
      guard let known = PaymentStep(rawValue: value) else {
        throw Problem.badRequest("step must be one of \(PaymentStep.allCases.map(\.rawValue).joined(separator: ", ")).")
      }
      step = known
    case "reason":
      guard (1...Self.reasonLimit).contains(value.unicodeScalars.count) else {
        throw Problem.badRequest("reason must be 1 to \(Self.reasonLimit) characters.")
      }
      reason = value
    case "sort":
      isDescending = value.hasPrefix("-")
      guard let known = Order(rawValue: isDescending ? String(value.dropFirst()) : value) else {
        let names = Order.allCases.map(\.rawValue).joined(separator: ", ")
        throw Problem.badRequest("sort must be one of \(names), with a - in front for descending order.")
      }
      order = known
    case "limit":
      guard let number = value.wholeNumber, (1...UInt64(Self.pageLimit)).contains(number) else {
        throw Problem.badRequest("limit must be 1 to \(Self.pageLimit).")
      }
      limit = Int(number)
    case "after":
      guard let key = Key(value) else {
        throw Problem.badRequest("after must be the value of next on an earlier page.")
      }
      after = key
    default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
    }
  }

  private static func amount(_ text: String) throws(Problem) -> Int64 {
    // The supported currencies have the same number of decimals.
    guard text.utf8.allSatisfy({ (48...57).contains($0) || $0 == UInt8(ascii: ".") }), let number = DecimalText(text),
      let currency = Currency.supported.first
    else {
      throw Problem.badRequest("amount must be a number such as 12.50.")
    }
    do {
      return try Money(number, currency: currency).minorUnits
    } catch {
      throw Problem.badRequest(
        "amount must have at most \(currency.exponent) decimals, and fit 64 bits without the point.")
    }
  }

  private static func time(_ text: String, _ name: Substring) throws(Problem) -> UInt64 {
    // A time has no space: it was the plus sign of an offset from UTC.
    guard let microseconds = microseconds(timestamp: text.replacingOccurrences(of: " ", with: "+")) else {
      throw Problem.badRequest("\(name) must be a time such as 2026-01-31T12:00:00Z.")
    }
    return UInt64(max(microseconds, 0))
  }
}
