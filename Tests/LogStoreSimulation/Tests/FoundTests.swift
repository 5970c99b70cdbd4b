import CFibers
import Glibc
import Testing

@testable import LogStore

/// Bugs that the simulation has found, as the short histories that they were reduced to. Each runs in many orders.
@Suite struct FoundTests {
  private func expectHolds(count: Int = 150, _ make: @escaping @Sendable (UInt64) -> Plan) async {
    let first = SeededGenerator.givenSeed ?? .random(in: 0 ... .max / 2)
    let problem: String? = await withUnsafeContinuation { continuation in
      startTestThread("histories") {
        let pool = FiberPool()
        var problem: String?
        for seed in first..<first + UInt64(count) where problem == nil {
          let plan = make(seed)
          if let found = Simulation.run(plan, pool: pool).problem { problem = "\(found)\n\(plan)" }
        }
        continuation.resume(returning: problem)
      }
    }
    #expect(problem == nil)
  }

  private static func life(
    _ steps: [Plan.Step.Kind] = [], seed: UInt64, end: Plan.End = .close, dieAt: Int? = nil,
    failures: [Plan.Failure] = []
  ) -> Plan.Life {
    var generator = SeededGenerator(seed)
    return Plan.Life(
      steps: steps.map { Plan.Step(kind: $0, seed: generator.next()) }, end: end, dieAt: dieAt, failures: failures)
  }

  @Test("a reader that waits for a writer to open the store opens it itself when that writer dies")
  func readerWaitsForDyingWriter() async {
    await expectHolds { seed in
      Plan(
        seed: seed, payloadByteCount: 200,
        lives: [
          Self.life(seed: seed, end: .powerCut(keep: 50)),
          Self.life([.openReader], seed: seed, end: .kill, dieAt: 4 + Int(seed % 4)),
        ])
    }
  }

  @Test("a reader gives up in time when a writer stopped before it could say that the store is open")
  func readerWaitsForStoppedWriter() async {
    await expectHolds(count: 4) { seed in
      Plan(
        seed: seed, payloadByteCount: 200,
        lives: [
          Self.life(seed: seed),
          Self.life(
            [.openReader], seed: seed, failures: [Plan.Failure(first: 4, count: 1, code: EIO, scope: .any)]),
        ])
    }
  }

  @Test("an append that repeats a buffered one is recognised before that is synced")
  func repeatOfBuffered() async {
    await expectHolds { seed in
      Plan(
        seed: seed, payloadByteCount: 6000,
        lives: [Self.life([.appendBuffered, .sendAgain, .appendBuffered, .sendAgain], seed: seed)])
    }
  }

  @Test("zeros that an opening could not sync are written again by the next one")
  func unsyncedZeros() async {
    await expectHolds { seed in
      Plan(
        seed: seed, payloadByteCount: 1500,
        lives: [
          Self.life([.appendBuffered, .append], seed: seed, end: .powerCut(keep: 50)),
          Self.life(
            seed: seed, failures: [Plan.Failure(first: 1, count: 1 + Int(seed % 4), code: ENOSPC, scope: .syncs)]),
        ])
    }
  }

  @Test("a reader is not led astray when a segment without events gives way to another one of its name")
  func replacedSegment() async {
    await expectHolds { seed in
      Plan(
        seed: seed, payloadByteCount: 30_000,
        lives: [Self.life([.commitCursor, .appendBuffered, .openReader, .append], seed: seed)])
    }
  }

  @Test("verify is not led astray when a segment without events gives way to another one of its name")
  func verifiedBesideReplacement() async {
    await expectHolds(count: 400) { seed in
      Plan(
        seed: seed, payloadByteCount: 30_000,
        lives: [Self.life([.commitCursor, .appendBuffered, .appendBuffered, .verify], seed: seed)])
    }
  }

  @Test("a disk that ignores syncs is found out, and the history is made short")
  func lyingDisk() async {
    let found: (plan: Plan, problem: String)? = await withUnsafeContinuation { continuation in
      startTestThread("histories") {
        for seed in 0..<UInt64(500) {
          var plan = Plan(seed: seed)
          plan.noise.ignoresSyncOneIn = 2
          guard Simulation.run(plan, pool: FiberPool()).problem != nil else { continue }
          let (shrunk, outcome) = plan.shrunk(runsMax: 500) { FiberPool() }
          return continuation.resume(returning: (shrunk, outcome.problem ?? ""))
        }
        continuation.resume(returning: nil)
      }
    }
    guard let found else {
      Issue.record("500 histories on a disk that ignores every second sync, and nothing is missed")
      return
    }
    #expect(!found.problem.isEmpty)
    let steps = found.plan.lives.reduce(0) { $0 + $1.steps.count }
    #expect(found.plan.lives.count <= 3 && steps <= 6, "\(found.plan)")
  }
}
