import Glibc
import Testing

@testable import LogStore

/// One after the other: unreadable pages are counted for the whole process, and could affect another history.
@Suite(.serialized) struct SimulationTests {
  /// Here, unoptimised, only a few: `make test` runs many more with the program in `Optimised`.
  static let histories = getenv("LOGSTORE_SIMULATIONS").flatMap { Int(String(cString: $0)) } ?? 200

  /// Runs on threads of the operating system, so that no task thread waits for it.
  static func runs(_ count: Int, _ seeds: @escaping @Sendable (Int) -> UInt64) async -> Runner.Report {
    await withUnsafeContinuation { continuation in
      startTestThread("histories") {
        continuation.resume(returning: Runner.run(count: count, threads: 2, seeds: seeds))
      }
    }
  }

  @Test("whatever is asked and whatever fails, in whatever order threads run: the log is what the model says")
  func histories() async {
    let first = SeededGenerator.givenSeed ?? .random(in: 0 ... .max / 2)
    print("LOGSTORE_SEED=\(first) and the ones after it")
    let report = await Self.runs(SeededGenerator.givenSeed == nil ? Self.histories : 1) { first &+ UInt64($0) }
    if let failed = report.failed {
      Issue.record("LOGSTORE_SEED=\(failed.seed): \(failed.problem)\n\(failed.shrunk)")
    }
    #expect(report.turns > report.histories)
  }

  @Test("one seed is one history: run again, every operation is the same, in the same order")
  func determinism() async {
    let first = UInt64.random(in: 0 ... .max / 2)
    let differing: [UInt64] = await withUnsafeContinuation { continuation in
      startTestThread("histories") {
        let pool = FiberPool()
        continuation.resume(
          returning: (0..<100).map { first &+ $0 }.filter { seed in
            let plan = Plan(seed: seed)
            let outcomes = (Simulation.run(plan, pool: pool), Simulation.run(plan, pool: pool))
            return outcomes.0.digest != outcomes.1.digest || outcomes.0.turns != outcomes.1.turns
          })
      }
    }
    #expect(differing == [], "seeds that are not one history")
  }
}
