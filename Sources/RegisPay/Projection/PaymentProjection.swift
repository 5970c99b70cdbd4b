import Foundation
import GRDB
import LogStore
import Logging
import Synchronization

/// The list of payments: a table on disk to list, filter, search and sort all payments. It is a projection of the log with a
/// checkpoint of its own. It holds nothing that the log doesn't, and is rebuilt when it is missing, damaged, of another version
/// or of another log. Its memory does not grow with the number of payments.
///
/// Safe to use from any task.
public final class PaymentProjection: Sendable {
  public struct Page: Sendable {
    public var rows: [PaymentRow]
    /// The `after` of the next page; nil when there is none.
    public var next: PaymentQuery.Key?
    /// The page shows the log at least up to this offset.
    public var asOf: UInt64
  }

  public struct Status: Sendable, Hashable {
    /// The next offset that the list reads.
    public var nextOffset: UInt64
    /// The log's end.
    public var logEnd: UInt64
    /// The list has not reached the offset at which the log ended at the server's start: it is being rebuilt, or the server
    /// stopped before it was written. Or its indexes are not complete.
    public var isCatchingUp: Bool
  }

  /// Events of one transaction: while the list catches up, and while it follows and payments compete for the processor.
  private static let batches = (catchingUp: 4_096, following: 1_024)
  /// The share of time for writing once the list has reached the log's end; the rest is for payments. Under load a payment is
  /// then complete by the time it is written, and is written once.
  private static let writingShare = 0.1
  /// The longest pause that results from it.
  private static let delayLimit = Duration.milliseconds(250)
  /// The share while there is more to read: the list must not fall behind, whatever the load.
  private static let hurryingShare = 0.5

  private let log: PaymentLog
  private let logger: Logger
  private let health: Health
  private let pool: DatabasePool
  private let limits: PaymentSearch.Limits
  /// Its checkpoint is the table's.
  private let subscription: Subscription
  /// The log's end at the server's start.
  private let startEnd: UInt64
  private let isIndexed: Mutex<Bool>
  private let unknown = Mutex(0)

  /// Opens the file in a directory; creates the directory if it is missing. Blocks for some reads.
  public static func open(
    _ directory: String, log: PaymentLog, health: Health, logger: Logger
  ) throws(ProjectionError) -> PaymentProjection {
    try open(directory, log: log, health: health, limits: .init(), logger: logger)
  }

  static func open(
    _ directory: String, log: PaymentLog, health: Health, limits: PaymentSearch.Limits, logger: Logger
  ) throws(ProjectionError) -> PaymentProjection {
    let path = directory + "/payments.sqlite"
    var logger = logger
    logger[metadataKey: "consumer"] = "\(name)"
    do throws(PrivateFiles.Failure) {
      try PrivateFiles.makeDirectory(directory)
    } catch {
      let reason = error.code == ENOTDIR ? "it is no directory" : "\(error)"
      throw ProjectionError(path: directory, reason: reason)
    }
    do {
      try WALIndex.keepInMemory(of: path)
      // An existing file may be an earlier version's, or made under another umask.
      if FileManager.default.fileExists(atPath: path) { try PrivateDatabase.make(path) }
      let found = try LockedDatabase.openWhenReleased(isLocked: LockedDatabase.isCause) {
        try existing(path, log.reader, logger)
      }
      if let (pool, checkpoint) = found {
        try pool.openReaders()
        let isIndexed = try pool.read { try PaymentTable.missingIndex($0) == nil }
        return PaymentProjection(log, pool, checkpoint, isIndexed: isIndexed, health, limits, logger)
      }
      try PrivateDatabase.make(path)
      let pool = try DatabasePool(path: path, configuration: configuration)
      try pool.write { try PaymentTable.create($0) }
      try pool.openReaders()
      let checkpoint = PaymentTable.Checkpoint(
        version: PaymentTable.version, storeID: nil, lastEvent: nil, nextOffset: 0)
      return PaymentProjection(log, pool, checkpoint, isIndexed: false, health, limits, logger)
    } catch {
      throw ProjectionError(path: path, error)
    }
  }

  private init(
    _ log: PaymentLog, _ pool: DatabasePool, _ checkpoint: PaymentTable.Checkpoint, isIndexed: Bool, _ health: Health,
    _ limits: PaymentSearch.Limits, _ logger: Logger
  ) {
    self.log = log
    self.pool = pool
    self.health = health
    self.limits = limits
    self.logger = logger
    subscription = log.follower.subscription(from: checkpoint.nextOffset)
    startEnd = log.reader.endOffset
    self.isIndexed = Mutex(isIndexed)
  }

  private static var configuration: Configuration {
    var configuration = Configuration()
    configuration.maximumReaderCount = 4
    configuration.prepareDatabase { database in
      StatementLimit.prepare(database)
      // After a power cut the log restores what is lost: the checkpoint is in the same transaction as the rows.
      try database.execute(sql: "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096")
    }
    return configuration
  }

  /// Opens an existing file if its tables can be used; removes it otherwise.
  private static func existing(
    _ path: String, _ log: LogReader, _ logger: Logger
  ) throws -> (DatabasePool, PaymentTable.Checkpoint)? {
    guard FileManager.default.fileExists(atPath: path) else {
      // Its leftovers must not become part of a new file.
      try remove(path)
      return nil
    }
    var reason = "it is not complete"
    do {
      let pool = try DatabasePool(path: path, configuration: configuration)
      if let checkpoint = try pool.read(PaymentTable.checkpoint) {
        // An earlier version wrote the log's id with more digits.
        let isOfLog =
          checkpoint.storeID?.hasPrefix(log.storeID) != false && checkpoint.nextOffset <= log.endOffset
          && checkpoint.lastEvent?.contradicts(log) != true
        if checkpoint.version == PaymentTable.version, isOfLog { return (pool, checkpoint) }
        reason =
          checkpoint.version == PaymentTable.version
          ? "it was made from another log, or from another history of this one"
          : "it has version \(checkpoint.version), not \(PaymentTable.version)"
      }
      try pool.close()
    } catch let error as DatabaseError where error.isOfItsContent {
      reason = "it is damaged: \(error)"
    }
    logger.warning("the list of payments is rebuilt", metadata: ["reason": "\(reason)"])
    try remove(path)
    return nil
  }

  /// The checkpoint of the file in a directory: its log has had at least this end. Nil when the file can't tell. Creates no file.
  ///
  /// - Throws: when another program has the file locked: it may tell of a log.
  static func checkpoint(in directory: String) throws(ProjectionError) -> (path: String, checkpoint: UInt64)? {
    let path = directory + "/payments.sqlite"
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    do {
      try WALIndex.keepInMemory(of: path)
      return try LockedDatabase.openWhenReleased(isLocked: LockedDatabase.isCause) {
        let queue = try DatabaseQueue(path: path, configuration: configuration)
        // Nothing was written, so a failed close loses nothing.
        defer { try? queue.close() }
        return try queue.read(PaymentTable.eventCount).map { (path, $0) }
      }
    } catch {
      if LockedDatabase.isCause(of: error) { throw ProjectionError(path: path, error) }
      // The file can't tell. Opening it finds out, and reports, whether it can be used.
      return nil
    }
  }

  private static func remove(_ path: String) throws {
    for suffix in ["", "-wal", "-shm"] where FileManager.default.fileExists(atPath: path + suffix) {
      try FileManager.default.removeItem(atPath: path + suffix)
    }
  }

  public var status: Status {
    let nextOffset = subscription.checkpoint
    return Status(
      nextOffset: nextOffset, logEnd: max(log.reader.endOffset, nextOffset),
      isCatchingUp: nextOffset < startEnd || !isIndexed.withLock { $0 })
  }

  /// A page of payments. It ends early when finding more would take too long; `next` continues there. A key from a page in
  /// another order stands for the same payment in this order.
  ///
  /// - Throws: an error that says why the table can't be read; ``UnlistedPayment`` for a key from another order whose payment is
  ///   not in the list; ``StatementLimit/TookTooLong``.
  public func page(_ query: PaymentQuery) async throws -> Page {
    let deadline = ContinuousClock.now + limits.pageTime
    var search = PaymentSearch(query, isIndexed: isIndexed.withLock { $0 }, limits: limits)
    var asOf: UInt64?
    repeat {
      // Each portion waits for its turn among all readers.
      let nextOffset: UInt64
      (search, nextOffset) = try await pool.read { [search, limits] database in
        try StatementLimit.limit(to: limits.statementTime) {
          var search = search
          let nextOffset = try PaymentTable.checkpoint(database)?.nextOffset ?? 0
          try search.readPortion(database)
          return (search, nextOffset)
        }
      }
      // Later portions show the log at least up to the first one's offset.
      asOf = asOf ?? nextOffset
    } while !search.isDone && ContinuousClock.now < deadline
    let (rows, next) = search.page
    return Page(rows: rows, next: next, asOf: asOf ?? 0)
  }

  /// The number of payments that pass a query's filters, after its key.
  ///
  /// - Returns: with `isWhole` false if counting further would take too long: there are at least so many.
  /// - Throws: as ``page(_:)``.
  func count(_ query: PaymentQuery) async throws -> (count: Int, isWhole: Bool, asOf: UInt64) {
    let deadline = ContinuousClock.now + limits.countTime
    var query = query
    (query.order, query.isDescending) = (.created, false)
    var search = PaymentSearch(query, isIndexed: isIndexed.withLock { $0 }, limits: limits)
    var (count, asOf) = (0, UInt64?.none)
    repeat {
      let (portion, nextOffset): (Int, UInt64)
      (search, portion, nextOffset) = try await pool.read { [search, limits] database in
        try StatementLimit.limit(to: limits.statementTime) {
          var search = search
          let nextOffset = try PaymentTable.checkpoint(database)?.nextOffset ?? 0
          let count = try search.countPortion(database)
          return (search, count, nextOffset)
        }
      }
      count += portion
      asOf = asOf ?? nextOffset
    } while !search.isDone && ContinuousClock.now < deadline
    return (count, search.isDone, asOf ?? 0)
  }

  /// The payments with a status that have a step in trouble, by step and reason, most first.
  ///
  /// - Throws: SQLite's errors; ``StatementLimit/TookTooLong``.
  func troubles(_ status: PaymentStatus, limit: Int) async throws -> [PaymentTable.Trouble] {
    // Without the index it would go through all payments.
    guard isIndexed.withLock({ $0 }) else { throw StatementLimit.TookTooLong() }
    return try await pool.read { [limits] database in
      try StatementLimit.limit(to: limits.statementTime) { try PaymentTable.troubles(status, limit: limit, database) }
    }
  }

  /// The number of parked payments in the list, which lags behind the log.
  public func parkedCount() async throws -> Int { try await pool.read(PaymentTable.parkedCount) }

  /// The number of payments in the list with a step whose outcome is unknown.
  public func unknownCount() async throws -> Int { try await pool.read(PaymentTable.unknownCount) }

  /// The same as of the list's last update. Reads no file.
  var lastUnknownCount: Int { unknown.withLock { $0 } }

  private func countUnknown() throws {
    let count = try pool.read(PaymentTable.unknownCount)
    unknown.withLock { $0 = count }
  }

  /// The work of a step whose wait on the log is over, the longest due first. The list lags behind the log.
  public func due(
    _ step: PaymentStep, didTimeOut: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)] {
    try await pool.read {
      try PaymentTable.due(
        step, didTimeOut: didTimeOut, by: microseconds, orBegunAfter: impossible, limit: limit, $0)
    }
  }

  /// The number of waits of a step in the list.
  public func delayCount(_ step: PaymentStep) async throws -> Int {
    try await pool.read { try PaymentTable.delayCount(step, $0) }
  }

  /// The reasons of waits of a step, with the number of payments for each; from the 10,000 of each kind that are due first.
  func delayReasons(_ step: PaymentStep) async throws -> [String: Int] {
    try await pool.read { try PaymentTable.delayReasons(step, $0) }
  }

  // MARK: - Following the log

  /// Follows the log until its task is cancelled. Reads and writes files on the thread that runs it.
  public func run() async {
    var known = RecentPayments(log: log)
    var isCounted = false
    _ = await log.follower.repeatUntilCancelled {
      let clock = ContinuousClock()
      let start = clock.now
      if !isCounted {
        try countUnknown()
        isCounted = true
      }
      let wasCatchingUp = status.isCatchingUp
      let limit = wasCatchingUp ? Self.batches.catchingUp : Self.batches.following
      let count = try advance(&known, limit: limit)
      if try makeIndexes() { return }
      guard count > 0 else {
        health.report(Self.name, fault: nil)
        _ = try await subscription.waitForMore()
        return
      }
      if !wasCatchingUp {
        let share = count < limit ? Self.writingShare : Self.hurryingShare
        let pause = start.duration(to: clock.now) * (1 / share - 1)
        // Ends early only when the task is cancelled.
        try? await Task.sleep(for: min(pause, Self.delayLimit))
      }
    } failed: { error in
      health.report(Self.name, fault: "can't follow the log: \(error)")
      logger.error("the list of payments can't follow the log", metadata: ["error": "\(error)"])
      // Forgets what was applied and not written, and reads it again.
      known = RecentPayments(log: log)
      subscription.rewind(to: subscription.checkpoint)
    }
  }

  /// In `/health`, metrics and log lines.
  static let name = "payment-list"

  /// Closes the file. No page can be asked for afterwards.
  public func close() async {
    do {
      // Rows that were not written are read from the log again.
      try await pool.closeWhole()
    } catch {
      logger.warning("the list of payments was not closed as it should be", metadata: ["error": "\(error)"])
    }
  }

  /// - Returns: how many events there were.
  private func advance(_ known: inout RecentPayments, limit: Int) throws -> Int {
    let (events, offsets) = try log.follower.events(of: subscription, limit: limit)
    guard !offsets.isEmpty else { return 0 }
    let nextOffset = offsets.upperBound
    var changed: [PaymentID: PaymentRow] = [:]
    for event in events {
      if let row = try known.take(event) { changed[row.id] = row }
    }
    let identity = log.reader.storeID
    let rows = changed.values.sorted { $0.offset < $1.offset }
    try pool.write { database in
      // Hardly any payment waits for long, so usually there are no waits to delete.
      var hasDelays = try PaymentTable.hasDelays(database)
      for row in rows {
        try PaymentTable.write(row, database)
        hasDelays = hasDelays || !row.delays.isEmpty
        if hasDelays { try PaymentTable.writeDelays(row, database) }
      }
      let lastEvent = try events.last.map(EventMark.init) ?? PaymentTable.checkpoint(database)?.lastEvent
      try PaymentTable.setCheckpoint(
        .init(version: PaymentTable.version, storeID: identity, lastEvent: lastEvent, nextOffset: nextOffset), database)
    }
    if lastUnknownCount > 0 || rows.contains(where: { $0.status == .outcomeUnknown }) {
      try countUnknown()
    }
    let wasCatchingUp = status.isCatchingUp
    subscription.noteCommitted(nextOffset)
    if wasCatchingUp, !status.isCatchingUp { logComplete(nextOffset) }
    // At least 1: after a range of damage alone there may be more to read.
    return max(events.count, 1)
  }

  private func logComplete(_ nextOffset: UInt64) {
    logger.notice("the list of payments is complete again", metadata: ["offset": "\(nextOffset)"])
  }

  /// Creates the next missing index, once the list has reached the offset at which the log ended at the start. Sorting the
  /// complete table writes each page once; keeping six indexes of millions in order wrote a hundred times as much.
  ///
  /// - Returns: whether an index was created; there may be more.
  private func makeIndexes() throws -> Bool {
    guard !isIndexed.withLock({ $0 }), subscription.checkpoint >= startEnd else { return false }
    let isMade = try pool.write { database in
      guard let index = try PaymentTable.missingIndex(database) else { return false }
      try database.execute(sql: index.sql)
      return true
    }
    if !isMade {
      isIndexed.withLock { $0 = true }
      if subscription.checkpoint > 0 { logComplete(subscription.checkpoint) }
    }
    return isMade
  }
}

/// The requested page begins after a payment that is not in the list.
struct UnlistedPayment: Error {}

/// Why the projection's file can't be used.
public struct ProjectionError: Error, Sendable, CustomStringConvertible {
  public var path: String
  public var reason: String
  /// Another program has the file locked.
  var isLocked = false

  public var description: String {
    isLocked
      ? "can't use \(path): \(reason); \(LockedDatabase.advice)"
      : "can't use \(path): \(reason); it holds nothing that the log doesn't: remove it, and the server rebuilds it"
  }
}

extension ProjectionError {
  /// Of an attempt to use the file.
  fileprivate init(path: String, _ error: any Error) {
    let isLocked = LockedDatabase.isCause(of: error)
    self.init(path: path, reason: isLocked ? LockedDatabase.reason : "\(error)", isLocked: isLocked)
  }
}

extension DatabaseError {
  /// Whether the file's bytes are at fault, not the disk or the system.
  fileprivate var isOfItsContent: Bool {
    [ResultCode.SQLITE_CORRUPT, .SQLITE_NOTADB, .SQLITE_SCHEMA, .SQLITE_ERROR, .SQLITE_MISMATCH].contains(resultCode)
  }
}
