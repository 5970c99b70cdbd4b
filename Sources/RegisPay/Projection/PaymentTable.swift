import Foundation
import GRDB

/// The projection's tables: one row a payment, and how far the log is in them. What is asked and changed, in SQL.
enum PaymentTable {
  /// Of the tables and of what is put into them. A file of another version is made anew from the log.
  static let version = 2

  static func create(_ database: Database) throws {
    try database.execute(
      sql: """
        CREATE TABLE progress (
          id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, log TEXT, place INTEGER NOT NULL
        );
        INSERT INTO progress VALUES (1, \(version), NULL, 0);
        CREATE TABLE payment (
          number INTEGER PRIMARY KEY, id BLOB NOT NULL, version INTEGER NOT NULL, status INTEGER NOT NULL,
          amount INTEGER NOT NULL, currency TEXT NOT NULL, refunded INTEGER NOT NULL, reference TEXT,
          created INTEGER NOT NULL, updated INTEGER NOT NULL, step TEXT, reason TEXT
        );
        -- What waits for a time, of the payment with this number; refund 0 for none.
        CREATE TABLE delay (
          number INTEGER NOT NULL, step TEXT NOT NULL, refund INTEGER NOT NULL, due INTEGER NOT NULL,
          attempts INTEGER NOT NULL, failures INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (number, step, refund)
        ) WITHOUT ROWID;
        CREATE INDEX delay_due ON delay (step, due);
        """)
  }

  /// The indexes for filters, searches and orders; the table is whole without them, and queries are right, but slow.
  static let indexes: [(name: String, sql: String)] = [
    ("payment_id", "CREATE UNIQUE INDEX payment_id ON payment (id)"),
    (
      "payment_reference", "CREATE INDEX payment_reference ON payment (reference) WHERE reference IS NOT NULL"
    ),
    ("payment_currency", "CREATE INDEX payment_currency ON payment (currency, number)"),
    ("payment_amount", "CREATE INDEX payment_amount ON payment (amount, number)"),
    ("payment_updated", "CREATE INDEX payment_updated ON payment (updated, number)"),
    // Most payments are completed: those are found by any of the others.
    (
      "payment_status",
      "CREATE INDEX payment_status ON payment (status, number) WHERE status <> \(code(of: .completed))"
    ),
  ]

  /// The first of ``indexes`` that is not there.
  static func missingIndex(_ database: Database) throws -> (name: String, sql: String)? {
    let names = Set(try String.fetchAll(database, sql: "SELECT name FROM sqlite_master WHERE type = 'index'"))
    return indexes.first { !names.contains($0.name) }
  }

  struct Progress: Hashable {
    /// Of what is in the file.
    var version: Int
    /// Which log it was made from; nil while that has no event.
    var log: String?
    /// The offset to read next.
    var place: UInt64
  }

  static func progress(_ database: Database) throws -> Progress? {
    guard try database.tableExists("progress"),
      let row = try Row.fetchOne(database, sql: "SELECT version, log, place FROM progress")
    else { return nil }
    return Progress(version: row[0], log: row[1], place: UInt64(clamping: row[2] as Int64))
  }

  static func setProgress(_ progress: Progress, _ database: Database) throws {
    try database.cachedStatement(sql: "UPDATE progress SET log = ?, place = ?")
      .execute(arguments: [progress.log, Int64(clamping: progress.place)])
  }

  static func write(_ row: PaymentRow, _ database: Database) throws {
    try database.cachedStatement(
      sql: """
        INSERT INTO payment
          (number, id, version, status, amount, currency, refunded, reference, created, updated, step, reason)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (number) DO UPDATE SET
          version = excluded.version, status = excluded.status, refunded = excluded.refunded,
          reference = excluded.reference, updated = excluded.updated, step = excluded.step, reason = excluded.reason
        """
    ).execute(arguments: [
      Int64(clamping: row.offset), Data(row.id.data), Int64(clamping: row.version), code(of: row.status),
      row.money.minorUnits, row.money.currency.code, row.refunded.minorUnits, row.reference,
      Int64(clamping: row.createdMicroseconds), Int64(clamping: row.updatedMicroseconds), row.trouble?.step.rawValue,
      row.trouble?.reason,
    ])
  }

  /// Takes the place of what was known of the payment's delays.
  static func writeDelays(_ row: PaymentRow, _ database: Database) throws {
    let number = Int64(clamping: row.offset)
    try database.cachedStatement(sql: "DELETE FROM delay WHERE number = ?").execute(arguments: [number])
    for delay in row.delays {
      try database.cachedStatement(sql: "INSERT INTO delay VALUES (?, ?, ?, ?, ?, ?, ?)").execute(arguments: [
        number, delay.work.step.rawValue, delay.work.refund ?? 0, Int64(clamping: delay.untilMicroseconds),
        delay.attempts, delay.ownFailures, delay.reason,
      ])
    }
  }

  static func hasDelays(_ database: Database) throws -> Bool {
    try Bool.fetchOne(try database.cachedStatement(sql: "SELECT EXISTS (SELECT 1 FROM delay)")) ?? false
  }

  /// What of a step is due by then, the longest due first.
  static func due(
    _ step: PaymentStep, by microseconds: UInt64, limit: Int, _ database: Database
  ) throws -> [(id: PaymentID, delay: Delay)] {
    let rows = try Row.fetchAll(
      try database.cachedStatement(
        sql: """
          SELECT payment.id, delay.* FROM delay JOIN payment USING (number)
          WHERE delay.step = ? AND delay.due <= ? ORDER BY delay.due LIMIT ?
          """), arguments: [step.rawValue, Int64(clamping: microseconds), limit])
    return try rows.map { row in
      guard let id = PaymentID(data: Array(row[0] as Data)) else { throw impossibleRow }
      return (id, try delay(row))
    }
  }

  /// How many payments' steps wait for a time.
  static func delayCount(_ step: PaymentStep, _ database: Database) throws -> Int {
    try Int.fetchOne(
      try database.cachedStatement(sql: "SELECT count(*) FROM delay WHERE step = ?"), arguments: [step.rawValue]) ?? 0
  }

  /// Why they wait, and how many for each reason, of those that are due first.
  static func delayReasons(_ step: PaymentStep, _ database: Database) throws -> [String: Int] {
    let rows = try Row.fetchAll(
      try database.cachedStatement(
        sql: """
          SELECT reason, count(*) FROM (SELECT reason FROM delay WHERE step = ? ORDER BY due LIMIT 10000) GROUP BY reason
          """), arguments: [step.rawValue])
    return Dictionary(rows.map { ($0[0] as String, $0[1] as Int) }, uniquingKeysWith: +)
  }

  private static func delays(of number: Int64, _ database: Database) throws -> [Delay] {
    try Row.fetchAll(
      try database.cachedStatement(sql: "SELECT * FROM delay WHERE number = ? ORDER BY due"), arguments: [number]
    ).map(delay)
  }

  private static func delay(_ row: Row) throws -> Delay {
    let refund: Int = row["refund"]
    guard let step = PaymentStep(rawValue: row["step"]),
      let work = PaymentWork(step, refund: refund == 0 ? nil : refund)
    else { throw impossibleRow }
    return Delay(
      work, untilMicroseconds: UInt64(clamping: row["due"] as Int64), attempts: row["attempts"],
      ownFailures: row["failures"], reason: row["reason"])
  }

  private static var impossibleRow: DatabaseError {
    DatabaseError(resultCode: .SQLITE_CORRUPT, message: "a row of payments can't be")
  }

  /// Linear in the page, where an index fits the query; else in the payments that have to be passed over.
  static func rows(_ query: PaymentQuery, _ database: Database) throws -> [PaymentRow] {
    var isRare = false
    if let search = query.search {
      let (condition, arguments) = matching(search)
      let sql = "SELECT count(*) FROM (SELECT 1 FROM payment WHERE \(condition) LIMIT \(rareLimit + 1))"
      isRare =
        try Int.fetchOne(try database.cachedStatement(sql: sql), arguments: arguments).map { $0 <= rareLimit } ?? false
    }
    let (sql, arguments) = select(query, isSearchRare: isRare)
    let hasDelays = try hasDelays(database)
    return try Row.fetchAll(try database.cachedStatement(sql: sql), arguments: arguments).map { row in
      var payment = try paymentRow(row)
      if hasDelays { payment.delays = try delays(of: row[0], database) }
      return payment
    }
  }

  /// The place in an order of the payment that begins at this offset; nil if it is not there.
  static func key(
    of offset: Int64, in order: PaymentQuery.Order, _ database: Database
  ) throws -> PaymentQuery.Key? {
    try Int64.fetchOne(
      try database.cachedStatement(sql: "SELECT \(column(order)) FROM payment WHERE number = ?"), arguments: [offset]
    ).map { PaymentQuery.Key(order: order, value: $0, offset: offset) }
  }

  /// Linear in the payments with this status.
  static func count(status: PaymentStatus, _ database: Database) throws -> Int {
    let partly = status == .completed ? "" : " AND status <> \(code(of: .completed))"
    return try Int.fetchOne(
      try database.cachedStatement(sql: "SELECT count(*) FROM payment WHERE status = ?\(partly)"),
      arguments: [code(of: status)]) ?? 0
  }

  /// So many payments can be sorted for a page. Of what is found more often, a page is soon full in any order.
  private static let rareLimit = 10_000

  /// - Parameter isSearchRare: what is searched for is found in few payments: those first, by the indexes.
  static func select(_ query: PaymentQuery, isSearchRare: Bool) -> (sql: String, arguments: StatementArguments) {
    var conditions: [String] = []
    var arguments = StatementArguments()
    if let status = query.status {
      conditions.append("status = ?")
      arguments += [code(of: status)]
      // Said as the partial index says it: SQLite does not conclude it.
      if status != .completed { conditions.append("status <> \(code(of: .completed))") }
    }
    if let currency = query.currency {
      conditions.append("currency = ?")
      arguments += [currency.code]
    }
    if let search = query.search {
      let (condition, searchArguments) = matching(search)
      conditions.append(isSearchRare ? "number IN (SELECT number FROM payment WHERE \(condition))" : "(\(condition))")
      arguments += searchArguments
    }
    let column = column(query.order)
    let (direction, comparison) = query.isDescending ? ("DESC", "<") : ("ASC", ">")
    if let after = query.after {
      if query.order == .created {
        conditions.append("number \(comparison) ?")
        arguments += [after.offset]
      } else {
        conditions.append("(\(column), number) \(comparison) (?, ?)")
        arguments += [after.value, after.offset]
      }
    }
    let order = query.order == .created ? "number \(direction)" : "\(column) \(direction), number \(direction)"
    let condition = conditions.isEmpty ? "" : "WHERE " + conditions.joined(separator: " AND ")
    arguments += [query.limit]
    let sql = """
      SELECT number, id, version, status, amount, currency, refunded, reference, created, updated, step, reason
      FROM payment \(condition) ORDER BY \(order) LIMIT ?
      """
    return (sql, arguments)
  }

  private static func column(_ order: PaymentQuery.Order) -> String {
    switch order {
    case .created: "number"
    case .updated: "updated"
    case .amount: "amount"
    }
  }

  private static func matching(_ search: String) -> (condition: String, arguments: StatementArguments) {
    // Behind every text that begins so.
    var arguments: StatementArguments = [search, search + "\u{10FFFF}"]
    let byReference = "reference >= ? AND reference < ?"
    guard let (low, high) = PaymentID.range(beginning: search) else { return (byReference, arguments) }
    arguments += [Data(low.data), Data(high.data)]
    return ("(\(byReference)) OR (id >= ? AND id <= ?)", arguments)
  }

  private static func paymentRow(_ row: Row) throws -> PaymentRow {
    guard let id = PaymentID(data: Array(row[1] as Data)), let currency = Currency.named(row[5]),
      let status = status(of: row[3])
    else { throw impossibleRow }
    var trouble: PaymentRow.Trouble?
    if let step = (row[10] as String?).flatMap(PaymentStep.init(rawValue:)), let reason = row[11] as String? {
      trouble = .init(step: step, reason: reason)
    }
    return PaymentRow(
      id: id, money: Money(minorUnits: row[4], currency: currency), status: status, reference: row[7],
      refunded: Money(minorUnits: row[6], currency: currency), version: UInt64(clamping: row[2] as Int64),
      offset: UInt64(clamping: row[0] as Int64), createdMicroseconds: UInt64(clamping: row[8] as Int64),
      updatedMicroseconds: UInt64(clamping: row[9] as Int64), trouble: trouble, delays: [])
  }

  // The numbers stand in files: a status keeps its own, and ``version`` counts up when that changes.
  private static func code(of status: PaymentStatus) -> Int {
    switch status {
    case .initiated: 0
    case .created: 1
    case .settled: 2
    case .completed: 3
    case .declined: 4
    case .cancelling: 5
    case .cancelled: 6
    case .refunding: 7
    case .refunded: 8
    case .failed: 9
    }
  }

  private static func status(of code: Int) -> PaymentStatus? {
    PaymentStatus.allCases.first { Self.code(of: $0) == code }
  }
}
