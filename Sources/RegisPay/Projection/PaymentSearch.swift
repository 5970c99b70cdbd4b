import GRDB

/// Finds a page of payments in portions. Each takes a few milliseconds, whatever the query and the number of payments: others
/// read in between, and the caller may stop and continue later.
///
/// Where an index holds the wanted payments in the wanted order, a page is read from it. Where few payments pass one of the
/// filters, these are sorted. Otherwise payments are examined in order, and those that pass all filters are taken: a page may
/// then take many portions.
struct PaymentSearch: Sendable {
  struct Limits: Sendable {
    /// Payments examined in the first portion. Later portions adapt to the time that each took.
    var portionRows = 1_000
    /// The time to find a page. Then the page ends with what was found, and the next page continues there.
    var pageTime = Duration.milliseconds(250)
    /// The time that SQLite may take for one portion; see ``StatementLimit``.
    var statementTime = Duration.seconds(2)
    /// The most payments that are sorted for a page.
    var sortedRows = 4_000
  }

  /// How long a portion should take.
  private static let portionTime = Duration.milliseconds(2)...Duration.milliseconds(6)
  private static let portionRows = 16...65_536

  private enum Plan {
    /// One statement finds the page. It reads no more than the page, or the few payments that pass a filter.
    case once(Source)
    /// Payments are examined in order.
    case inOrder(Source)
  }

  private let limits: Limits
  private let isIndexed: Bool
  private var query: PaymentQuery
  /// One more than the page holds: that one tells whether there is another page.
  private let wanted: Int
  private var plan: Plan?
  private var portionRows: Int
  private var rows: [PaymentRow] = []
  /// The page is full, or the last payment was examined.
  private(set) var isDone = false

  /// - Parameter isIndexed: all of ``PaymentTable/indexes`` exist.
  init(_ query: PaymentQuery, isIndexed: Bool, limits: Limits) {
    self.query = query
    self.isIndexed = isIndexed
    self.limits = limits
    wanted = query.limit + 1
    portionRows = limits.portionRows
  }

  /// The rows found so far, and the key to continue from; nil at the end.
  var page: (rows: [PaymentRow], next: PaymentQuery.Key?) {
    if rows.count >= wanted {
      let page = Array(rows.prefix(wanted - 1))
      return (page, page.last.map { PaymentQuery.Key($0, in: query.order) })
    }
    return (rows, isDone ? nil : query.after)
  }

  /// Examines one more portion.
  ///
  /// - Throws: ``UnlistedPayment``; SQLite's errors.
  mutating func readPortion(_ database: Database) throws {
    switch try plan ?? begin(database) {
    case .once(let source):
      rows = try PaymentTable.rows(query, by: source, upTo: nil, limit: wanted, database)
      isDone = true
    case .inOrder(let source):
      let start = ContinuousClock.now
      let end = try PaymentTable.key(after: portionRows, query, by: source, database)
      rows += try PaymentTable.rows(query, by: source, upTo: end, limit: wanted - rows.count, database)
      isDone = end == nil || rows.count >= wanted
      if let end { query.after = end }
      adapt(to: start.duration(to: .now))
    }
  }

  private mutating func adapt(to time: Duration) {
    if time < Self.portionTime.lowerBound {
      portionRows = min(portionRows * 2, max(Self.portionRows.upperBound, limits.portionRows))
    } else if time > Self.portionTime.upperBound {
      portionRows = max(portionRows / 2, min(Self.portionRows.lowerBound, limits.portionRows))
    }
  }

  private mutating func begin(_ database: Database) throws -> Plan {
    if let after = query.after, after.order != query.order {
      query.after = try PaymentTable.key(of: after.offset, in: query.order, database)
      guard query.after != nil else { throw UnlistedPayment() }
    }
    let plan = try choosePlan(database)
    self.plan = plan
    return plan
  }

  private func choosePlan(_ database: Database) throws -> Plan {
    // Without all indexes: only the order of creation needs none.
    guard isIndexed else { return query.order == .created ? .inOrder(.table) : .once(.any) }
    let (source, passes) = Source.inOrder(query)
    let filters = query.filters
    // The index holds the wanted payments and no others.
    if filters.allSatisfy(passes.contains) { return .once(source) }
    for filter in filters where filter.hasIndex {
      if try PaymentTable.isRare(filter, limit: limits.sortedRows, database) { return .once(.filter(filter)) }
    }
    return .inOrder(source)
  }

  /// Where a statement reads payments from.
  enum Source: Sendable, Hashable {
    /// The index that SQLite chooses.
    case any
    /// The table, which is in the order of creation.
    case table
    case index(String)
    /// All payments that pass a filter, to be sorted.
    case filter(PaymentQuery.Filter)

    /// The source that holds the payments in the query's order.
    ///
    /// - Returns: also the filters that all its payments pass.
    static func inOrder(_ query: PaymentQuery) -> (source: Source, passes: [PaymentQuery.Filter]) {
      switch query.order {
      case .updated: return (.index("payment_updated"), [])
      case .amount: return (.index("payment_amount"), [])
      case .created:
        if let part = query.refunded, part != .none { return (.index("payment_part"), [.refunded(part)]) }
        if let status = query.status, status != .completed { return (.index("payment_status"), [.status(status)]) }
        if let currency = query.currency { return (.index("payment_currency"), [.currency(currency)]) }
        return (.table, [])
      }
    }
  }
}

extension PaymentQuery {
  enum Filter: Sendable, Hashable {
    case search(String)
    case status(PaymentStatus)
    case refunded(PaymentRow.RefundedPart)
    case currency(Currency)

    /// Whether an index serves the filter. Most payments are completed and not refunded: those are found by their order.
    var hasIndex: Bool { self != .status(.completed) && self != .refunded(.none) }
  }

  /// The query's filters, most likely the most selective first.
  var filters: [Filter] {
    [
      search.map(Filter.search), refunded.map(Filter.refunded), status.map(Filter.status),
      currency.map(Filter.currency),
    ].compactMap { $0 }
  }
}
