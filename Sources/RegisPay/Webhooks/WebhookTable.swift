import Foundation
import GRDB

/// The tables of the webhooks' file and the SQL that reads and changes them. The columns `place` hold checkpoints (`endpoint`) and
/// offsets of events (`waiting`, `delivery`).
enum WebhookTable {
  /// Stored in the file. A file of another version is refused, because it can't be rebuilt.
  static let version = 1

  static func create(_ database: Database) throws {
    try database.execute(
      sql: """
        CREATE TABLE endpoint (
          number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, url TEXT NOT NULL, description TEXT NOT NULL, events TEXT,
          secret BLOB NOT NULL, previous_secret BLOB, previous_until INTEGER, disabled_reason TEXT,
          disabled_since INTEGER, created INTEGER NOT NULL, updated INTEGER NOT NULL, place INTEGER NOT NULL,
          failures INTEGER NOT NULL, failing_since INTEGER, last_success INTEGER, held_until INTEGER NOT NULL
        );
        CREATE TABLE waiting (
          endpoint TEXT NOT NULL, place INTEGER NOT NULL, attempts INTEGER NOT NULL, first_try INTEGER NOT NULL,
          due INTEGER NOT NULL, PRIMARY KEY (endpoint, place)
        ) WITHOUT ROWID;
        CREATE TABLE delivery (
          number INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, event TEXT NOT NULL, type TEXT NOT NULL,
          place INTEGER, attempt INTEGER NOT NULL, start INTEGER NOT NULL, duration INTEGER NOT NULL, status INTEGER,
          error TEXT, outcome TEXT NOT NULL, next_try INTEGER, response TEXT
        );
        CREATE INDEX delivery_endpoint ON delivery (endpoint, number);
        PRAGMA user_version = \(version);
        """)
    try createEventIndex(database)
  }

  /// Adds what an earlier program of this version did not make. That program can use the file still.
  static func complete(_ database: Database) throws {
    try createEventIndex(database)
    if try !database.columns(in: "delivery").contains(where: { $0.name == "response" }) {
      try database.execute(sql: "ALTER TABLE delivery ADD COLUMN response TEXT")
    }
  }

  /// For the deliveries about one payment.
  private static func createEventIndex(_ database: Database) throws {
    try database.execute(sql: "CREATE INDEX IF NOT EXISTS delivery_event ON delivery (event, number)")
  }

  static func apply(_ change: WebhookChange, to database: Database) throws {
    switch change {
    case .add(let endpoint, let progress): try add(endpoint, progress, to: database)
    case .configure(let endpoint): try configure(endpoint, in: database)
    case .disable(let id, let disabled, let updated):
      try database.execute(
        sql: "UPDATE endpoint SET disabled_reason = ?, disabled_since = ?, updated = max(updated, ?) WHERE id = ?",
        arguments: [
          disabled?.reason, disabled.map { Int64(clamping: $0.sinceMicroseconds) }, Int64(clamping: updated), id,
        ])
    case .progress(let id, let progress): try set(progress, of: id, in: database)
    case .wait(let id, let event):
      try database.cachedStatement(sql: "INSERT OR REPLACE INTO waiting VALUES (?, ?, ?, ?, ?)").execute(arguments: [
        id, Int64(clamping: event.offset), event.attempts, Int64(clamping: event.firstTryMicroseconds),
        Int64(clamping: event.dueMicroseconds),
      ])
    case .done(let id, let offset):
      try database.cachedStatement(sql: "DELETE FROM waiting WHERE endpoint = ? AND place = ?")
        .execute(arguments: [id, Int64(clamping: offset)])
    case .delivery(let id, let delivery): try add(delivery, of: id, to: database)
    case .trimDeliveries(let id, let limit):
      try database.execute(
        sql: """
          DELETE FROM delivery WHERE endpoint = ? AND number <= (
            SELECT number FROM delivery WHERE endpoint = ? ORDER BY number DESC LIMIT 1 OFFSET ?)
          """, arguments: [id, id, limit])
    case .remove(let id):
      for (table, column) in [("endpoint", "id"), ("waiting", "endpoint"), ("delivery", "endpoint")] {
        try database.execute(sql: "DELETE FROM \(table) WHERE \(column) = ?", arguments: [id])
      }
    }
  }

  private static func add(_ endpoint: WebhookEndpoint, _ progress: WebhookProgress, to database: Database) throws {
    try database.execute(
      sql: """
        INSERT INTO endpoint (id, url, description, secret, created, updated, place, failures, held_until)
        VALUES (?, '', '', x'', ?, 0, 0, 0, 0)
        """, arguments: [endpoint.id, Int64(clamping: endpoint.createdMicroseconds)])
    try configure(endpoint, in: database)
    try set(progress, of: endpoint.id, in: database)
  }

  private static func configure(_ endpoint: WebhookEndpoint, in database: Database) throws {
    try database.execute(
      sql: """
        UPDATE endpoint SET url = ?, description = ?, events = ?, secret = ?, previous_secret = ?, previous_until = ?,
          disabled_reason = ?, disabled_since = ?, updated = ? WHERE id = ?
        """,
      arguments: [
        endpoint.url.text, endpoint.description, endpoint.events?.map(\.rawValue).sorted().joined(separator: ","),
        Data(endpoint.secret.bytes), endpoint.previousSecret.map { Data($0.secret.bytes) },
        endpoint.previousSecret.map { Int64(clamping: $0.untilMicroseconds) }, endpoint.disabled?.reason,
        endpoint.disabled.map { Int64(clamping: $0.sinceMicroseconds) }, Int64(clamping: endpoint.updatedMicroseconds),
        endpoint.id,
      ])
  }

  private static func set(_ progress: WebhookProgress, of id: String, in database: Database) throws {
    try database.cachedStatement(
      sql: """
        UPDATE endpoint SET place = ?, failures = ?, failing_since = ?, last_success = ?, held_until = ? WHERE id = ?
        """
    ).execute(arguments: [
      Int64(clamping: progress.checkpoint), progress.failuresInRow,
      progress.failingSinceMicroseconds.map { Int64(clamping: $0) },
      progress.lastSuccessMicroseconds.map { Int64(clamping: $0) }, Int64(clamping: progress.heldUntilMicroseconds), id,
    ])
  }

  private static func add(_ delivery: WebhookDelivery, of id: String, to database: Database) throws {
    try database.cachedStatement(
      sql: """
        INSERT INTO delivery (endpoint, event, type, place, attempt, start, duration, status, error, outcome, next_try,
          response)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """
    ).execute(arguments: [
      id, delivery.event, delivery.type, delivery.offset.map { Int64(clamping: $0) }, delivery.attempt,
      Int64(clamping: delivery.startMicroseconds), Int64(clamping: delivery.durationMicroseconds), delivery.status,
      delivery.error, delivery.outcome.rawValue, delivery.nextTryMicroseconds.map { Int64(clamping: $0) },
      delivery.response,
    ])
  }
}

// MARK: - Reading

extension WebhookTable {
  /// An endpoint as stored in the file.
  struct StoredEndpoint: Sendable {
    var endpoint: WebhookEndpoint
    var progress: WebhookProgress
    var waiting: [WaitingEvent]
  }

  static func endpoints(_ database: Database) throws -> [StoredEndpoint] {
    try Row.fetchAll(
      database,
      sql: """
        SELECT id, url, description, events, secret, previous_secret, previous_until, disabled_reason, disabled_since,
          created, updated, place, failures, failing_since, last_success, held_until FROM endpoint ORDER BY number
        """
    ).map { row in
      let endpoint = try endpoint(row)
      let progress = WebhookProgress(
        checkpoint: unsigned(row[11]), failuresInRow: row[12],
        failingSinceMicroseconds: (row[13] as Int64?).map(unsigned),
        lastSuccessMicroseconds: (row[14] as Int64?).map(unsigned), heldUntilMicroseconds: unsigned(row[15]))
      return StoredEndpoint(endpoint: endpoint, progress: progress, waiting: try waiting(of: endpoint.id, database))
    }
  }

  /// The furthest checkpoint of all endpoints.
  static func furthestCheckpoint(_ database: Database) throws -> UInt64 {
    unsigned(try Int64.fetchOne(database, sql: "SELECT max(place) FROM endpoint") ?? 0)
  }

  private static func endpoint(_ row: Row) throws -> WebhookEndpoint {
    guard let url = try? WebhookURL(row[1]), let secret = WebhookSecret(bytes: Array(row[4] as Data)) else {
      throw DatabaseError(resultCode: .SQLITE_CORRUPT, message: "a row of the table endpoint is invalid")
    }
    var previous: WebhookEndpoint.PreviousSecret?
    if let bytes = row[5] as Data?, let until = row[6] as Int64?, let secret = WebhookSecret(bytes: Array(bytes)) {
      previous = .init(secret: secret, untilMicroseconds: unsigned(until))
    }
    var disabled: WebhookEndpoint.Disabled?
    if let reason = row[7] as String?, let since = row[8] as Int64? {
      disabled = .init(reason: reason, sinceMicroseconds: unsigned(since))
    }
    let names = (row[3] as String?)?.split(separator: ",").compactMap { PaymentEvent.TypeName(rawValue: String($0)) }
    return WebhookEndpoint(
      id: row[0], url: url, description: row[2], events: names.map(Set.init), secret: secret, previousSecret: previous,
      disabled: disabled, createdMicroseconds: unsigned(row[9]), updatedMicroseconds: unsigned(row[10]))
  }

  private static func waiting(of id: String, _ database: Database) throws -> [WaitingEvent] {
    try Row.fetchAll(
      database, sql: "SELECT place, attempts, first_try, due FROM waiting WHERE endpoint = ?", arguments: [id]
    ).map { row in
      WaitingEvent(
        offset: unsigned(row[0]), attempts: row[1], firstTryMicroseconds: unsigned(row[2]),
        dueMicroseconds: unsigned(row[3]))
    }
  }

  /// Newest first.
  ///
  /// - Parameter before: the number of the last delivery on the page before.
  static func deliveries(
    of id: String, before: Int64, limit: Int, _ database: Database
  ) throws -> [WebhookDelivery] {
    try Row.fetchAll(
      database,
      sql: """
        SELECT \(columns) FROM delivery
        WHERE endpoint = ? AND number < ? ORDER BY number DESC LIMIT ?
        """, arguments: [id, before, limit]
    ).map(delivery)
  }

  static func delivery(_ number: Int64, of id: String, _ database: Database) throws -> WebhookDelivery? {
    try Row.fetchOne(
      database, sql: "SELECT \(columns) FROM delivery WHERE endpoint = ? AND number = ?", arguments: [id, number]
    ).map(delivery)
  }

  private static let columns =
    "number, event, type, place, attempt, start, duration, status, error, outcome, next_try, response"

  /// Of messages whose ids begin with a text, over all endpoints, newest first.
  static func deliveries(
    beginning prefix: String, limit: Int, _ database: Database
  ) throws -> [(endpoint: String, delivery: WebhookDelivery)] {
    try Row.fetchAll(
      database,
      sql: """
        SELECT \(columns), endpoint FROM delivery
        WHERE event >= ? AND event < ? ORDER BY number DESC LIMIT ?
        """, arguments: [prefix, prefix + "\u{10FFFF}", limit]
    ).map { (endpoint: $0[12], delivery: try delivery($0)) }
  }

  private static func delivery(_ row: Row) throws -> WebhookDelivery {
    guard let outcome = WebhookDelivery.Outcome(rawValue: row[9]) else {
      throw DatabaseError(resultCode: .SQLITE_CORRUPT, message: "a row of the table delivery is invalid")
    }
    return WebhookDelivery(
      number: row[0], event: row[1], type: row[2], offset: (row[3] as Int64?).map(unsigned), attempt: row[4],
      startMicroseconds: unsigned(row[5]), durationMicroseconds: unsigned(row[6]), status: row[7], error: row[8],
      outcome: outcome, nextTryMicroseconds: (row[10] as Int64?).map(unsigned), response: row[11])
  }

  private static func unsigned(_ value: Int64) -> UInt64 { UInt64(clamping: value) }
}
