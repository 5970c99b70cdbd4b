import Foundation
import GRDB

extension PaymentTable {
  /// A statement on payments, with its arguments.
  struct Statement {
    var sql: String
    var arguments = StatementArguments()
    private var hasConditions = false

    init(_ select: String) { sql = select }

    /// Adds the source of the payments and the filters. SQLite does not choose the index: it knows neither how many payments
    /// pass a filter nor that other readers wait.
    mutating func add(from source: PaymentSearch.Source, _ filters: [PaymentQuery.Filter]) {
      sql += " FROM payment"
      switch source {
      case .any: break
      case .table: sql += " NOT INDEXED"
      case .index(let name): sql += " INDEXED BY \(name)"
      case .filter(let filter):
        let (condition, arguments) = Self.condition(filter)
        sql += " NOT INDEXED"
        add("number IN (SELECT number FROM payment WHERE \(condition))", arguments)
      }
      for filter in filters where source != .filter(filter) {
        let (condition, arguments) = Self.condition(filter)
        add("(\(condition))", arguments)
      }
    }

    /// Limits the statement to the payments after the query's key and up to another key, in the query's order.
    mutating func add(rangeOf query: PaymentQuery, upTo end: PaymentQuery.Key?) {
      let column = PaymentTable.column(query.order)
      let (direction, behind) = query.isDescending ? ("DESC", "<") : ("ASC", ">")
      func add(_ comparison: String, _ key: PaymentQuery.Key) {
        if query.order == .created {
          self.add("number \(comparison) ?", [key.offset])
        } else {
          self.add("(\(column), number) \(comparison) (?, ?)", [key.value, key.offset])
        }
      }
      if let after = query.after { add(behind, after) }
      if let end { add(query.isDescending ? ">=" : "<=", end) }
      sql += " ORDER BY " + (query.order == .created ? "" : "\(column) \(direction), ") + "number \(direction)"
    }

    private mutating func add(_ condition: String, _ arguments: StatementArguments) {
      sql += (hasConditions ? " AND " : " WHERE ") + condition
      hasConditions = true
      self.arguments += arguments
    }

    /// All that a payment with a reason may have, since the index of reasons begins with the step.
    private static let steps = PaymentStep.allCases.map { "'\($0.rawValue)'" }.joined(separator: ", ")

    static func condition(_ filter: PaymentQuery.Filter) -> (sql: String, arguments: StatementArguments) {
      switch filter {
      case .status(let status):
        let code = PaymentTable.code(of: status)
        if status == .completed { return ("status = ?", [code]) }
        // Repeats the condition of the partial index: SQLite does not infer it.
        return ("status = ? AND status <> \(PaymentTable.code(of: .completed))", [code])
      case .refunded(let part):
        let code = PaymentTable.code(of: part)
        if part == .none { return ("part = ?", [code]) }
        return ("part = ? AND part <> \(PaymentTable.code(of: .none))", [code])
      case .currency(let currency): return ("currency = ?", [currency.code])
      case .amount(let amount): return ("amount = ?", [amount])
      case .numbers(let numbers): return ("number >= ? AND number < ?", [numbers.lowerBound, numbers.upperBound])
      case .step(let step): return ("step = ?", [step.rawValue])
      case .reason(let reason): return ("reason = ? AND step IN (\(steps))", [reason])
      case .search(let search):
        // The second argument sorts after every text with this prefix.
        let arguments: StatementArguments = [search, search + "\u{10FFFF}"]
        let byReference = "reference >= ? AND reference < ?"
        guard let (low, high) = PaymentID.range(beginning: search) else { return (byReference, arguments) }
        return ("(\(byReference)) OR (id >= ? AND id <= ?)", arguments + [Data(low.data), Data(high.data)])
      }
    }
  }
}
