import GRDB
import GRDBSQLite
import Glibc

/// Limits the time of SQLite statements: a statement that takes longer is interrupted, which frees its thread and connection for
/// others.
enum StatementLimit {
  /// Instructions of SQLite's machine between two checks of the clock: some tens of microseconds.
  private static let instructions: Int32 = 1_000

  /// The deadline of this thread's statements, as uptime in nanoseconds; null for none. Thread-local, because one thread at a
  /// time uses a connection, and SQLite calls the handler on that thread.
  private static let deadlineKey = {
    var key = pthread_key_t()
    // Fails only when the process has a thousand keys.
    guard pthread_key_create(&key, nil) == 0 else { preconditionFailure("no thread-local key is left") }
    return key
  }()

  /// Call it once for each connection.
  static func prepare(_ database: Database) {
    sqlite3_progress_handler(database.sqliteConnection, instructions, { _ in StatementLimit.isOver ? 1 : 0 }, nil)
  }

  /// Runs statements on a prepared connection within a time limit.
  ///
  /// - Throws: ``TookTooLong`` when the time is over; any error of `work`.
  static func limit<Value>(to time: Duration, _ work: () throws -> Value) throws -> Value {
    let nanoseconds = UInt64(max(1, time / .nanoseconds(1)))
    // The pointer is a number and is never dereferenced.
    pthread_setspecific(deadlineKey, UnsafeRawPointer(bitPattern: UInt(now() &+ nanoseconds)))
    defer { pthread_setspecific(deadlineKey, nil) }
    do {
      return try work()
    } catch let error as DatabaseError where error.resultCode == .SQLITE_INTERRUPT && isOver {
      throw TookTooLong()
    }
  }

  private static var isOver: Bool {
    guard let deadline = pthread_getspecific(deadlineKey) else { return false }
    return now() >= UInt64(UInt(bitPattern: deadline))
  }

  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// A statement took longer than its limit and was interrupted.
  struct TookTooLong: Error {}
}
