import Dispatch
import GRDB
import Synchronization

extension DatabasePool {
  /// How long a disk may take.
  private static let openLimit = DispatchTimeInterval.seconds(10)

  /// Opens all connections for reading that the pool may have. Blocks for the disk.
  ///
  /// By itself, a pool opens a connection when a read needs one, and holds a lock meanwhile. The end of every other read needs the same
  /// lock, often on an event loop. If the disk hangs while a connection is opened, the event loop would hang too.
  ///
  /// - Throws: the first error; a connection that takes too long is left to the pool.
  func openReaders() throws {
    let count = configuration.maximumReaderCount
    let (arrived, leave) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
    let failure = Mutex<(any Error)?>(nil)
    // One connection serves one read at a time, so as many reads at once need all of them.
    for _ in 0..<count {
      asyncRead { connection in
        do {
          // The file of the log is opened with the first statement.
          _ = try Int.fetchOne(connection.get(), sql: "SELECT count(*) FROM sqlite_schema")
          arrived.signal()
          leave.wait()
        } catch {
          failure.withLock { if $0 == nil { $0 = error } }
          arrived.signal()
        }
      }
    }
    let deadline = DispatchTime.now() + Self.openLimit
    for _ in 0..<count { _ = arrived.wait(timeout: deadline) }
    for _ in 0..<count { leave.signal() }
    if let error = failure.withLock({ $0 }) { throw error }
  }
}
