import Foundation
import LogStore
import Logging

/// Waits until a process that has crashed releases its directory's locks.
///
/// A crashing process holds its locks and its port for some seconds, while the crash is reported (Swift's backtracer, a core file) and
/// its memory is freed. A start in that time is an intended restart and not a second server.
enum CrashedLockHolder {
  /// Swift's backtracer takes 30 seconds at most.
  private static let patience = Duration.seconds(60)
  private static let pauseMicroseconds: UInt32 = 50_000

  /// Opens something that other processes lock. Retries while the holder of the lock is a process that left the mark of a crash in the
  /// data directory. Blocks.
  static func openWhenReleased<Value>(
    in directory: String, _ logger: Logger, _ open: () throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    let deadline = ContinuousClock.now + patience
    var isReported = false
    while true {
      do throws(LogStoreError) {
        return try open()
      } catch {
        guard case .locked(_, let holder) = error, ContinuousClock.now < deadline, CarefulStart.isMarked(directory)
        else { throw error }
        if !isReported {
          isReported = true
          logger.warning(
            "waiting for a crashed process to end",
            metadata: ["directory": "\(directory)", "holder": "\(holder)"])
        }
        usleep(pauseMicroseconds)
      }
    }
  }
}
