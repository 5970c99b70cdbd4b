import Foundation
import GRDB
import LogStore
import Logging
import Synchronization

/// All payments in a table on disk, to be listed, filtered, searched and sorted: a projection of the log with a place of
/// its own. It holds nothing that the log doesn't, and is made anew when it is missing, damaged, of another version or of
/// another log. Its memory does not grow with the number of payments.
///
/// Safe to use from any task.
public final class PaymentProjection: Sendable {
  public struct Page: Sendable {
    public var rows: [PaymentRow]
    /// Give it as `after` for the next page; nil when there is none.
    public var next: PaymentQuery.Key?
    /// The log's offset up to which the page is told.
    public var asOf: UInt64
  }

  public struct Progress: Sendable, Hashable {
    /// The log's offset up to which payments are listed.
    public var place: UInt64
    /// The log's end.
    public var end: UInt64
    /// It has not come to where the log ended at start: it was made anew, or the server stopped before it was written. Or
    /// its indexes are still to be made.
    public var isCatchingUp: Bool
  }

  /// Events of one transaction: while it is made anew, and when payments wait for the processor meanwhile.
  private static let batches = (catchingUp: 4_096, following: 1_024)
  /// The share of the time that is spent on writing, once the end of the log is reached: the rest is for payments. Under
  /// load a payment then has gone all its way by the time that it is written, and is written once.
  private static let writingShare = 0.1
  /// The longest that a list waits because of that.
  private static let delayLimit = Duration.milliseconds(250)
  /// The same share while there is more to read: it must not fall behind, whatever the load.
  private static let hurryingShare = 0.5

  private let log: PaymentLog
  private let logger: Logger
  private let health: Health
  private let pool: DatabasePool
  private let limits: PaymentSearch.Limits
  private let state: Mutex<(place: UInt64, startEnd: UInt64, isIndexed: Bool)>
  private let unknown = Mutex(0)

  /// Opens the file in a directory, which is made if it is missing. Blocks for some reads.
  public static func open(
    _ directory: String, log: PaymentLog, health: Health, logger: Logger
  ) throws(ProjectionError) -> PaymentProjection {
    try open(directory, log: log, health: health, limits: .init(), logger: logger)
  }

  static func open(
    _ directory: String, log: PaymentLog, health: Health, limits: PaymentSearch.Limits, logger: Logger
  ) throws(ProjectionError) -> PaymentProjection {
    let path = directory + "/payments.sqlite"
    do {
      try PrivateFiles.makeDirectory(directory)
      try WALIndex.keepInMemory(of: path)
      // One that is there may be an earlier version's, or of another umask.
      if FileManager.default.fileExists(atPath: path) { try PrivateDatabase.make(path) }
      let identity = log.reader.storeID
      if let (pool, progress) = try existing(path, identity: identity, end: log.reader.endOffset, logger) {
        let isIndexed = try pool.read { try PaymentTable.missingIndex($0) == nil }
        return PaymentProjection(log, pool, progress, isIndexed: isIndexed, health, limits, logger)
      }
      try PrivateDatabase.make(path)
      let pool = try DatabasePool(path: path, configuration: configuration)
      try pool.write { try PaymentTable.create($0) }
      let progress = PaymentTable.Progress(version: PaymentTable.version, log: nil, place: 0)
      return PaymentProjection(log, pool, progress, isIndexed: false, health, limits, logger)
    } catch {
      throw ProjectionError(path: path, reason: "\(error)")
    }
  }

  private init(
    _ log: PaymentLog, _ pool: DatabasePool, _ progress: PaymentTable.Progress, isIndexed: Bool, _ health: Health,
    _ limits: PaymentSearch.Limits, _ logger: Logger
  ) {
    self.log = log
    self.pool = pool
    self.health = health
    self.limits = limits
    self.logger = logger
    state = Mutex((progress.place, log.reader.endOffset, isIndexed))
  }

  private static var configuration: Configuration {
    var configuration = Configuration()
    configuration.maximumReaderCount = 4
    configuration.prepareDatabase { database in
      StatementLimit.prepare(database)
      // Of what a power cut takes away, the log gives it back: the place is in the same transaction.
      try database.execute(sql: "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -4096")
    }
    return configuration
  }

  /// The file's tables, if they can be gone on with; otherwise it is removed.
  private static func existing(
    _ path: String, identity: String, end: UInt64, _ logger: Logger
  ) throws -> (DatabasePool, PaymentTable.Progress)? {
    guard FileManager.default.fileExists(atPath: path) else {
      // What is left of it must not become part of a new one.
      try remove(path)
      return nil
    }
    var reason = "it is not complete"
    do {
      let pool = try DatabasePool(path: path, configuration: configuration)
      if let progress = try pool.read(PaymentTable.progress) {
        // Written by a version before, the log's id has more digits behind these.
        if progress.version == PaymentTable.version, progress.log?.hasPrefix(identity) != false,
          progress.place <= end
        {
          return (pool, progress)
        }
        reason =
          progress.version == PaymentTable.version
          ? "it was made from another log" : "it has version \(progress.version), not \(PaymentTable.version)"
      }
      try pool.close()
    } catch let error as DatabaseError where error.isOfItsContent {
      reason = "it is damaged: \(error)"
    }
    logger.warning("the list of payments is made anew", metadata: ["reason": "\(reason)"])
    try remove(path)
    return nil
  }

  /// How far the log went that the file in a directory was made from; nil where that can't be told. Makes nothing.
  static func place(in directory: String) -> (path: String, place: UInt64)? {
    let path = directory + "/payments.sqlite"
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    do {
      try WALIndex.keepInMemory(of: path)
      let queue = try DatabaseQueue(path: path, configuration: configuration)
      // Nothing was written, so a failed close loses nothing.
      defer { try? queue.close() }
      return try queue.read(PaymentTable.progress).map { (path, $0.log == nil ? 0 : $0.place) }
    } catch {
      // It says nothing then. Whether it can be used is found out, and reported, when it is opened.
      return nil
    }
  }

  private static func remove(_ path: String) throws {
    for suffix in ["", "-wal", "-shm"] where FileManager.default.fileExists(atPath: path + suffix) {
      try FileManager.default.removeItem(atPath: path + suffix)
    }
  }

  public var progress: Progress {
    let end = log.reader.endOffset
    return state.withLock { state in
      Progress(
        place: state.place, end: max(end, state.place), isCatchingUp: state.place < state.startEnd || !state.isIndexed)
    }
  }

  /// A page of payments, with fewer than were asked for if finding more would take longer than a page may: `next` goes on
  /// from there. A place from a page in another order is that of the same payment in this one.
  ///
  /// - Throws: when the table can't be read; it says why. ``UnlistedPayment`` for a place in another order of what is not
  ///   in the list. ``StatementLimit/TookTooLong``.
  public func page(_ query: PaymentQuery) async throws -> Page {
    let deadline = ContinuousClock.now + limits.pageTime
    var search = PaymentSearch(query, isIndexed: state.withLock { $0.isIndexed }, limits: limits)
    var asOf: UInt64?
    repeat {
      // Each portion waits for its turn among all who read.
      let place: UInt64
      (search, place) = try await pool.read { [search, limits] database in
        try StatementLimit.limit(to: limits.statementTime) {
          var search = search
          let place = try PaymentTable.progress(database)?.place ?? 0
          try search.goOn(database)
          return (search, place)
        }
      }
      // What is found later is told up to there at least.
      asOf = asOf ?? place
    } while !search.isDone && ContinuousClock.now < deadline
    let (rows, next) = search.page
    return Page(rows: rows, next: next, asOf: asOf ?? 0)
  }

  /// How many payments were given up, as far as the list has come.
  public func failedCount() async throws -> Int { try await pool.read(PaymentTable.failedCount) }

  /// How many payments have a step whose outcome is unknown, as far as the list has come.
  public func unknownCount() async throws -> Int { try await pool.read(PaymentTable.unknownCount) }

  /// The same, as it was when the list went on last. Reads no file.
  var lastUnknownCount: Int { unknown.withLock { $0 } }

  private func countUnknown() throws {
    let count = try pool.read(PaymentTable.unknownCount)
    unknown.withLock { $0 = count }
  }

  /// What of a step had to wait and need not any more, as far as the list has come: the longest due first.
  public func due(
    _ step: PaymentStep, isUnanswered: Bool, by microseconds: UInt64, orBegunAfter impossible: UInt64, limit: Int
  ) async throws -> [(id: PaymentID, delay: Delay)] {
    try await pool.read {
      try PaymentTable.due(
        step, isUnanswered: isUnanswered, by: microseconds, orBegunAfter: impossible, limit: limit, $0)
    }
  }

  /// How many payments' steps wait for a time, as far as the list has come.
  public func delayCount(_ step: PaymentStep) async throws -> Int {
    try await pool.read { try PaymentTable.delayCount(step, $0) }
  }

  /// Why payments wait for a step, and how many for each reason; of the 10,000 of each kind that are due first.
  func delayReasons(_ step: PaymentStep) async throws -> [String: Int] {
    try await pool.read { try PaymentTable.delayReasons(step, $0) }
  }

  // MARK: - Following the log

  /// Follows the log until its task is cancelled. Reads and writes files on the thread that runs it.
  public func run() async {
    var known = RecentPayments(log: log)
    var isCounted = false
    while !Task.isCancelled {
      let clock = ContinuousClock()
      let start = clock.now
      do {
        if !isCounted {
          try countUnknown()
          isCounted = true
        }
        let wasCatchingUp = progress.isCatchingUp
        let limit = wasCatchingUp ? Self.batches.catchingUp : Self.batches.following
        let count = try advance(&known, limit: limit)
        if try makeIndexes() { continue }
        guard count > 0 else {
          health.report(Self.healthName, fault: nil)
          _ = try await log.reader.waitForEvents(at: state.withLock { $0.place })
          continue
        }
        if !wasCatchingUp {
          let share = count < limit ? Self.writingShare : Self.hurryingShare
          let pause = start.duration(to: clock.now) * (1 / share - 1)
          try? await Task.sleep(for: min(pause, Self.delayLimit))
        }
      } catch {
        if case .closed? = error as? LogStoreError { return }
        if Task.isCancelled { return }
        health.report(Self.healthName, fault: "can't follow the log: \(error)")
        logger.error("the list of payments can't follow the log", metadata: ["error": "\(error)"])
        // What was applied and not written is forgotten with it.
        known = RecentPayments(log: log)
        try? await Task.sleep(for: .seconds(5))
      }
    }
  }

  private static let healthName = "payment-list"

  /// Closes the file. No page can be asked for afterwards.
  public func close() {
    do {
      // What was not written yet is read from the log again.
      try pool.closeWhole()
    } catch {
      logger.warning("the list of payments was not closed as it should be", metadata: ["error": "\(error)"])
    }
  }

  /// - Returns: how many events there were.
  private func advance(_ known: inout RecentPayments, limit: Int) throws -> Int {
    let start = state.withLock { $0.place }
    let (events, place) = try log.follower.events(from: start, limit: limit)
    guard place > start else { return 0 }
    var changed: [PaymentID: PaymentRow] = [:]
    for event in events {
      if let row = try known.take(event) { changed[row.id] = row }
    }
    let identity = log.reader.storeID
    let rows = changed.values.sorted { $0.offset < $1.offset }
    try pool.write { database in
      // Hardly any payment waits for long: nothing is looked for where nothing is.
      var hasDelays = try PaymentTable.hasDelays(database)
      for row in rows {
        try PaymentTable.write(row, database)
        hasDelays = hasDelays || !row.delays.isEmpty
        if hasDelays { try PaymentTable.writeDelays(row, database) }
      }
      try PaymentTable.setProgress(.init(version: PaymentTable.version, log: identity, place: place), database)
    }
    if lastUnknownCount > 0 || rows.contains(where: { $0.status == .outcomeUnknown }) {
      try countUnknown()
    }
    let wasCatchingUp = progress.isCatchingUp
    state.withLock { $0.place = place }
    if wasCatchingUp, !progress.isCatchingUp { logWhole(place) }
    // Where only damage was passed there is more to read, too.
    return max(events.count, 1)
  }

  private func logWhole(_ place: UInt64) {
    logger.notice("the list of payments is whole again", metadata: ["offset": "\(place)"])
  }

  /// Makes the next index that is missing, once the list has come to where the log ended at start: sorting what is there
  /// writes each page once, where keeping six indexes of millions in order wrote a hundred times as much.
  ///
  /// - Returns: whether one was made; there may be more.
  private func makeIndexes() throws -> Bool {
    let isDue = state.withLock { !$0.isIndexed && $0.place >= $0.startEnd }
    guard isDue else { return false }
    let isMade = try pool.write { database in
      guard let index = try PaymentTable.missingIndex(database) else { return false }
      try database.execute(sql: index.sql)
      return true
    }
    if !isMade {
      let place = state.withLock { state in
        state.isIndexed = true
        return state.place
      }
      if place > 0 { logWhole(place) }
    }
    return isMade
  }
}

/// A page is asked for behind a payment that the list does not have.
struct UnlistedPayment: Error {}

/// Why the projection's file can't be used.
public struct ProjectionError: Error, Sendable, CustomStringConvertible {
  public var path: String
  public var reason: String

  public var description: String {
    "can't use \(path): \(reason); it holds nothing that the log doesn't: remove it, and it is made anew"
  }
}

extension DatabaseError {
  /// It is the file's bytes, and not the disk or the system, that are at fault.
  fileprivate var isOfItsContent: Bool {
    [ResultCode.SQLITE_CORRUPT, .SQLITE_NOTADB, .SQLITE_SCHEMA, .SQLITE_ERROR, .SQLITE_MISMATCH].contains(resultCode)
  }
}
