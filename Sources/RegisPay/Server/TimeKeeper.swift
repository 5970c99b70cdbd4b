import Logging

/// Keeps the file that ``SteadyTime`` goes on from after a restart.
struct TimeKeeper: Sendable {
  private let path: String
  private let time: SteadyTime
  private let logger: Logger

  /// A file may be this much older than it would be after a restart of the machine.
  private static let interval: UInt64 = 60_000_000
  /// Clocks drift apart by less in a second.
  private static let tolerance: UInt64 = 10_000

  init(_ directory: String, _ time: SteadyTime, logger: Logger) {
    path = TimeRecord.path(in: directory)
    self.time = time
    self.logger = logger
  }

  /// The time of a log, not earlier than an earlier process has left it.
  static func time(
    in directory: String, logTime: @escaping @Sendable () -> UInt64, logger: Logger
  ) -> SteadyTime {
    var start: UInt64 = 0
    do throws(SmallFile.Failure) {
      start = try TimeRecord(contentsOf: TimeRecord.path(in: directory))?.steadyMicroseconds(at: .now(steady: 0)) ?? 0
    } catch {
      logger.warning("the time of the last start can't be read", metadata: ["reason": "\(error)"])
    }
    return SteadyTime(logTime: logTime, start: start)
  }

  /// Writes the file until the task is cancelled: when the clock was set, and now and then.
  func run() async {
    var written: TimeRecord?
    var isFailing = false
    while !Task.isCancelled {
      let now = TimeRecord.now(steady: time.microseconds())
      if written.map({ Self.isDue(after: $0, now) }) ?? true {
        do throws(SmallFile.Failure) {
          try await RequestThreads.run(.long) { [path] () throws(SmallFile.Failure) in try now.write(to: path) }
          (written, isFailing) = (now, false)
        } catch {
          // Tried again each second, and said once.
          if !isFailing { logger.warning("the time can't be kept over a restart", metadata: ["reason": "\(error)"]) }
          isFailing = true
        }
      }
      // Cancelled, the loop ends.
      try? await Task.sleep(for: .seconds(1))
    }
  }

  /// Whether a process that begins with the record would not come to the same time.
  static func isDue(after record: TimeRecord, _ now: TimeRecord) -> Bool {
    let expected = record.steadyMicroseconds(at: now)
    let difference = max(expected, now.steadyMicroseconds) - min(expected, now.steadyMicroseconds)
    return difference > tolerance || now.bootMicroseconds - record.bootMicroseconds > interval
  }
}
