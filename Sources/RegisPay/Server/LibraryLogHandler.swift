import Logging

/// What the libraries of the HTTP server log, without what is no fault. Safe to use as its handler is.
struct LibraryLogHandler: LogHandler {
  /// A stop that takes too long is cut off: then the listening socket is closed a second time.
  private static let harmless: Set<String> = ["Server shutdown error: Already closed"]

  var handler: any LogHandler

  var logLevel: Logger.Level {
    get { handler.logLevel }
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
