import Testing

@testable import LogStore

/// What befalls a file or a directory of a store while the store is open.
enum Loss: CaseIterable { case removed, moved, replaced }

/// The error that a wait for more ends with; nil if it ends without one, or with the test's time.
func failure(of waiting: Task<Bool, any Error>) async -> LogStoreError? {
  let result = await withTaskCancellationHandler {
    await waiting.result
  } onCancel: {
    waiting.cancel()
  }
  return if case .failure(let error) = result { error as? LogStoreError } else { nil }
}

/// Appends until the store refuses to.
///
/// - Returns: why it does; nil if it acknowledges everything for 20 seconds.
func failureAtWork(of store: LogStore, isBuffered: Bool) async -> LogStoreError? {
  let deadline = ContinuousClock.now + .seconds(20)
  while ContinuousClock.now < deadline {
    do throws(LogStoreError) {
      let append = Append(event("s"))
      _ = isBuffered ? try await store.appendBuffered(append) : try await store.append(append)
    } catch {
      return error
    }
  }
  return nil
}

/// A call on a store that has stopped, for a reason that names a path.
func expectStopped<Value>(
  naming path: String, sourceLocation: SourceLocation = #_sourceLocation,
  _ body: () async throws(LogStoreError) -> Value
) async {
  await expectThrows(
    { if case .stopped(let cause) = $0 { cause.contains(path) } else { false } }, sourceLocation: sourceLocation, body)
}
