import Glibc
import GRDB

/// A database that another program has locked when this one starts: a backup, or a person's sqlite3. The file is sound, and
/// usually free again after a moment.
enum LockedDatabase {
  /// How long a start waits.
  static let patience = Duration.seconds(5)
  private static let pauseMicroseconds: UInt32 = 20_000

  /// What to say when the wait was in vain.
  static let reason = "another program has it locked"
  static let advice = "end that program or wait until it is done, then start again; the file itself is sound"

  /// Opens a database, again and again while another program has it locked. Blocks.
  static func openWhenReleased<Value, Failure>(
    isLocked: (Failure) -> Bool, _ open: () throws(Failure) -> Value
  ) throws(Failure) -> Value {
    let deadline = ContinuousClock.now + patience
    while true {
      do throws(Failure) {
        return try open()
      } catch {
        guard isLocked(error), ContinuousClock.now < deadline else { throw error }
        usleep(pauseMicroseconds)
      }
    }
  }

  static func isCause(of error: any Error) -> Bool {
    guard let error = error as? DatabaseError else { return false }
    return [ResultCode.SQLITE_BUSY, .SQLITE_LOCKED].contains(error.resultCode)
  }
}
