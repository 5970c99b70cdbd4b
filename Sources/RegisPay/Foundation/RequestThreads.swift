import Glibc
import NIOPosix

/// Threads for work of requests that must not run on an event loop: a read of mapped memory may wait for the disk, and long work
/// takes the processor; on a loop both would hold up every connection of the loop.
///
/// Work runs in portions: after ``portion``, longer work leaves its thread to others and queues again. So no caller waits for
/// more than one portion of each caller before it. Safe to use from any task.
enum RequestThreads {
  /// The kind of a piece of work: long work must not hold up short work.
  enum Kind {
    /// One stream, one body, one page: a client waits for the response.
    case short
    /// A part of the log. Its threads have a lower priority than those of requests, payments and short work.
    case long
  }

  /// How long one piece of work may take before it queues again.
  static let portion = Duration.milliseconds(3)

  private static let shortWork = pool()
  private static let longWork = pool()
  /// On a processor with one other busy thread, long work gets a quarter of the time.
  private static let longWorkNiceness: Int32 = 5

  /// Starts the threads. Later the system may refuse them, because others have taken the last ones, and the library ends the process
  /// then: a request must not be the first to need them.
  static func start() {
    for pool in [shortWork, longWork, NIOThreadPool.singleton] { pool.submit { _ in } }
  }

  private static func pool() -> NIOThreadPool {
    // Two, so that a page that must come from the disk does not hold up work on data in memory.
    let pool = NIOThreadPool(numberOfThreads: 2)
    pool.start()
    return pool
  }

  /// Runs a piece of work on one of the threads, in the order of the calls. Runs it even when the task is cancelled: it is short.
  static func run<Value: Sendable, Failure: Error>(
    _ kind: Kind, _ work: @escaping @Sendable () throws(Failure) -> Value
  ) async throws(Failure) -> Value {
    let result: Result<Value, Failure> = await withCheckedContinuation { continuation in
      let pool = kind == .long ? longWork : shortWork
      // The ignored state says whether the pool was shut down, which never happens.
      pool.submit { _ in
        // 0 is the calling thread; on Linux each thread has its own niceness. If this fails, the thread keeps its priority.
        if kind == .long { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, longWorkNiceness) }
        continuation.resume(returning: Result { () throws(Failure) in try work() })
      }
    }
    return try result.get()
  }
}

/// Tells when one portion of work is over.
struct PortionEnd {
  private let deadline = ContinuousClock.now + RequestThreads.portion
  private var steps = 0
  private var bytes = 0

  /// Counts a step that has read this many bytes. Reads the clock only once for several steps: a step may take less time than
  /// reading the clock does.
  ///
  /// - Returns: whether the portion is over.
  mutating func isReached(after byteCount: Int) -> Bool {
    steps += 1
    bytes += byteCount
    guard steps >= 64 || bytes >= 128 << 10 else { return false }
    (steps, bytes) = (0, 0)
    return ContinuousClock.now >= deadline
  }
}
