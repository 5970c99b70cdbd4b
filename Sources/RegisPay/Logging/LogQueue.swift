import Logging
import Synchronization

/// A line of a logger, before it is written in some format.
public struct LogRecord: Sendable {
  /// Since 1970-01-01 UTC.
  var microseconds: UInt64
  var level: Logger.Level
  var message: String
  /// The module that logged it.
  var source: String
  var fields: [(key: String, value: String)]

  /// About what it takes in memory.
  fileprivate var byteCount: Int {
    fields.reduce(message.utf8.count + source.utf8.count + 200) { $0 + $1.key.utf8.count + $1.value.utf8.count + 32 }
  }
}

/// Lines that wait to be sent to a collector. Bounded: lines that find it full are counted, and not kept, since the first tell how a fault
/// began. Safe to use from any thread; each call takes a constant time.
public final class LogQueue: Sendable {
  /// Lines about the sending itself. They are not sent: each line that a collector refuses would lead to another one.
  enum OwnLine: String, CaseIterable {
    case failed = "can't send log lines to the collector, tries again"
    case refused = "the collector refused log lines, which it does not get"
  }

  private static let byteLimit = 2 << 20

  private struct State {
    var records: [LogRecord] = []
    var byteCount = 0
    var dropped = 0
  }

  private let limit: Int
  private let state = Mutex(State())

  /// - Parameter limit: lines, at most.
  public init(limit: Int) { self.limit = limit }

  func add(_ record: LogRecord) {
    guard OwnLine(rawValue: record.message) == nil else { return }
    let byteCount = record.byteCount
    state.withLock { state in
      guard state.records.count < limit, state.byteCount + byteCount <= Self.byteLimit else {
        state.dropped += 1
        return
      }
      state.records.append(record)
      state.byteCount += byteCount
    }
  }

  /// Takes all lines.
  ///
  /// - Returns: them, and how many were dropped since the last call.
  func take() -> (records: [LogRecord], dropped: Int) {
    state.withLock { state in
      defer { state = State() }
      return (state.records, state.dropped)
    }
  }
}
