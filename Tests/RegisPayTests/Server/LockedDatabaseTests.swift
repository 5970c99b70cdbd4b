import Foundation
import GRDB
import Testing

@testable import RegisPay

@Suite("A database that another program has locked at the start")
struct LockedDatabaseTests {
  enum File: CaseIterable {
    case keys, webhooks, list

    func path(in folder: String) -> String {
      switch self {
      case .keys: "\(folder)/keys.sqlite"
      case .webhooks: "\(folder)/webhooks.sqlite"
      case .list: "\(folder)/payments.sqlite"
      }
    }

    /// Opens the file as a start does; blocks.
    ///
    /// - Returns: the list of payments, for the caller to close, if that was opened.
    func open(in folder: String, _ log: PaymentLog) throws -> PaymentProjection? {
      let health = Health(stores: [])
      switch self {
      case .keys: _ = try KeyWatch(folder, log: log, health: health, logger: silent)
      case .webhooks: _ = try WebhookJournal.open(folder, health: health)
      case .list: return try PaymentProjection.open(folder, log: log, health: health, logger: silent)
      }
      return nil
    }
  }

  /// Opens a file that a transaction of another program has locked.
  ///
  /// - Parameter time: how long the transaction lasts.
  private func openLocked(_ file: File, for time: Duration) async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let log = PaymentLog(store)
        try await file.open(in: folder, log)?.close()
        var configuration = Configuration()
        configuration.allowsUnsafeTransactions = true
        let other = try DatabaseQueue(path: file.path(in: folder), configuration: configuration)
        // The connections for reading of the pool that has made the file end a moment later.
        try await eventually("it is alone") {
          do {
            try await other.writeWithoutTransaction {
              try $0.execute(sql: "PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
            }
            return true
          } catch let error as DatabaseError where error.resultCode == .SQLITE_BUSY {
            return false
          }
        }
        // A thread of its own: the other tests may keep all of the tasks' threads busy for longer than a start waits.
        let isOpened = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
          _ = isOpened.wait(timeout: .now() + time / .seconds(1))
          // Fails only if the file is gone, and then nobody waits for it.
          try? other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
        }
        defer { isOpened.signal() }
        let list = try await onOtherThread { try file.open(in: folder, log) }
        await list?.close()
      }
    }
  }

  private func onOtherThread<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread { continuation.resume(with: Result { try work() }) }
    }
  }

  @Test("a start waits for it", arguments: File.allCases)
  func waits(_ file: File) async throws {
    try await openLocked(file, for: .milliseconds(500))
  }

  @Test("and if it stays locked says that, and not that the file is lost or damaged", arguments: File.allCases)
  func saysSo(_ file: File) async throws {
    let error = await #expect(throws: (any Error).self) { try await openLocked(file, for: .seconds(60)) }
    let text = error.map { "\($0)" } ?? ""
    #expect(text.contains("another program has it locked; end that program or wait until it is done"), "\(text)")
    for wrong in ["backup", "remove it", "check the disk", "as soon as"] { #expect(!text.contains(wrong), "\(text)") }
  }
}
