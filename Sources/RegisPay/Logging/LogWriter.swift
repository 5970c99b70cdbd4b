import Logging

/// Formats the lines of all loggers of a process and hands them to one output. Safe to use from any thread.
public final class LogWriter: Sendable {
  public let format: LogFormat
  private let output: @Sendable (String) -> Void
  private let queue: LogQueue?
  private let limiter = RepeatLimiter()

  /// - Parameters:
  ///   - queue: gets each line of a logger, too.
  ///   - output: takes one line or more; must not block.
  public init(_ format: LogFormat, queue: LogQueue? = nil, output: @escaping @Sendable (String) -> Void) {
    self.format = format
    self.queue = queue
    self.output = output
  }

  /// A handler for a logger, as `Logger(label:factory:)` wants one.
  public func handler() -> some LogHandler { ServerLogHandler(writer: self) }

  /// Writes a line, unless its message has come too often: ``RepeatLimiter``.
  func write(_ level: Logger.Level, _ message: String, source: String, fields: [(key: String, value: String)]) {
    guard limiter.admits(level, message, at: .now) else { return }
    put(LogRecord(microseconds: Clock.microseconds(), level: level, message: message, source: source, fields: fields))
  }

  private func put(_ record: LogRecord) {
    output(
      format.line(
        record.level, record.message, source: record.source, fields: record.fields, microseconds: record.microseconds))
    queue?.add(record)
  }

  /// Writes how many lines were left out. Call it each second, and once with `all` before the process ends.
  public func drain(all: Bool = false) {
    for suppressed in limiter.drain(at: .now, all: all) {
      put(
        LogRecord(
          microseconds: Clock.microseconds(), level: suppressed.level, message: suppressed.message, source: "RegisPay",
          fields: [("suppressed", "\(suppressed.count)")]))
    }
  }

  /// A line of the process itself, which no limit holds back.
  public func line(_ level: Logger.Level, _ message: String) -> String {
    format.line(level, message, source: "RegisPay", fields: [], microseconds: Clock.microseconds())
  }

  /// The line for an error that ends the process.
  public func failure(_ message: String) -> String {
    switch format {
    case .text: "regispay: \(message)\n"
    case .json: line(.critical, message)
    }
  }
}

/// Gives each line of a logger to the process's ``LogWriter``. A value, as the logger that holds it.
private struct ServerLogHandler: LogHandler {
  let writer: LogWriter
  var logLevel = Logger.Level.info
  var metadata: Logger.Metadata = [:]
  var metadataProvider: Logger.MetadataProvider?

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    var all = metadata
    if let provided = metadataProvider?.get() { all.merge(provided) { $1 } }
    if let own = event.metadata { all.merge(own) { $1 } }
    if let error = event.error { all["error"] = "\(error)" }
    writer.write(
      event.level, "\(event.message)", source: event.source,
      fields: all.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") })
  }
}
