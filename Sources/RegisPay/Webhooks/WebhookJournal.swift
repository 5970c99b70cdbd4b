import Foundation
import GRDB
import Synchronization

/// A change of the stored endpoints.
enum WebhookChange: Sendable {
  case add(WebhookEndpoint, WebhookProgress)
  /// Everything that a person configures, including whether the endpoint is disabled.
  case configure(WebhookEndpoint)
  /// Only whether the endpoint is disabled, so that it does not overwrite a concurrent command.
  case disable(id: String, WebhookEndpoint.Disabled?, updatedMicroseconds: UInt64)
  case progress(id: String, WebhookProgress)
  case wait(id: String, WaitingEvent)
  case done(id: String, offset: UInt64)
  case delivery(id: String, WebhookDelivery)
  case trimDeliveries(id: String, limit: Int)
  case remove(id: String)
}

/// Stores the endpoints in an SQLite file: secrets do not belong on the log, and neither they nor the waiting messages can be
/// derived from it. Checkpoints are stored here and not on the log, so that one transaction moves a checkpoint and stores the
/// messages that it leaves behind.
///
/// Changes are written in the order of the calls. Changes that arrive during a write share the next transaction. A change is
/// synced before its caller is notified. Safe to use from any task.
final class WebhookJournal: Sendable {
  typealias Done = @Sendable (WebhookStoreError?) -> Void

  private struct State {
    var entries: [(changes: [WebhookChange], done: Done)] = []
    var isWriting = false
    var isRetryScheduled = false
    var isClosed = false
  }

  private let path: String
  private let pool: DatabasePool
  private let names: DatabaseNames
  private let health: Health
  private let state = Mutex(State())
  /// Called before each transaction, with its changes; an error fails the transaction.
  private let willWrite: WillWrite

  typealias WillWrite = @Sendable ([WebhookChange]) async throws -> Void

  private static let healthName = "webhooks"

  static func path(in directory: String) -> String { directory + "/webhooks.sqlite" }

  /// The furthest checkpoint in a directory's file; nil if there is no file or it can't be read. Creates nothing.
  ///
  /// - Throws: when another program has the file locked: it may tell of a log.
  static func checkpoint(in directory: String) throws(WebhookStoreError) -> (path: String, checkpoint: UInt64)? {
    let path = path(in: directory)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    do {
      return try LockedDatabase.openWhenReleased(isLocked: LockedDatabase.isCause) {
        let queue = try DatabaseQueue(path: path)
        // Nothing was written, so a failed close loses nothing.
        defer { try? queue.close() }
        return (path, try queue.read(WebhookTable.furthestCheckpoint))
      }
    } catch {
      if LockedDatabase.isCause(of: error) { throw WebhookStoreError(path: path, error) }
      // `open` reports a file that can't be used.
      return nil
    }
  }

  /// Opens the file in a directory, and creates both if they are missing. Only this process's user can read the file.
  ///
  /// - Parameter willWrite: tests use it to delay or fail writes.
  static func open(
    _ directory: String, health: Health, willWrite: @escaping WillWrite = { _ in }
  ) throws(WebhookStoreError) -> WebhookJournal {
    let path = path(in: directory)
    do {
      try PrivateFiles.makeDirectory(directory)
      try PrivateDatabase.make(path)
      var configuration = Configuration()
      configuration.maximumReaderCount = 2
      configuration.prepareDatabase { database in
        // Overwrites a deleted secret.
        try database.execute(sql: "PRAGMA secure_delete = ON; PRAGMA cache_size = -2048")
      }
      let pool = try LockedDatabase.openWhenReleased(isLocked: LockedDatabase.isCause) {
        let pool = try Self.pool(path, configuration)
        try pool.openReaders()
        return pool
      }
      return WebhookJournal(path, pool, health, willWrite)
    } catch let error as WebhookStoreError {
      throw error
    } catch {
      throw WebhookStoreError(path: path, error)
    }
  }

  private static func pool(_ path: String, _ configuration: Configuration) throws -> DatabasePool {
    let pool = try DatabasePool(path: path, configuration: configuration)
    // A commit is on disk when it returns. Set after opening, because a pool sets NORMAL when it opens, which does not sync a
    // commit.
    try pool.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
    try pool.write { database in
      let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
      if version == 0, try !database.tableExists("endpoint") { return try WebhookTable.create(database) }
      guard version == WebhookTable.version else {
        throw WebhookStoreError(
          path: path, reason: "it has version \(version), and this program supports \(WebhookTable.version)")
      }
      try WebhookTable.complete(database)
    }
    return pool
  }

  private init(_ path: String, _ pool: DatabasePool, _ health: Health, _ willWrite: @escaping WillWrite) {
    self.willWrite = willWrite
    self.path = path
    self.pool = pool
    self.health = health
    names = DatabaseNames(path)
  }

  /// Blocks for some reads.
  func endpoints() throws(WebhookStoreError) -> [WebhookTable.StoredEndpoint] {
    do {
      return try pool.read(WebhookTable.endpoints)
    } catch {
      throw WebhookStoreError(path: path, reason: "\(error)")
    }
  }

  func deliveries(of id: String, before: Int64, limit: Int) async throws(WebhookStoreError) -> [WebhookDelivery] {
    do {
      return try await pool.read { try WebhookTable.deliveries(of: id, before: before, limit: limit, $0) }
    } catch {
      throw WebhookStoreError(path: path, reason: "\(error)")
    }
  }

  func delivery(_ number: Int64, of id: String) async throws(WebhookStoreError) -> WebhookDelivery? {
    do {
      return try await pool.read { try WebhookTable.delivery(number, of: id, $0) }
    } catch {
      throw WebhookStoreError(path: path, reason: "\(error)")
    }
  }

  /// The deliveries of messages whose ids begin with a text, over all endpoints, newest first.
  func deliveries(
    beginning prefix: String, limit: Int
  ) async throws(WebhookStoreError) -> [(endpoint: String, delivery: WebhookDelivery)] {
    do {
      return try await pool.read { try WebhookTable.deliveries(beginning: prefix, limit: limit, $0) }
    } catch {
      throw WebhookStoreError(path: path, reason: "\(error)")
    }
  }

  /// Writes changes, all or none. The order of calls is the order of writing.
  ///
  /// - Parameter done: called when the changes are on disk, or with the reason why nothing was changed.
  func enqueue(_ changes: [WebhookChange], done: @escaping Done) {
    let isFirst = state.withLock { state in
      state.entries.append((changes, done))
      defer { state.isWriting = true }
      return !state.isWriting
    }
    if isFirst { Task { await write() } }
  }

  /// Like ``enqueue(_:done:)``, but returns when the changes are on disk.
  func write(_ changes: [WebhookChange]) async throws(WebhookStoreError) {
    let error = await withCheckedContinuation { continuation in
      enqueue(changes) { continuation.resume(returning: $0) }
    }
    if let error { throw error }
  }

  private func write() async {
    while true {
      let entries = state.withLock { state in
        defer { state.entries = [] }
        if state.entries.isEmpty { state.isWriting = false }
        return state.entries
      }
      guard !entries.isEmpty else { return }
      var failure: WebhookStoreError?
      do {
        try checkNames()
        try await willWrite(entries.flatMap(\.changes))
        try await pool.write { database in
          // A write without changes finds out whether the file can be written, so it must write something.
          if entries.allSatisfy(\.changes.isEmpty) {
            try database.execute(sql: "PRAGMA user_version = \(WebhookTable.version)")
          }
          for entry in entries {
            for change in entry.changes { try WebhookTable.apply(change, to: database) }
          }
        }
        // What was written into a file without a name is gone with the process.
        try checkNames()
      } catch let error as WebhookStoreError {
        failure = error
      } catch {
        // Only the code: SQLite's message could contain a statement with its values.
        let reason = (error as? DatabaseError).map { "\($0.resultCode)" } ?? "\(type(of: error))"
        failure = WebhookStoreError(path: path, reason: reason)
      }
      health.report(Self.healthName, fault: failure?.description)
      if failure != nil { scheduleRetry() }
      for entry in entries { entry.done(failure) }
    }
  }

  /// Between two tries while the file can't be written.
  private static let retryInterval = Duration.seconds(2)

  /// Finds out when the file can be written again even if there is nothing to write, so that `/health` recovers.
  private func scheduleRetry() {
    let isFirst = state.withLock { state in
      defer { state.isRetryScheduled = true }
      return !state.isRetryScheduled && !state.isClosed
    }
    guard isFirst else { return }
    Task { [weak self] in
      // This task is never cancelled; a cancellation would only make the retry early.
      try? await Task.sleep(for: Self.retryInterval)
      guard let self,
        state.withLock({ state in
          state.isRetryScheduled = false
          return !state.isClosed
        })
      else { return }
      // `write` reports the result and schedules another retry after a failure.
      enqueue([]) { _ in }
    }
  }

  /// Reports a file that was removed or replaced also while there is nothing to write. Call it about once a second.
  func noteNames() async {
    let problem = await RequestThreads.run(.long) { [names] in names.problem() }
    // The write fails, reports why, and is tried again until the file is back.
    if problem != nil { enqueue([]) { _ in } }
  }

  private func checkNames() throws(WebhookStoreError) {
    if let problem = names.problem() { throw WebhookStoreError(path: path, reason: problem) }
  }

  /// Closes the file after all changes are written.
  ///
  /// - Returns: the error, if any. The file and its write-ahead log are complete in any case.
  @discardableResult
  func close() async -> (any Error)? {
    state.withLock { $0.isClosed = true }
    do {
      try await write([])
      try await pool.closeWhole()
      return nil
    } catch {
      return error
    }
  }
}

/// Why the stored webhooks can't be used.
public struct WebhookStoreError: Error, Sendable, CustomStringConvertible {
  enum Kind: Sendable {
    /// The log says that endpoints are registered, and the file is missing or has none.
    case gone
    /// Another program has the file locked.
    case locked
    case unusable
  }

  public var path: String
  public var reason: String
  var kind = Kind.unusable

  public var description: String {
    if kind == .locked { return "can't use \(path): \(reason); \(LockedDatabase.advice)" }
    if kind == .gone {
      return
        "can't use \(path): \(reason); restore it from a backup, or start once with --new-webhooks, which gives up the"
        + " old endpoints and secrets, and register the webhooks again"
    }
    return
      "can't use \(path): \(reason); it holds the webhooks' endpoints and secrets, which can't be rebuilt: keep it,"
      + " check the disk (free space, permissions, the kernel's log), and if the file is damaged replace it by a backup"
  }
}

extension WebhookStoreError {
  /// Of an attempt to use the file.
  fileprivate init(path: String, _ error: any Error) {
    self =
      LockedDatabase.isCause(of: error)
      ? .init(path: path, reason: LockedDatabase.reason, kind: .locked) : .init(path: path, reason: "\(error)")
  }
}
