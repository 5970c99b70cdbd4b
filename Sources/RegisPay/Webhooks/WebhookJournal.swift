import Foundation
import GRDB
import Synchronization

/// A change of what is kept about endpoints.
enum WebhookChange: Sendable {
  case add(WebhookEndpoint, WebhookProgress)
  /// All that a person decides. Whether it is disabled is among it.
  case configure(WebhookEndpoint)
  /// Whether it is disabled, and nothing else: what a person decides meanwhile stays as it is.
  case disable(id: String, WebhookEndpoint.Disabled?, updatedMicroseconds: UInt64)
  case progress(id: String, WebhookProgress)
  case wait(id: String, WaitingEvent)
  case done(id: String, offset: UInt64)
  case delivery(id: String, WebhookDelivery)
  case trimDeliveries(id: String, kept: Int)
  case remove(id: String)
}

/// What is kept about endpoints: an SQLite file of its own, since secrets have no place in the log, and neither them nor
/// what waits to be tried again can be derived from it. Cursors are kept here and not in the log, so that one transaction
/// moves a cursor and keeps what it leaves behind.
///
/// Changes are written in the order in which they are given, those that come while others are written in one transaction,
/// synced before anybody is told. Safe to use from any task.
final class WebhookJournal: Sendable {
  typealias Done = @Sendable (WebhookStoreError?) -> Void

  private struct State {
    var entries: [(changes: [WebhookChange], done: Done)] = []
    var isWriting = false
    var isTryingAgain = false
    var isClosed = false
  }

  private let path: String
  private let pool: DatabasePool
  private let names: DatabaseNames
  private let health: Health
  private let state = Mutex(State())
  /// Called before each transaction, with its changes; what it throws fails it.
  private let willWrite: WillWrite

  typealias WillWrite = @Sendable ([WebhookChange]) async throws -> Void

  private static let healthName = "webhooks"

  static func path(in directory: String) -> String { directory + "/webhooks.sqlite" }

  /// How far on the log the file in a directory has come; nil where that can't be told. Makes nothing.
  static func checkpoint(in directory: String) -> (path: String, checkpoint: UInt64)? {
    let path = path(in: directory)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    do {
      let queue = try DatabaseQueue(path: path)
      // Nothing was written, so a failed close loses nothing.
      defer { try? queue.close() }
      return (path, try queue.read(WebhookTable.place))
    } catch {
      // It says nothing then. Whether it can be used is found out, and reported, when it is opened.
      return nil
    }
  }

  /// Opens the file in a directory, which is made if it is missing. Nobody but this process's user may read it.
  ///
  /// - Parameter willWrite: for tests, which let writes take long or fail.
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
        // A secret that is deleted is overwritten.
        try database.execute(sql: "PRAGMA secure_delete = ON; PRAGMA cache_size = -2048")
      }
      let pool = try DatabasePool(path: path, configuration: configuration)
      // A commit is on disk when it returns. Only now: a pool sets NORMAL when it opens, which syncs nothing at a commit.
      try pool.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
      try pool.write { database in
        let version = try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
        if version == 0, try !database.tableExists("endpoint") { return try WebhookTable.create(database) }
        guard version == WebhookTable.version else {
          throw WebhookStoreError(
            path: path, reason: "it has version \(version), and this program knows \(WebhookTable.version)")
        }
      }
      return WebhookJournal(path, pool, health, willWrite)
    } catch let error as WebhookStoreError {
      throw error
    } catch {
      throw WebhookStoreError(path: path, reason: "\(error)")
    }
  }

  private init(_ path: String, _ pool: DatabasePool, _ health: Health, _ willWrite: @escaping WillWrite) {
    self.willWrite = willWrite
    self.path = path
    self.pool = pool
    self.health = health
    names = DatabaseNames(path)
    health.watch { [names] in names.problem() }
  }

  /// Blocks for some reads.
  func endpoints() throws(WebhookStoreError) -> [WebhookTable.Kept] {
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

  /// Has changes written, all or none. The order of calls is the order of writing.
  ///
  /// - Parameter done: called when they are on disk, or with the reason why nothing was changed.
  func enqueue(_ changes: [WebhookChange], done: @escaping Done) {
    let isFirst = state.withLock { state in
      state.entries.append((changes, done))
      defer { state.isWriting = true }
      return !state.isWriting
    }
    if isFirst { Task { await write() } }
  }

  /// As ``enqueue(_:done:)``, and returns when they are on disk.
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
          // With no change it is to find out whether the file can be written, so something has to be.
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
        // Only the code: a message of SQLite's could show a statement with its values.
        let reason = (error as? DatabaseError).map { "\($0.resultCode)" } ?? "\(type(of: error))"
        failure = WebhookStoreError(path: path, reason: reason)
      }
      health.report(Self.healthName, fault: failure?.description)
      if failure != nil { tryAgain() }
      for entry in entries { entry.done(failure) }
    }
  }

  /// From one try to the next, while the file can't be written.
  private static let tryInterval = Duration.seconds(2)

  /// Finds out when the file can be written again, though nobody has anything to write: `/health` says so then.
  private func tryAgain() {
    let isFirst = state.withLock { state in
      defer { state.isTryingAgain = true }
      return !state.isTryingAgain && !state.isClosed
    }
    guard isFirst else { return }
    Task { [weak self] in
      try? await Task.sleep(for: Self.tryInterval)
      guard let self,
        state.withLock({ state in
          state.isTryingAgain = false
          return !state.isClosed
        })
      else { return }
      // Its result is reported as that of any other write, and if it fails again there is another try.
      enqueue([]) { _ in }
    }
  }

  private func checkNames() throws(WebhookStoreError) {
    if let problem = names.problem() { throw WebhookStoreError(path: path, reason: problem) }
  }

  /// Closes the file, once all is written.
  ///
  /// - Returns: what went wrong. What is in the file and its log is whole in any case.
  @discardableResult
  func close() async -> (any Error)? {
    state.withLock { $0.isClosed = true }
    do {
      try await write([])
      try pool.closeWhole()
      return nil
    } catch {
      return error
    }
  }
}

/// Why what is kept about webhooks can't be used.
public struct WebhookStoreError: Error, Sendable, CustomStringConvertible {
  enum Kind: Sendable {
    /// The log says that endpoints were registered, and there are none.
    case gone
    case unusable
  }

  public var path: String
  public var reason: String
  var kind = Kind.unusable

  public var description: String {
    if kind == .gone {
      return "can't use \(path): \(reason); put it back from a backup, or start once with --new-webhooks and register"
        + " the webhooks again: their endpoints and secrets are lost then"
    }
    return "can't use \(path): \(reason); it holds the webhooks' endpoints and secrets, which can't be made again:"
      + " keep it, look after the disk (free space, rights, the kernel's log), and if the file itself is damaged put a backup in its place"
  }
}
