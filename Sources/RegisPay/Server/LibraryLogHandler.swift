import Logging

/// Forwards the log lines of the HTTP server's libraries, from `warning` on and without those that report no fault: the rest is about
/// connections, and of use only to somebody who looks for a fault in a library. As thread-safe as its handler.
struct LibraryLogHandler: LogHandler {
  /// After a stop that takes too long is cut off, the library closes the listening socket a second time.
  private static let harmless: Set<String> = ["Server shutdown error: Already closed"]

  var handler: any LogHandler

  var logLevel: Logger.Level {
    get { max(handler.logLevel, .warning) }
    set { handler.logLevel = newValue }
  }

  var metadata: Logger.Metadata {
    get { handler.metadata }
    set { handler.metadata = newValue }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { handler[metadataKey: key] }
    set { handler[metadataKey: key] = newValue }
  }

  func log(event: LogEvent) {
    guard !Self.harmless.contains("\(event.message)") else { return }
    handler.log(event: event)
  }
}
