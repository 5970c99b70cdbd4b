import NIOCore
import Synchronization

/// Runs tasks on one event loop. A request's task then stays on its connection's thread, and reaches the connection of a call
/// and returns without waking another thread.
///
/// A task must not block: it would block every connection of the loop. Tasks that are always ready don't: after
/// ``LoopJobs/turn`` the loop reads and writes its connections before it goes on with them. (NIO's loop runs what was submitted
/// to it until nothing is left, and does input and output only then.)
final class LoopExecutor: TaskExecutor {
  /// Jobs of different lanes run in turn, however many wait in each.
  enum Lane: Int, CaseIterable {
    /// Somebody waits for the response.
    case requests
    /// Consumers, of which thousands of payments may wait.
    case work
  }

  private let jobs: LoopJobs
  private let lane: Lane

  private init(_ jobs: LoopJobs, _ lane: Lane) {
    self.jobs = jobs
    self.lane = lane
  }

  var loop: any EventLoop { jobs.loop }

  func enqueue(_ job: consuming ExecutorJob) { jobs.enqueue(UnownedJob(job), lane, asUnownedTaskExecutor()) }

  /// One executor for each loop of the group.
  static func executors(of group: any EventLoopGroup, _ lane: Lane) -> [LoopExecutor] {
    group.makeIterator().map { of($0, lane) }
  }

  // MARK: - One for each loop and lane

  private struct Key: Hashable {
    let loop: ObjectIdentifier
    let lane: Lane
  }

  private struct Known {
    weak var executor: LoopExecutor?
  }

  /// The executors of a loop share its time, so there is one list of jobs for each loop as long as anything uses it.
  private static let known = Mutex<[Key: Known]>([:])

  static func of(_ loop: any EventLoop, _ lane: Lane) -> LoopExecutor {
    known.withLock { known in
      // An executor keeps its loop, so that no other has its identity.
      let executors = Lane.allCases.map { known[Key(loop: ObjectIdentifier(loop), lane: $0)]?.executor }
      if let executor = executors[lane.rawValue] { return executor }
      known = known.filter { $0.value.executor != nil }
      let executor = LoopExecutor(executors.lazy.compactMap { $0?.jobs }.first ?? LoopJobs(loop), lane)
      known[Key(loop: ObjectIdentifier(loop), lane: lane)] = Known(executor: executor)
      return executor
    }
  }
}

/// The jobs of one event loop's executors.
private final class LoopJobs: Sendable {
  let loop: any EventLoop
  private let state = Mutex(State())

  private struct Job {
    let job: UnownedJob
    let executor: UnownedTaskExecutor
  }

  private struct State {
    /// For each lane, in the order in which they run.
    var lanes = LoopExecutor.Lane.allCases.map { _ in CircularBuffer<Job>() }
    /// The lane whose turn it is.
    var next = 0
    /// The loop will run them.
    var isScheduled = false

    mutating func popFirst() -> Job? {
      for _ in lanes {
        let lane = next
        next = (next + 1) % lanes.count
        if let job = lanes[lane].popFirst() { return job }
      }
      return nil
    }
  }

  /// How long jobs run before the loop gets to its connections.
  static let turn = TimeAmount.milliseconds(2)
  /// Longer than the loop needs to see that nothing else is ready, so that it looks at its connections.
  private static let pause = TimeAmount.microseconds(100)

  init(_ loop: any EventLoop) { self.loop = loop }

  func enqueue(_ job: UnownedJob, _ lane: LoopExecutor.Lane, _ executor: UnownedTaskExecutor) {
    let wasScheduled = state.withLock { state in
      state.lanes[lane.rawValue].append(Job(job: job, executor: executor))
      defer { state.isScheduled = true }
      return state.isScheduled
    }
    if !wasScheduled { loop.execute { self.runJobs() } }
  }

  private func runJobs() {
    let end = NIODeadline.now() + Self.turn
    while let next = next() {
      next.job.runSynchronously(on: next.executor)
      if NIODeadline.now() > end {
        loop.scheduleTask(in: Self.pause) { self.runJobs() }
        return
      }
    }
  }

  private func next() -> Job? {
    state.withLock { state in
      guard let job = state.popFirst() else {
        state.isScheduled = false
        return nil
      }
      return job
    }
  }
}
