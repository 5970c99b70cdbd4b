import Foundation
import GRDB

/// The projection's SQL: one row for each payment, and the checkpoint.
enum PaymentTable {
  /// The version of the tables and their content. A file of another version is rebuilt from the log.
  static let version = 8

  /// The statuses whose payments are counted. A tally's name is the status, or the step for waits.
  private static let countedStatuses: [PaymentStatus] = [.failed, .outcomeUnknown]

  static func create(_ database: Database) throws {
    try database.execute(
      sql: """
        CREATE TABLE progress (
          id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, log TEXT, place INTEGER NOT NULL
        );
        INSERT INTO progress VALUES (1, \(version), NULL, 0);
        CREATE TABLE payment (
          number INTEGER PRIMARY KEY, id BLOB NOT NULL, version INTEGER NOT NULL, status INTEGER NOT NULL,
          amount INTEGER NOT NULL, currency TEXT NOT NULL, refunded INTEGER NOT NULL,
          refunding INTEGER NOT NULL, part INTEGER NOT NULL, reference TEXT,
          created INTEGER NOT NULL, updated INTEGER NOT NULL, step TEXT, refund INTEGER, reason TEXT,
          further INTEGER NOT NULL
        );
        -- What waits for a time, of the payment with this number; refund 0 for none.
        CREATE TABLE delay (
          number INTEGER NOT NULL, step TEXT NOT NULL, refund INTEGER NOT NULL, due INTEGER NOT NULL,
          attempts INTEGER NOT NULL, failures INTEGER NOT NULL, reason TEXT NOT NULL, tried INTEGER NOT NULL,
          unanswered INTEGER NOT NULL, began INTEGER, PRIMARY KEY (number, step, refund)
        ) WITHOUT ROWID;
        CREATE INDEX delay_due ON delay (step, unanswered, due);
        -- What an earlier version wrote doesn't say when it began: no wait was longer than 15 minutes.
        CREATE INDEX delay_began ON delay (step, unanswered, ifnull(began, due - 900000000));
        -- How many there are of what is counted: a count by going through them would take as long as there are many.
        CREATE TABLE tally (name TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TRIGGER delay_counted AFTER INSERT ON delay BEGIN
          INSERT INTO tally VALUES (new.step, 1) ON CONFLICT DO UPDATE SET count = count + 1;
        END;
        CREATE TRIGGER delay_uncounted AFTER DELETE ON delay BEGIN
          UPDATE tally SET count = count - 1 WHERE name = old.step;
        END;
        """)
    for status in countedStatuses { try count(status, database) }
  }

  /// Creates triggers that count the payments with a status.
  private static func count(_ status: PaymentStatus, _ database: Database) throws {
    let (name, code) = (status.rawValue, code(of: status))
    try database.execute(
      sql: """
        CREATE TRIGGER \(name)_counted AFTER INSERT ON payment WHEN new.status = \(code) BEGIN
          INSERT INTO tally VALUES ('\(name)', 1) ON CONFLICT DO UPDATE SET count = count + 1;
        END;
        CREATE TRIGGER \(name)_changed AFTER UPDATE OF status ON payment
        WHEN (old.status = \(code)) <> (new.status = \(code)) BEGIN
          INSERT INTO tally VALUES ('\(name)', (new.status = \(code)))
          ON CONFLICT DO UPDATE SET count = count + CASE new.status WHEN \(code) THEN 1 ELSE -1 END;
        END;
        """)
  }

  /// The indexes for filters, searches and orders. Without them the table is complete and queries are correct, but slow. The
  /// indexes for orders also hold columns to filter by, where that costs no further write: a payment that doesn't pass then needs
  /// no look-up in the table.
  static let indexes: [(name: String, sql: String)] = [
    ("payment_id", "CREATE UNIQUE INDEX payment_id ON payment (id)"),
    (
      "payment_reference", "CREATE INDEX payment_reference ON payment (reference) WHERE reference IS NOT NULL"
    ),
    ("payment_currency", "CREATE INDEX payment_currency ON payment (currency, number)"),
    ("payment_amount", "CREATE INDEX payment_amount ON payment (amount, number, currency)"),
    ("payment_updated", "CREATE INDEX payment_updated ON payment (updated, number, status, currency)"),
    // Most payments have no refund; other indexes find those.
    (
      "payment_part", "CREATE INDEX payment_part ON payment (part, number) WHERE part <> \(code(of: .none))"
    ),
    // Most payments are completed; other indexes find those.
    (
      "payment_status",
      "CREATE INDEX payment_status ON payment (status, number) WHERE status <> \(code(of: .completed))"
    ),
    // Most payments have no trouble.
    (
      "payment_trouble", "CREATE INDEX payment_trouble ON payment (step, reason, status, number) WHERE step IS NOT NULL"
    ),
  ]

  /// The first of ``indexes`` that does not exist.
  static func missingIndex(_ database: Database) throws -> (name: String, sql: String)? {
    let names = Set(try String.fetchAll(database, sql: "SELECT name FROM sqlite_master WHERE type = 'index'"))
    return indexes.first { !names.contains($0.name) }
  }

  struct Checkpoint: Hashable {
    /// Of the tables.
    var version: Int
    /// The log that the tables were made from; nil while that has no event.
    var storeID: String?
    /// The last event that the tables were made from. A log that was restored to an earlier offset and continued has the same id
    /// and another event there.
    var lastEvent: EventMark?
    /// The offset to read next; in the file it is `place`.
    var nextOffset: UInt64
  }

  static func checkpoint(_ database: Database) throws -> Checkpoint? {
    guard try database.tableExists("progress"),
      let row = try Row.fetchOne(database, sql: "SELECT version, log, place FROM progress")
    else { return nil }
    // The id and the event's mark, with a space between. An earlier version wrote no mark.
    let parts = (row[1] as String?)?.split(separator: " ", maxSplits: 1).map(String.init) ?? []
    return Checkpoint(
      version: row[0], storeID: parts.first, lastEvent: parts.dropFirst().first.flatMap(EventMark.init),
      nextOffset: UInt64(clamping: row[2] as Int64))
  }

  /// The events of the log that the rows were made from; nil if the file does not say it.
  static func eventCount(_ database: Database) throws -> UInt64? {
    try checkpoint(database).map { $0.storeID == nil ? 0 : $0.nextOffset }
  }

  static func setCheckpoint(_ checkpoint: Checkpoint, _ database: Database) throws {
    try database.cachedStatement(sql: "UPDATE progress SET log = ?, place = ?")
      .execute(arguments: [
        checkpoint.storeID.map { id in checkpoint.lastEvent.map { "\(id) \($0)" } ?? id },
        Int64(clamping: checkpoint.nextOffset),
      ])
  }

  static func write(_ row: PaymentRow, _ database: Database) throws {
    try database.cachedStatement(
      sql: """
        INSERT INTO payment
          (number, id, version, status, amount, currency, refunded, refunding, part, reference, created, updated, step,
            refund, reason, further)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (number) DO UPDATE SET
          version = excluded.version, status = excluded.status, refunded = excluded.refunded,
          refunding = excluded.refunding, part = excluded.part,
          reference = excluded.reference, updated = excluded.updated, step = excluded.step, refund = excluded.refund,
          reason = excluded.reason, further = excluded.further
        """
    ).execute(arguments: [
      Int64(clamping: row.offset), Data(row.id.data), Int64(clamping: row.version), code(of: row.status),
      row.money.minorUnits, row.money.currency.code, row.refunded.minorUnits, row.refunding.minorUnits,
      code(of: row.refundedPart), row.reference,
      Int64(clamping: row.createdMicroseconds), Int64(clamping: row.updatedMicroseconds), row.trouble?.step.rawValue,
      row.trouble?.refund, row.trouble?.reason, row.furtherUnknown,
    ])
  }

  /// Replaces the payment's waits.
  static func writeDelays(_ row: PaymentRow, _ database: Database) throws {
    let number = Int64(clamping: row.offset)
    try database.cachedStatement(sql: "DELETE FROM delay WHERE number = ?").execute(arguments: [number])
    for delay in row.delays {
      try database.cachedStatement(sql: "INSERT INTO delay VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)").execute(arguments: [
        number, delay.work.step.rawValue, delay.work.refund ?? 0, Int64(clamping: delay.untilMicroseconds),
        delay.attempts, delay.ownFailures, delay.reason, delay.mayHaveHappened,
        delay.didTimeOut, delay.beganMicroseconds.map { Int64(clamping: $0) },
      ])
    }
  }

  static func hasDelays(_ database: Database) throws -> Bool {
    try Bool.fetchOne(try database.cachedStatement(sql: "SELECT EXISTS (SELECT 1 FROM delay)")) ?? false
  }

  /// The work of a step that is due, the longest due first; see ``DelayedWork``. Reads no more of the index than it returns.
  static func due(
    _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int,
    _ database: Database
  ) throws -> [(id: PaymentID, delay: Delay)] {
    let rows = try Row.fetchAll(
      try database.cachedStatement(
        sql: """
          SELECT payment.id, found.* FROM (
            SELECT * FROM (
              SELECT * FROM delay WHERE step = ?1 AND unanswered = ?5 AND due <= ?2 ORDER BY due LIMIT ?4
            )
            UNION ALL
            SELECT * FROM (
              SELECT * FROM delay
              WHERE step = ?1 AND unanswered = ?5 AND due > ?2 AND ifnull(began, due - 900000000) > ?3
              ORDER BY ifnull(began, due - 900000000) LIMIT ?4
            )
          ) AS found JOIN payment USING (number) ORDER BY found.due LIMIT ?4
          """),
      arguments: [step.rawValue, Int64(clamping: microseconds), Int64(clamping: impossible), limit, didTimeOut])
    return try rows.map { row in
      guard let id = PaymentID(data: Array(row[0] as Data)) else { throw impossibleRow }
      return (id, try delay(row))
    }
  }

  /// The number of waits of a step.
  static func delayCount(_ step: PaymentStep, _ database: Database) throws -> Int {
    try tally(step.rawValue, database)
  }

  /// The number of parked payments.
  static func parkedCount(_ database: Database) throws -> Int { try tally(PaymentStatus.failed.rawValue, database) }

  /// The number of payments with a step whose outcome is unknown.
  static func unknownCount(_ database: Database) throws -> Int {
    try tally(PaymentStatus.outcomeUnknown.rawValue, database)
  }

  private static func tally(_ name: String, _ database: Database) throws -> Int {
    try Int.fetchOne(
      try database.cachedStatement(sql: "SELECT count FROM tally WHERE name = ?"), arguments: [name]) ?? 0
  }

  /// The reasons of a step's waits, with the number of payments for each; from the 10,000 of each kind that are due first.
  static func delayReasons(_ step: PaymentStep, _ database: Database) throws -> [String: Int] {
    let rows = try Row.fetchAll(
      try database.cachedStatement(
        sql: """
          SELECT reason, count(*) FROM (
            SELECT * FROM (SELECT reason FROM delay WHERE step = ?1 AND unanswered = 0 ORDER BY due LIMIT 10000)
            UNION ALL
            SELECT * FROM (SELECT reason FROM delay WHERE step = ?1 AND unanswered = 1 ORDER BY due LIMIT 10000)
          ) GROUP BY reason
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
      ownFailures: row["failures"], reason: row["reason"], mayHaveHappened: row["tried"],
      didTimeOut: row["unanswered"], beganMicroseconds: (row["began"] as Int64?).map { UInt64(clamping: $0) })
  }

  private static var impossibleRow: DatabaseError {
    DatabaseError(resultCode: .SQLITE_CORRUPT, message: "a row of payments has impossible values")
  }

  /// The key in an order of the payment that begins at this offset; nil if it is not in the table.
  static func key(
    of offset: Int64, in order: PaymentQuery.Order, _ database: Database
  ) throws -> PaymentQuery.Key? {
    try Int64.fetchOne(
      try database.cachedStatement(sql: "SELECT \(column(order)) FROM payment WHERE number = ?"), arguments: [offset]
    ).map { PaymentQuery.Key(order: order, value: $0, offset: offset) }
  }

  // MARK: - Statements of a search

  /// The payments that pass the query's filters after its key, in its order.
  ///
  /// - Parameter end: the last key that is examined; nil for no limit.
  static func rows(
    _ query: PaymentQuery, by source: PaymentSearch.Source, upTo end: PaymentQuery.Key?, limit: Int,
    _ database: Database
  ) throws -> [PaymentRow] {
    let statement = select(query, by: source, upTo: end, limit: limit)
    let hasDelays = try hasDelays(database)
    return try Row.fetchAll(try database.cachedStatement(sql: statement.sql), arguments: statement.arguments).map {
      var payment = try paymentRow($0)
      if hasDelays { payment.delays = try delays(of: $0[0], database) }
      return payment
    }
  }

  /// The number of payments that pass the query's filters after its key.
  static func count(
    _ query: PaymentQuery, by source: PaymentSearch.Source, upTo end: PaymentQuery.Key?, _ database: Database
  ) throws -> Int {
    var statement = Statement("SELECT count(*)")
    statement.add(from: source, query.filters)
    statement.add(rangeOf: query, upTo: end)
    return try Int.fetchOne(try database.cachedStatement(sql: statement.sql), arguments: statement.arguments) ?? 0
  }

  /// The payments with a status that have a step in trouble, by step and reason, most first.
  static func troubles(_ status: PaymentStatus, limit: Int, _ database: Database) throws -> [Trouble] {
    try Row.fetchAll(
      try database.cachedStatement(
        sql: """
          SELECT step, reason, count(*) FROM payment INDEXED BY payment_trouble
          WHERE step IS NOT NULL AND status = ? GROUP BY step, reason ORDER BY 3 DESC, 1, 2 LIMIT ?
          """), arguments: [code(of: status), limit]
    ).map { row in
      guard let step = PaymentStep(rawValue: row[0]) else { throw impossibleRow }
      return Trouble(step: step, reason: row[1], count: row[2])
    }
  }

  /// Payments whose step is in trouble for the same reason.
  struct Trouble: Sendable, Hashable {
    var step: PaymentStep
    var reason: String
    var count: Int
  }

  /// The number of the first payment that was created at this time or later; the largest number if there is none.
  static func firstNumber(createdAt microseconds: UInt64, _ database: Database) throws -> Int64 {
    let statement = try database.cachedStatement(
      sql: "SELECT number, created FROM payment NOT INDEXED WHERE number >= ? ORDER BY number LIMIT 1")
    guard let last = try Int64.fetchOne(try database.cachedStatement(sql: "SELECT max(number) FROM payment")) else {
      return .max
    }
    // No payment below `low` is late enough, and the first one from `high` on is, if there is one.
    var (low, high) = (Int64(0), last + 1)
    while low < high {
      let middle = low + (high - low) / 2
      guard let row = try Row.fetchOne(statement, arguments: [middle]) else {
        high = middle
        continue
      }
      if (row[1] as Int64) < Int64(clamping: microseconds) { low = row[0] as Int64 + 1 } else { high = middle }
    }
    return low > last ? .max : low
  }

  static func select(
    _ query: PaymentQuery, by source: PaymentSearch.Source, upTo end: PaymentQuery.Key?, limit: Int
  ) -> Statement {
    var statement = Statement(
      "SELECT number, id, version, status, amount, currency, refunded, reference, created, updated, step, refund,"
        + " reason, refunding, further")
    statement.add(from: source, query.filters)
    statement.add(rangeOf: query, upTo: end)
    statement.sql += " LIMIT ?"
    statement.arguments += [limit]
    return statement
  }

  /// The key `count` payments after the query's, whether they pass its filters or not; nil when there are fewer.
  static func key(
    after count: Int, _ query: PaymentQuery, by source: PaymentSearch.Source, _ database: Database
  ) throws -> PaymentQuery.Key? {
    var statement = Statement("SELECT \(column(query.order)), number")
    // The other filters apply later.
    statement.add(from: source, PaymentSearch.Source.inOrder(query).source == source ? passed(query) : [])
    statement.add(rangeOf: query, upTo: nil)
    statement.sql += " LIMIT 1 OFFSET ?"
    statement.arguments += [count - 1]
    return try Row.fetchOne(try database.cachedStatement(sql: statement.sql), arguments: statement.arguments).map {
      PaymentQuery.Key(order: query.order, value: $0[0], offset: $0[1])
    }
  }

  private static func passed(_ query: PaymentQuery) -> [PaymentQuery.Filter] {
    PaymentSearch.Source.inOrder(query).passes
  }

  /// Whether at most `limit` payments pass a filter. Examines no more than that.
  static func isRare(_ filter: PaymentQuery.Filter, limit: Int, _ database: Database) throws -> Bool {
    let (condition, arguments) = Statement.condition(filter)
    let sql = "SELECT count(*) FROM (SELECT 1 FROM payment WHERE \(condition) LIMIT \(limit + 1))"
    return try Int.fetchOne(try database.cachedStatement(sql: sql), arguments: arguments).map { $0 <= limit } ?? true
  }

  static func column(_ order: PaymentQuery.Order) -> String {
    switch order {
    case .created: "number"
    case .updated: "updated"
    case .amount: "amount"
    }
  }

  private static func paymentRow(_ row: Row) throws -> PaymentRow {
    guard let id = PaymentID(data: Array(row[1] as Data)), let currency = Currency.named(row[5]),
      let status = status(of: row[3])
    else { throw impossibleRow }
    var trouble: PaymentRow.Trouble?
    if let step = (row[10] as String?).flatMap(PaymentStep.init(rawValue:)), let reason = row[12] as String? {
      trouble = .init(step: step, refund: row[11], reason: reason)
    }
    return PaymentRow(
      id: id, money: Money(minorUnits: row[4], currency: currency), status: status, reference: row[7],
      refunded: Money(minorUnits: row[6], currency: currency),
      refunding: Money(minorUnits: row[13], currency: currency), version: UInt64(clamping: row[2] as Int64),
      offset: UInt64(clamping: row[0] as Int64), createdMicroseconds: UInt64(clamping: row[8] as Int64),
      updatedMicroseconds: UInt64(clamping: row[9] as Int64), trouble: trouble, furtherUnknown: row[14], delays: [])
  }

  // The codes are in files: a status keeps its code, or ``version`` goes up.
  static func code(of status: PaymentStatus) -> Int {
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
    case .outcomeUnknown: 10
    }
  }

  static func code(of part: PaymentRow.RefundedPart) -> Int {
    switch part {
    case .none: 0
    case .part: 1
    case .all: 2
    }
  }

  private static func status(of code: Int) -> PaymentStatus? {
    PaymentStatus.allCases.first { Self.code(of: $0) == code }
  }
}
