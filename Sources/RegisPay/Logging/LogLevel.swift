import Logging
import Synchronization

/// The lowest level that a server logs. It may be changed while the server runs, for all its loggers at once. Safe to use from
/// any thread.
public final class LogLevel: Sendable {
  /// Made once: every call of a logger asks for the level.
  private static let all = Logger.Level.allCases

  private let index: Atomic<Int>

  public init(_ level: Logger.Level) { index = Atomic(Self.index(of: level)) }

  public var current: Logger.Level {
    get { Self.all[index.load(ordering: .relaxed)] }
    set { index.store(Self.index(of: newValue), ordering: .relaxed) }
  }

  private static func index(of level: Logger.Level) -> Int { all.firstIndex(of: level) ?? 0 }
}

/// Forwards lines to another handler by a level that is shared with others.
struct LevelLogHandler: LogHandler {
  var handler: any LogHandler
  let level: LogLevel
  /// The level of this logger alone, if it has one.
  private var own: Logger.Level?

  init(_ handler: any LogHandler, _ level: LogLevel) {
    self.handler = handler
    self.level = level
    // What decides is here.
    self.handler.logLevel = .trace
  }

  var logLevel: Logger.Level {
    get { own ?? level.current }
    set { own = newValue }
  }

  var metadata: Logger.Metadata {
    get { handler.metadata }
    set { handler.metadata = newValue }
  }

  var metadataProvider: Logger.MetadataProvider? {
    get { handler.metadataProvider }
    set { handler.metadataProvider = newValue }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { handler[metadataKey: key] }
    set { handler[metadataKey: key] = newValue }
  }

  func log(event: LogEvent) { handler.log(event: event) }
}
