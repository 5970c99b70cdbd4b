import Glibc
import NIOCore
import NIOPosix

/// A thread for long work that no client waits for. Requests and calls have priority over it.
enum BackgroundThread {
  /// Beside one busy thread on the same processor it gets a quarter of the time.
  private static let niceness: Int32 = 5

  /// Runs the work on its own thread, where it may block. The thread ends with the work.
  static func run(_ work: @Sendable () async -> Void) async {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    await withTaskExecutorPreference(LoopExecutor.of(group.next())) {
      // 0 means the calling thread: on Linux each thread has its own niceness. If the call is refused, the thread keeps normal priority.
      _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
      await work()
    }
    // Fails only if the group was shut down before.
    try? await group.shutdownGracefully()
  }
}
