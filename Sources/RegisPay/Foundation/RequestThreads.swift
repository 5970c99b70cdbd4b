import Glibc
import NIOPosix

/// Threads for what requests ask for that an event loop must not do: a read of mapped memory may wait for the disk, and what
/// takes long takes the processor for as long as it lasts; on a loop both would hold up every connection of the loop.
///
/// Work is done in portions: what takes longer leaves its thread to others after ``portion``, and asks again. So nobody
/// waits for more than the portions of those before it. Safe to use from any task.
enum RequestThreads {
  /// What a piece of work is, since long work must not stand in the way of short work.
  enum Kind {
    /// One stream, one body, one page: somebody waits for the answer.
    case short
    /// A part of the log. Its threads are less urgent than those of requests, payments and short work.
    case long
  }

  /// How long one piece of work may take before it asks again.
  static let portion = Duration.milliseconds(3)

  private static let shortWork = pool()
  private static let longWork = pool()
  /// Beside one busy thread on the same processor, long work gets a quarter of the time.
  private static let longWorkNiceness: Int32 = 5

  private static func pool() -> NIOThreadPool {
    // Two, so that one page that has to come from the disk does not hold up the work on what is in memory.
    let pool = NIOThreadPool(numberOfThreads: 2)
    pool.start()
    return pool
  }

  /// Does a piece of work on one of the threads, in the order in which it was asked for. It is done also when the task is
  /// cancelled: it is short.
  static func run<Value: Sendable, Failure: Error>(
    _ kind: Kind, _ work: @escaping @Sendable () throws(Failure) -> Value
  ) async throws(Failure) -> Value {
    let result: Result<Value, Failure> = await withCheckedContinuation { continuation in
      let pool = kind == .long ? longWork : shortWork
      // Its state says whether the pool was shut down, which nobody does.
      pool.submit { _ in
        // 0 is the thread that calls, which Linux gives a niceness of its own. Refused, it is as urgent as the others.
        if kind == .long { _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, longWorkNiceness) }
        continuation.resume(returning: Result { () throws(Failure) in try work() })
      }
    }
    return try result.get()
  }
}

/// The end of one portion of work.
struct PortionEnd {
  private let deadline = ContinuousClock.now + RequestThreads.portion
  private var steps = 0
  private var bytes = 0

  /// Counts a step that has looked at so many bytes. The clock is asked once for some steps: a step may take less time than
  /// that does.
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
