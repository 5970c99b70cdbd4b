import Glibc
import NIOPosix
import Synchronization

/// Threads that collect metrics and write them as text, and read what the activity shows, beside those of requests: a scrape must
/// respond while a disk hangs.
enum MetricsThreads {
  /// One more than a server has ``BoundedRead``s that may block a thread, so that one is always free.
  static let count = 8

  private static let pool: NIOThreadPool = {
    let pool = NIOThreadPool(numberOfThreads: count)
    pool.start()
    return pool
  }()
  /// Requests, payments and their reads have priority.
  private static let niceness: Int32 = 5

  /// Starts the threads, for the reason of ``RequestThreads/start()``.
  static func start() { pool.submit { _ in } }

  static func run<Value: Sendable>(_ work: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in
      // The ignored state says whether the pool was shut down, which never happens.
      pool.submit { _ in
        // 0 is the calling thread; on Linux each thread has its own niceness. If this fails, the thread keeps its priority.
        _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
        continuation.resume(returning: work())
      }
    }
  }
}

/// A read that may hang: on a disk, or on an event loop that is held. One at a time, and nobody waits for it for longer than a
/// limit. Safe to use from any task.
final class BoundedRead: Sendable {
  private let isRunning = Atomic(false)
  private let limit: Duration

  /// - Parameter limit: how long a caller waits. Prometheus gives up after ten seconds.
  init(limit: Duration = .seconds(2)) { self.limit = limit }

  /// - Returns: nil if the read takes longer, or an earlier one still runs.
  func value<Value: Sendable>(_ read: @escaping @Sendable () async -> Value) async -> Value? {
    guard isRunning.compareExchange(expected: false, desired: true, ordering: .acquiringAndReleasing).exchanged else {
      return nil
    }
    let limit = limit
    return await withCheckedContinuation { continuation in
      let answer = Answer(continuation)
      let timer = Task {
        // Ends early only when it is no longer needed.
        try? await Task.sleep(for: limit)
        answer.give(nil)
      }
      Task { [self] in
        let value = await read()
        isRunning.store(false, ordering: .releasing)
        answer.give(value)
        timer.cancel()
      }
    }
  }

  /// Resumes its caller once.
  private final class Answer<Value: Sendable>: Sendable {
    private let continuation: Mutex<CheckedContinuation<Value?, Never>?>

    init(_ continuation: CheckedContinuation<Value?, Never>) { self.continuation = Mutex(continuation) }

    func give(_ value: Value?) {
      let continuation = continuation.withLock { continuation in
        defer { continuation = nil }
        return continuation
      }
      continuation?.resume(returning: value)
    }
  }
}
