import Foundation
import LogStore
import Logging

/// Waits for a process that has crashed, and is not gone yet, before this one takes its directory.
///
/// Such a process holds its locks, and its port, while the crash is reported (Swift's backtracer, a core file) and its memory
/// is given back: seconds. A start at that time is a restart as it is meant, and no second server.
enum CrashedHolder {
  /// Swift's backtracer takes 30 seconds at most.
  private static let patience = Duration.seconds(60)
  private static let pauseMicroseconds: UInt32 = 50_000

  /// Opens something that other processes lock; tries again while the one that holds it is a process that left the mark of
  /// a crash in the data directory. Blocks.
  static func outlived<Value>(
    in directory: String, _ logger: Logger, _ open: () throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    let deadline = ContinuousClock.now + patience
    var isTold = false
    while true {
      do throws(LogStoreError) {
        return try open()
      } catch {
        guard case .locked(_, let holder) = error, ContinuousClock.now < deadline, CarefulStart.isMarked(directory)
        else { throw error }
        if !isTold {
          isTold = true
          logger.warning(
            "waiting for a process that has crashed to end",
            metadata: ["directory": "\(directory)", "holder": "\(holder)"])
        }
        usleep(pauseMicroseconds)
      }
    }
  }
}
