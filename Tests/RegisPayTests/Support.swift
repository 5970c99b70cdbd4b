import Foundation
import LogStore
import Logging
import Testing

@testable import RegisPay

/// Logs nowhere: what the tests look at is what was done.
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

/// Waits for something that no event tells, by looking again and again. The limit is for a machine that is busy with other
/// things, not a promise.
func eventually(
  within limit: Duration = .seconds(60), _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
  _ condition: () async throws -> Bool
) async throws {
  let deadline = ContinuousClock.now + limit
  while try await !condition() {
    try #require(ContinuousClock.now < deadline, what, sourceLocation: sourceLocation)
    try await Task.sleep(for: .milliseconds(2))
  }
}

/// Waits for a task to end, and cancels it when it takes longer than `limit`.
///
/// - Returns: whether it ended by itself.
func endsByItself(_ task: Task<Void, any Error>, within limit: Duration = .seconds(10)) async throws -> Bool {
  let watchdog = Task {
    try await Task.sleep(for: limit)
    task.cancel()
  }
  defer { watchdog.cancel() }
  try await task.value
  return !task.isCancelled
}
