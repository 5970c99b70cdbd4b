import NIOCore

/// Runs tasks on one event loop. A request's task then stays on its connection's thread, and reaches the connection of a call
/// and returns without waking another thread.
///
/// A task must not block: it would block every connection of the loop.
final class LoopExecutor: TaskExecutor {
  let loop: any EventLoop

  init(_ loop: any EventLoop) { self.loop = loop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }

  /// One executor for each loop of the group.
  static func executors(of group: any EventLoopGroup) -> [LoopExecutor] { group.makeIterator().map(LoopExecutor.init) }
}
