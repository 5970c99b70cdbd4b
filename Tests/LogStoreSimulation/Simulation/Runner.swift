import CFibers
import Glibc
import Synchronization

@testable import LogStore

/// Runs histories one after the other, on a few threads at a time.
final class Runner: Sendable {
  struct Failed: Sendable {
    var seed: UInt64
    /// Histories that were begun until then.
    var histories: Int
    var problem: String
    /// The same history, as short as possible, and everything that was done in it.
    var shrunk: String
  }

  struct Report: Sendable {
    var histories = 0
    var turns = 0
    var events = 0
    var failed: Failed?
  }

  private let seeds: @Sendable (Int) -> UInt64
  private let count: Int
  private let shrinks: Bool
  private let next = Atomic(0)
  private let report = Mutex(Report())
  private let tell: (@Sendable (Report) -> Void)?

  private init(
    count: Int, shrinks: Bool, seeds: @escaping @Sendable (Int) -> UInt64, tell: (@Sendable (Report) -> Void)?
  ) {
    self.count = count
    self.shrinks = shrinks
    self.seeds = seeds
    self.tell = tell
  }

  /// Runs a number of histories, or as many as it takes until one fails. Blocks.
  ///
  /// - Parameter seeds: the seed of a history by its number.
  /// - Parameter tell: called from time to time.
  static func run(
    count: Int, threads: Int, shrinks: Bool = true, seeds: @escaping @Sendable (Int) -> UInt64,
    tell: (@Sendable (Report) -> Void)? = nil
  ) -> Report {
    fiber_report_crashes()
    let runner = Runner(count: count, shrinks: shrinks, seeds: seeds, tell: tell)
    let done = Mailbox<Void>(nil)
    for number in 0..<threads {
      startTestThread("simulation") {
        runner.work(number)
        _ = done.send(())
      }
    }
    var ended = 0
    var taken: [Void] = []
    while ended < threads, done.receive(into: &taken) {
      ended += taken.count
      taken.removeAll()
    }
    return runner.report.withLock { $0 }
  }

  private func work(_ worker: Int) {
    var pool = FiberPool()
    while true {
      let number = next.wrappingAdd(1, ordering: .relaxed).oldValue
      guard number < count, report.withLock({ $0.failed == nil }) else { return }
      let seed = seeds(number)
      fiber_note_seed(Int32(worker), seed)
      let outcome = Simulation.run(Plan(seed: seed), pool: pool)
      let soFar = report.withLock { report -> Report? in
        report.histories += 1
        report.turns += outcome.turns
        report.events += outcome.events
        return report.histories % 1000 == 0 ? report : nil
      }
      if let soFar { tell?(soFar) }
      guard let problem = outcome.problem else { continue }
      // What a failed history leaves may be stuck.
      pool = FiberPool()
      let isFirst = report.withLock { report in
        if report.failed != nil { return false }
        report.failed = Failed(seed: seed, histories: report.histories, problem: problem, shrunk: "")
        return true
      }
      if isFirst, shrinks || seeds(0) == SeededGenerator.givenSeed {
        let text = Self.explain(seed, shrinks: shrinks)
        report.withLock { $0.failed?.shrunk = text }
      }
      return
    }
  }

  /// Shrinks a failing history if that is wanted, and reports everything that happens in it.
  static func explain(_ seed: UInt64, shrinks: Bool = true) -> String {
    let whole = Plan(seed: seed)
    let (plan, outcome) =
      shrinks ? whole.shrunk { FiberPool() } : (whole, Simulation.run(whole, pool: FiberPool()))
    let traced = Simulation.run(plan, pool: FiberPool(), isTraced: true)
    return """
      \(plan)
      \(outcome.problem ?? "")
      what happened:
      \(traced.operations.joined(separator: "\n"))
      """
  }
}

/// Runs `body` on a thread of its own; a machine that has none ends the test.
func startTestThread(_ name: String, _ body: @escaping @Sendable () -> Void) {
  do throws(LogStoreError) {
    try startThread(name, nil, body)
  } catch {
    preconditionFailure("\(error)")
  }
}
