import NIOCore
import Synchronization

/// Runs tasks on one event loop. A request's task then stays on its connection's thread, and reaches the connection of a call
/// and returns without waking another thread.
///
/// A task must not block: it would block every connection of the loop. Tasks that are always ready don't: after
/// ``turn`` the loop reads and writes its connections before it goes on with them. (NIO's loop runs what was submitted to it
/// until nothing is left, and does input and output only then.)
final class LoopExecutor: TaskExecutor {
  let loop: any EventLoop
  private let state = Mutex(State())

  private struct State {
    /// In the order in which they run.
    var jobs = CircularBuffer<UnownedJob>()
    /// The loop will run them.
    var isScheduled = false
  }

  /// How long jobs run before the loop gets to its connections.
  private static let turn = TimeAmount.milliseconds(2)
  /// Longer than the loop needs to see that nothing else is ready, so that it looks at its connections.
  private static let pause = TimeAmount.microseconds(100)

  private init(_ loop: any EventLoop) { self.loop = loop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    let wasScheduled = state.withLock { state in
      state.jobs.append(job)
      defer { state.isScheduled = true }
      return state.isScheduled
    }
    if !wasScheduled { loop.execute { self.runJobs() } }
  }

  private func runJobs() {
    let end = loop.now + Self.turn
    while let job = next() {
      job.runSynchronously(on: asUnownedTaskExecutor())
      if loop.now > end {
        loop.scheduleTask(in: Self.pause) { self.runJobs() }
        return
      }
    }
  }

  private func next() -> UnownedJob? {
    state.withLock { state in
      guard let job = state.jobs.popFirst() else {
        state.isScheduled = false
        return nil
      }
      return job
    }
  }

  // MARK: - One for each loop

  /// They share their loop's time, so there is one for each loop as long as anything uses it.
  private struct Known {
    weak var executor: LoopExecutor?
  }

  private static let known = Mutex<[ObjectIdentifier: Known]>([:])

  static func of(_ loop: any EventLoop) -> LoopExecutor {
    known.withLock { known in
      // An executor keeps its loop, so that no other has its identity.
      if let executor = known[ObjectIdentifier(loop)]?.executor { return executor }
      known = known.filter { $0.value.executor != nil }
      let executor = LoopExecutor(loop)
      known[ObjectIdentifier(loop)] = Known(executor: executor)
      return executor
    }
  }

  /// One executor for each loop of the group.
  static func executors(of group: any EventLoopGroup) -> [LoopExecutor] { group.makeIterator().map(of) }
}
