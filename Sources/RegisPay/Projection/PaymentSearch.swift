import GRDB

/// Finds a page of payments, or counts them, in portions. Each takes a few milliseconds, whatever the query and the number of payments: others
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
    /// The time to count payments. Then the count is what was found until then.
    var countTime = Duration.seconds(1)
    /// The time that SQLite may take for one portion; see ``StatementLimit``.
    var statementTime = Duration.seconds(2)
    /// The most payments that are sorted for a page.
    var sortedRows = 4_000
  }

  /// How many payments are examined at a time.
  struct Portion: Sendable {
    /// How long one should take.
    private static let time = Duration.milliseconds(2)...Duration.milliseconds(6)
    private static let bounds = 16...65_536

    private(set) var rows: Int
    private let first: Int

    init(rows: Int) { (self.rows, first) = (rows, rows) }

    mutating func adapt(to time: Duration) {
      if time < Self.time.lowerBound {
        rows = min(rows * 2, max(Self.bounds.upperBound, first))
      } else if time > Self.time.upperBound {
        rows = max(rows / 2, min(Self.bounds.lowerBound, first))
      }
    }
  }

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
  private var portion: Portion
  private var rows: [PaymentRow] = []
  /// The page is full, or the last payment was examined.
  private(set) var isDone = false

  /// - Parameter isIndexed: all of ``PaymentTable/indexes`` exist.
  init(_ query: PaymentQuery, isIndexed: Bool, limits: Limits) {
    self.query = query
    self.isIndexed = isIndexed
    self.limits = limits
    wanted = query.limit + 1
    portion = Portion(rows: limits.portionRows)
  }

  /// Counts one more portion of the payments that pass the filters, in the order of creation.
  ///
  /// - Throws: SQLite's errors.
  mutating func countPortion(_ database: Database) throws -> Int {
    if plan == nil { plan = try begin(database) }
    let start = ContinuousClock.now
    let source = isIndexed ? Source.inOrder(query).source : .table
    if case .once(.filter(let filter))? = plan {
      isDone = true
      return try PaymentTable.count(query, by: .filter(filter), upTo: nil, database)
    }
    let end = try PaymentTable.key(after: portion.rows, query, by: source, database)
    isDone = end == nil
    defer { if let end { query.after = end } }
    let count = try PaymentTable.count(query, by: source, upTo: end, database)
    portion.adapt(to: start.duration(to: .now))
    return count
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
      let end = try PaymentTable.key(after: portion.rows, query, by: source, database)
      rows += try PaymentTable.rows(query, by: source, upTo: end, limit: wanted - rows.count, database)
      isDone = end == nil || rows.count >= wanted
      if let end { query.after = end }
      portion.adapt(to: start.duration(to: .now))
    }
  }

  private mutating func begin(_ database: Database) throws -> Plan {
    try findNumbers(database)
    if let after = query.after, after.order != query.order {
      query.after = try PaymentTable.key(of: after.offset, in: query.order, database)
      guard query.after != nil else { throw UnlistedPayment() }
    }
    let plan = try choosePlan(database)
    self.plan = plan
    return plan
  }

  /// Finds the numbers of the payments that were created in the wanted time: times never go back along the log.
  private mutating func findNumbers(_ database: Database) throws {
    guard query.createdFrom != nil || query.createdBefore != nil || query.belowOffset != nil else { return }
    let from = try query.createdFrom.map { try PaymentTable.firstNumber(createdAt: $0, database) } ?? 0
    var end = try query.createdBefore.map { try PaymentTable.firstNumber(createdAt: $0, database) } ?? .max
    if let offset = query.belowOffset { end = min(end, Int64(clamping: offset)) }
    query.numbers = from..<max(from, end)
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
        let (source, passes) = inOrderOfCreation(query)
        // By their numbers they are found where they are in this order.
        return (source, passes + (query.numbers.map { [.numbers($0)] } ?? []))
      }
    }

    private static func inOrderOfCreation(_ query: PaymentQuery) -> (source: Source, passes: [PaymentQuery.Filter]) {
      if let step = query.step, let reason = query.reason, let status = query.status {
        return (.index("payment_trouble"), [.step(step), .reason(reason), .status(status)])
      }
      if let part = query.refunded, part != .none { return (.index("payment_part"), [.refunded(part)]) }
      if let amount = query.amount { return (.index("payment_amount"), [.amount(amount)]) }
      if let status = query.status, status != .completed { return (.index("payment_status"), [.status(status)]) }
      if let currency = query.currency { return (.index("payment_currency"), [.currency(currency)]) }
      return (.table, [])
    }
  }
}

extension PaymentQuery {
  enum Filter: Sendable, Hashable {
    case search(String)
    case status(PaymentStatus)
    case refunded(PaymentRow.RefundedPart)
    case currency(Currency)
    case amount(Int64)
    case numbers(Range<Int64>)
    case step(PaymentStep)
    case reason(String)

    /// Whether an index serves the filter. Most payments are completed and not refunded: those are found by their order.
    var hasIndex: Bool { self != .status(.completed) && self != .refunded(.none) }
  }

  /// The query's filters, most likely the most selective first.
  var filters: [Filter] {
    [
      search.map(Filter.search), reason.map(Filter.reason), step.map(Filter.step), amount.map(Filter.amount),
      refunded.map(Filter.refunded), status.map(Filter.status), numbers.map(Filter.numbers),
      currency.map(Filter.currency),
    ].compactMap { $0 }
  }
}
