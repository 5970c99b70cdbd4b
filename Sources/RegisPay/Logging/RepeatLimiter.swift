import Logging
import Synchronization

/// Bounds how often a line with the same message is written, whatever its fields: a fault that concerns thousands of payments
/// would otherwise fill the disk and hide everything else. The first ``burst`` lines of a message in a ``window`` are
/// written, and one line tells how many more there were.
///
/// Lines of level `info` and below have no limit: they tell of work, not of faults, and an operator chooses to have them. Safe
/// to use from any thread. Memory is bounded.
public final class RepeatLimiter: Sendable {
  /// Lines of one message in one window.
  public static let burst = 20
  /// The time for which lines are counted.
  public static let window = Duration.seconds(10)
  /// Messages that are counted at once; lines of others are written without a limit.
  private static let messageLimit = 500

  private struct Key: Hashable {
    var level: Logger.Level
    var message: String
  }

  private struct Window {
    var end: ContinuousClock.Instant
    var count = 0
  }

  /// Lines that were not written.
  public struct Suppressed: Sendable, Equatable {
    public var level: Logger.Level
    public var message: String
    public var count: Int
  }

  private let windows = Mutex<[Key: Window]>([:])

  public init() {}

  /// Whether to write a line. Counts it.
  public func admits(_ level: Logger.Level, _ message: String, at now: ContinuousClock.Instant) -> Bool {
    guard level > .info else { return true }
    let key = Key(level: level, message: message)
    return windows.withLock { windows in
      if windows[key] == nil {
        guard windows.count < Self.messageLimit else { return true }
        windows[key] = Window(end: now + Self.window)
      }
      windows[key]?.count += 1
      return windows[key].map { $0.count <= Self.burst } ?? true
    }
  }

  /// Ends the windows that are over, and returns what was not written in them. Call it each second.
  ///
  /// - Parameter all: ends all windows, as before the process ends.
  public func drain(at now: ContinuousClock.Instant, all: Bool = false) -> [Suppressed] {
    windows.withLock { windows in
      var suppressed: [Suppressed] = []
      for (key, window) in windows where all || window.end <= now {
        windows[key] = nil
        guard window.count > Self.burst else { continue }
        suppressed.append(.init(level: key.level, message: key.message, count: window.count - Self.burst))
      }
      return suppressed.sorted { $0.message < $1.message }
    }
  }
}
