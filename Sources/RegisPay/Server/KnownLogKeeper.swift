import Foundation
import LogStore
import Logging
import Synchronization

/// Keeps the file ``KnownLog``, and warns while it says that events are missing.
///
/// Safe to use from any task.
final class KnownLogKeeper: Sendable {
  private let directory: String
  private let reader: LogReader
  private let psp: String
  private let logger: Logger
  private let interval: Duration
  /// The log may be a restored one that no server has opened since: somebody says so, or it is not the log as it was last known.
  let isRestored: Bool
  private let known: Mutex<KnownLog>
  /// What is in the file; nil if there is none.
  private let written: Mutex<KnownLog?>

  /// Reads the file, and notes what is missing. Changes nothing on the disk. Blocks for a small read.
  ///
  /// - Parameters:
  ///   - psp: for ``recordPSP()``, the PSP that the payments are made with from now on, see ``ServerOptions/psp``.
  ///   - interval: the time between two writes while the log grows.
  init(_ directory: String, _ reader: LogReader, psp: String, logger: Logger, interval: Duration = .seconds(10)) {
    self.directory = directory
    self.reader = reader
    self.psp = psp
    self.logger = logger
    self.interval = interval
    let end = reader.endOffset
    let found = KnownLog(in: directory)
    var known = found ?? KnownLog(storeID: reader.storeID, events: end)
    isRestored = end > 0 && (found.map { $0.isRestored || $0.fault != nil || end < $0.events } ?? true)
    known.isRestored = isRestored
    known.noteEnd(end)
    self.known = Mutex(known)
    written = Mutex(found)
    if let line = known.warning(in: directory) { logger.warning("\(line)") }
    if let fault = found?.fault {
      logger.warning(
        "payments.known can't be read, and is replaced",
        metadata: ["file": "\(KnownLog.path(in: directory))", "reason": "\(fault)"])
    }
  }

  /// The log itself says by now that it was restored.
  func noteRestorationRecorded() { known.withLock { $0.isRestored = false } }

  /// For ``Health``.
  var warnings: [String] { known.withLock { $0 }.warning(in: directory).map { [$0] } ?? [] }

  /// Writes the file when the log has its first event, then at intervals while the log grows or when the file is gone, and last
  /// when the task is cancelled.
  func run() async {
    // Whatever ends the wait, the loop looks for itself whether there are events.
    _ = try? await reader.waitForEvents(at: 0)
    var isFailing = false
    while true {
      let isLast = Task.isCancelled
      do throws(SmallFile.Failure) {
        try await RequestThreads.run(.long) { () throws(SmallFile.Failure) in try self.write() }
        isFailing = false
      } catch {
        if !isFailing { logger.warning("a loss of the log may go unnoticed", metadata: ["reason": "\(error)"]) }
        isFailing = true
      }
      if isLast { return }
      // Cancelled, the next write is the last.
      try? await Task.sleep(for: interval)
    }
  }

  /// Returns when the file says which PSP the payments are made with. Call it before a call goes there: from then on a start with
  /// another PSP has to be refused. Blocks until the file is synced, usually for nothing.
  func recordPSP() throws(SmallFile.Failure) {
    guard written.withLock({ $0 })?.psp != psp else { return }
    known.withLock { $0.psp = psp }
    try write()
  }

  private func write() throws(SmallFile.Failure) {
    // Two writers take turns.
    try written.withLock { old throws(SmallFile.Failure) in
      let end = reader.endOffset
      let isThere = FileManager.default.fileExists(atPath: KnownLog.path(in: directory))
      let new = known.withLock { known in
        // A person has removed the file: what is missing has been seen to.
        known = KnownLog(
          storeID: reader.storeID, events: end, psp: known.psp, isRestored: known.isRestored,
          missing: isThere || old == nil ? known.missing : .init()
        )
        return known
      }
      guard !isThere || new != old else { return }
      try new.write(in: directory)
      old = new
    }
  }
}
