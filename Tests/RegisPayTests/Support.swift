import Foundation
import Hummingbird
import LogStore
import Logging
import Synchronization
import Testing

@testable import RegisPay

/// Logs nothing: the tests check effects.
let silent = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

/// A new folder, removed at the end.
func withTemporaryFolder<Value>(_ work: (String) async throws -> Value) async throws -> Value {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("regispay-\(UUID().uuidString)").path
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(atPath: folder) }
  return try await work(folder)
}

/// A new log in a folder of its own, closed and removed at the end.
func withStore<Value>(_ work: (LogStore) async throws -> Value) async throws -> Value {
  try await withTemporaryFolder { folder in
    let store = try openStore(folder)
    do {
      let value = try await work(store)
      try await store.close()
      return value
    } catch {
      try? await store.close()
      throw error
    }
  }
}

/// With small segments, so that it is quick to make.
func openStore(_ folder: String) throws -> LogStore {
  var options = LogStore.Options()
  options.segmentBytes = 1 << 20
  return try LogStore.open(folder + "/log", options: options)
}

/// Serves a router on a free port of this machine while `work` runs.
func withApplication<Context: RequestContext & InitializableFromSource<ApplicationRequestContextSource>>(
  _ router: Router<Context>, _ work: @escaping @Sendable (_ port: Int) async throws -> Void
) async throws {
  let ports = AsyncStream<Int>.makeStream()
  let application = Application(
    router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0)),
    onServerRunning: { ports.continuation.yield($0.localAddress?.port ?? 0) }, logger: silent)
  try await withThrowingTaskGroup(of: Void.self) { group in
    group.addTask { try await application.run() }
    group.addTask {
      guard let port = await ports.stream.first(where: { _ in true }) else { return }
      try await work(port)
    }
    // The application runs until it is cancelled, so the work ends first.
    defer { group.cancelAll() }
    try await group.next()
  }
}

/// How long a test waits for something that never comes: a minute, and a thousand looks. Time alone says nothing on a
/// machine that is busy with other things: there the looks are as rare as the work that they wait for.
struct Patience {
  private let deadline = ContinuousClock.now + .seconds(60)
  private var looks = 0

  /// Pauses until the next look.
  ///
  /// - Returns: false when there have been enough.
  mutating func lasts() async throws -> Bool {
    looks += 1
    guard looks < 1_000 || ContinuousClock.now < deadline else { return false }
    try await Task.sleep(for: .milliseconds(2))
    return true
  }
}

/// Waits for something without an event, by polling.
func eventually(
  _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
  var patience = Patience()
  while try await !condition() {
    let lasts = try await patience.lasts()
    try #require(lasts, what, sourceLocation: sourceLocation)
  }
}

/// Waits for a task to end, and cancels it when it never does.
///
/// - Returns: whether it ended by itself.
func endsByItself(_ task: Task<Void, any Error>) async throws -> Bool {
  let watchdog = Task {
    var patience = Patience()
    while try await patience.lasts() {}
    task.cancel()
  }
  defer { watchdog.cancel() }
  try await task.value
  return !task.isCancelled
}

/// Keeps what is logged, message and metadata.
final class LineCollector: Sendable {
  private let lines = Mutex<[String]>([])

  var text: String { lines.withLock { $0.joined(separator: "\n") } }

  var logger: Logger {
    var logger = Logger(label: "test") { _ in Handler(collector: self) }
    logger.logLevel = .trace
    return logger
  }

  private struct Handler: LogHandler {
    let collector: LineCollector
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.trace

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
      collector.lines.withLock {
        $0.append("\(event.message) \(metadata) \(event.metadata ?? [:])")
      }
    }
  }
}
