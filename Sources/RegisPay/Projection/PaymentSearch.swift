import GRDB

/// Finds a page of payments in portions, each of which takes a few milliseconds, whatever is asked and however many payments
/// there are: others read in between, and whoever asks may stop and go on later where it was.
///
/// Where an index has the payments that are wanted in the order that is wanted, a page is read off it. Where few payments
/// pass one of the filters, those are sorted. Otherwise payments are looked at in order, and those that pass are taken:
/// then a page may take many portions to be full.
struct PaymentSearch: Sendable {
  struct Limits: Sendable {
    /// Payments that are looked at in the first portion. Later ones are longer or shorter, by the time that each took.
    var portionRows = 1_000
    /// How long a page is looked for. Then it ends with what was found, and the next one goes on from there.
    var pageTime = Duration.milliseconds(250)
    /// How long SQLite may take for one portion; see ``StatementLimit``.
    var statementTime = Duration.seconds(2)
    /// So many payments are sorted for a page.
    var sortedRows = 4_000
  }

  /// What a portion should take.
  private static let portionTime = Duration.milliseconds(2)...Duration.milliseconds(6)
  private static let portionRows = 16...65_536

  private enum Way {
    /// One statement finds the page, reading no more than it or the few that pass a filter.
    case once(Source)
    /// Payments are looked at in order.
    case inOrder(Source)
  }

  private let limits: Limits
  private let isIndexed: Bool
  private var query: PaymentQuery
  /// One more than a page has tells whether there is another page.
  private let wanted: Int
  private var way: Way?
  private var portionRows: Int
  private var rows: [PaymentRow] = []
  /// There is nothing more to look for: the page is full, or the last payment was looked at.
  private(set) var isDone = false

  /// - Parameter isIndexed: all of ``PaymentTable/indexes`` are there.
  init(_ query: PaymentQuery, isIndexed: Bool, limits: Limits) {
    self.query = query
    self.isIndexed = isIndexed
    self.limits = limits
    wanted = query.limit + 1
    portionRows = limits.portionRows
  }

  /// What was found so far, and where to go on; nil when there is nothing more.
  var page: (rows: [PaymentRow], next: PaymentQuery.Key?) {
    if rows.count >= wanted {
      let page = Array(rows.prefix(wanted - 1))
      return (page, page.last.map { PaymentQuery.Key($0, in: query.order) })
    }
    return (rows, isDone ? nil : query.after)
  }

  /// Looks at one more portion.
  ///
  /// - Throws: ``UnlistedPayment``; SQLite's errors.
  mutating func goOn(_ database: Database) throws {
    switch try way ?? begin(database) {
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

  private mutating func begin(_ database: Database) throws -> Way {
    if let after = query.after, after.order != query.order {
      query.after = try PaymentTable.key(of: after.offset, in: query.order, database)
      guard query.after != nil else { throw UnlistedPayment() }
    }
    let way = try chosenWay(database)
    self.way = way
    return way
  }

  private func chosenWay(_ database: Database) throws -> Way {
    // While indexes are still to be made only the order of creation needs none.
    guard isIndexed else { return query.order == .created ? .inOrder(.table) : .once(.any) }
    let (source, passes) = Source.inOrder(query)
    let filters = query.filters
    // The index holds what is wanted and nothing else.
    if filters.allSatisfy(passes.contains) { return .once(source) }
    for filter in filters where filter.hasIndex {
      if try PaymentTable.isRare(filter, limit: limits.sortedRows, database) { return .once(.filter(filter)) }
    }
    return .inOrder(source)
  }

  /// What a statement goes by.
  enum Source: Sendable, Hashable {
    /// Whatever SQLite chooses.
    case any
    /// The table, which is in the order of creation.
    case table
    case index(String)
    /// All that pass a filter, to be sorted.
    case filter(PaymentQuery.Filter)

    /// What has the payments in the order that is asked for.
    ///
    /// - Returns: also the filter that is part of it.
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

    /// Most payments are completed, and nothing has gone back of most: those are found by their order.
    var hasIndex: Bool { self != .status(.completed) && self != .refunded(.none) }
  }

  /// What a payment has to pass, the rarest first, most likely.
  var filters: [Filter] {
    [
      search.map(Filter.search), refunded.map(Filter.refunded), status.map(Filter.status),
      currency.map(Filter.currency),
    ].compactMap { $0 }
  }
}
