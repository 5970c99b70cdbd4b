import GRDB
import GRDBSQLite
import Glibc

/// A limit for how long SQLite may take for what is done in one call: a statement that takes longer is interrupted, and the
/// thread and connection that it holds are there for others.
enum StatementLimit {
  /// Instructions of SQLite's machine between two looks at the clock: some tens of microseconds.
  private static let instructions: Int32 = 1_000

  /// When this thread's statements are to end, as uptime in nanoseconds; null for never. A thread's own, since a connection
  /// is used by one thread at a time, and the handler is called by that.
  private static let deadlineKey = {
    var key = pthread_key_t()
    // It fails only when the process has a thousand keys.
    guard pthread_key_create(&key, nil) == 0 else { preconditionFailure("no key for a thread's value is left") }
    return key
  }()

  /// To be called once for each connection.
  static func prepare(_ database: Database) {
    sqlite3_progress_handler(database.sqliteConnection, instructions, { _ in StatementLimit.isOver ? 1 : 0 }, nil)
  }

  /// Does something with a connection that was prepared.
  ///
  /// - Throws: ``TookTooLong`` when the time is over; what `work` throws.
  static func limit<Value>(to time: Duration, _ work: () throws -> Value) throws -> Value {
    let nanoseconds = UInt64(max(1, time / .nanoseconds(1)))
    // It is never read through.
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

  /// A statement was interrupted since it took longer than it may.
  struct TookTooLong: Error {}
}
