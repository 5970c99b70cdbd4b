import Glibc
import NIOCore
import NIOPosix

/// A thread for work that takes long and that nobody waits for: requests and calls go before it.
enum BackgroundThread {
  /// Beside one busy thread on the same processor it gets a quarter of the time.
  private static let niceness: Int32 = 5

  /// Runs the work on a thread of its own, where it may block. The thread ends with it.
  static func run(_ work: @Sendable () async -> Void) async {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    await withTaskExecutorPreference(LoopExecutor(group.next())) {
      // 0 is the thread that calls, which Linux gives a niceness of its own. Refused, it is as urgent as the others.
      _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
      await work()
    }
    // It fails only when it was shut down before.
    try? await group.shutdownGracefully()
  }
}
