import NIOCore

/// Runs tasks on one event loop: a request's task then stays on the thread that its connection is served by, and goes
/// from there to a call's connection and back without waking another thread.
///
/// What runs there must not block: it would hold up every connection of the loop.
final class LoopExecutor: TaskExecutor {
  let loop: any EventLoop

  init(_ loop: any EventLoop) { self.loop = loop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }

  /// One for each loop of the group.
  static func executors(of group: any EventLoopGroup) -> [LoopExecutor] { group.makeIterator().map(LoopExecutor.init) }
}
