import Glibc
import LogStore
import Logging
import Synchronization

/// Keeps the file that ``SteadyTime`` and ``LeastTime`` go on from after a restart.
final class TimeKeeper: Sendable {
  private let path: String
  private let log: PaymentLog
  private let failure = Mutex<SmallFile.Failure?>(nil)
  private let logger: Logger

  /// A file may be this much older than it would be after a restart of the machine.
  private static let interval: UInt64 = 60_000_000
  /// Clocks drift apart by less in a second.
  private static let tolerance: UInt64 = 10_000

  init(_ directory: String, _ log: PaymentLog, logger: Logger) {
    path = TimeRecord.path(in: directory)
    self.log = log
    self.logger = logger
  }

  /// For ``Health``.
  var warnings: [String] {
    failure.withLock {
      $0.map { ["the time can't be kept over a restart, and keys may look younger after it: \($0)"] } ?? []
    }
  }

  /// The times of the payments log, as an earlier process has left them.
  static func times(in directory: String, _ store: LogStore, logger: Logger) -> (steady: SteadyTime, least: LeastTime) {
    var record: TimeRecord?
    do throws(SmallFile.Failure) {
      record = try TimeRecord(contentsOf: TimeRecord.path(in: directory))
    } catch {
      logger.warning("the time of the last start can't be read", metadata: ["reason": "\(error)"])
    }
    let now = TimeRecord.now(steady: 0)
    // Without a record it is not known how much time has passed since the last event: none, for certain.
    let last = store.lastTimestampMicroseconds
    let least = last > 0 ? min(last, now.clockMicroseconds) : now.clockMicroseconds
    return (
      SteadyTime(
        logTime: { Clock.microseconds() + store.clockLeadMicroseconds }, start: record?.steadyMicroseconds(at: now) ?? 0
      ),
      LeastTime(startMicroseconds: record?.leastMicroseconds(at: now) ?? least)
    )
  }

  /// Writes the file until the task is cancelled: when the clock was set, when the file is gone, and now and then.
  func run() async {
    var written: TimeRecord?
    while !Task.isCancelled {
      let now = TimeRecord.now(steady: log.time.microseconds(), least: log.leastTime.microseconds())
      let isDue = written.map { Self.isDue(after: $0, now) } ?? true
      do throws(SmallFile.Failure) {
        let isWritten = try await RequestThreads.run(.long) { [path] () throws(SmallFile.Failure) in
          guard isDue || !Self.isFile(path) else { return false }
          try now.write(to: path)
          return true
        }
        if isWritten { written = now }
        failure.withLock { $0 = nil }
      } catch {
        // Tried again each second, and said once.
        let isNew = failure.withLock { failure in
          defer { failure = error }
          return failure == nil
        }
        if isNew { logger.warning("the time can't be kept over a restart", metadata: ["reason": "\(error)"]) }
      }
      // Cancelled, the loop ends.
      try? await Task.sleep(for: .seconds(1))
    }
  }

  private static func isFile(_ path: String) -> Bool {
    fileStatus(at: path).map { $0.st_mode & S_IFMT == S_IFREG } ?? false
  }

  /// Whether a process that begins with the record would not come to the same time.
  static func isDue(after record: TimeRecord, _ now: TimeRecord) -> Bool {
    let expected = record.steadyMicroseconds(at: now)
    let difference = max(expected, now.steadyMicroseconds) - min(expected, now.steadyMicroseconds)
    return difference > tolerance || now.bootMicroseconds - record.bootMicroseconds > interval
  }
}
