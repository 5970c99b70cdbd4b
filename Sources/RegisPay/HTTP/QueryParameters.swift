import Hummingbird

extension PaymentQuery {
  /// Reads a list's query: `status`, `currency`, `refunded`, `search`, `sort`, `limit`, `after`.
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
    case "sort":
      isDescending = value.hasPrefix("-")
      guard let known = Order(rawValue: isDescending ? String(value.dropFirst()) : value) else {
        let names = Order.allCases.map(\.rawValue).joined(separator: ", ")
        throw Problem.badRequest("sort must be one of \(names), with a - in front for descending order.")
      }
      order = known
    case "limit":
      guard let number = Int(value), (1...Self.pageLimit).contains(number) else {
        throw Problem.badRequest("limit must be 1 to \(Self.pageLimit).")
      }
      limit = number
    case "after":
      guard let key = Key(value) else {
        throw Problem.badRequest("after must be the value of next on an earlier page.")
      }
      after = key
    default: throw Problem.badRequest("This route has no parameter \(String(name).debugDescription).")
    }
  }
}
