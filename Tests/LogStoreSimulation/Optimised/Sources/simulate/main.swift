import Glibc

// Runs histories until one fails, and says how many there were.
//
//   simulate [COUNT [FIRST-SEED]]
//
// LOGSTORE_SEED runs one again, and tells what happens in it. LOGSTORE_SIMULATIONS is the number of histories, if none is given;
// SIMULATION_THREADS how many run at a time; SIMULATION_SHRINKS=0 tells of a failure and does not look for a shorter one, which may take long.

func number(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }

/// At once, into a pipe too.
@Sendable func say(_ text: String) {
  let line = Array((text + "\n").utf8)
  var done = 0
  while done < line.count {
    let count = line.withUnsafeBytes { write(1, $0.baseAddress.map { $0 + done }, line.count - done) }
    if count <= 0 { return }
    done += count
  }
}

let arguments = CommandLine.arguments
if let seed = SeededGenerator.givenSeed {
  let report = Runner.run(count: 1, threads: 1, shrinks: number("SIMULATION_SHRINKS") != 0, seeds: { _ in seed })
  if let failed = report.failed {
    say(failed.shrunk)
    say("failed: \(failed.problem)")
    exit(1)
  }
  say("LOGSTORE_SEED=\(seed) holds")
  exit(0)
}
let count = arguments.count > 1 ? Int(arguments[1]) ?? 0 : Int(number("LOGSTORE_SIMULATIONS") ?? 20_000)
let first = arguments.count > 2 ? UInt64(arguments[2]) ?? 0 : UInt64.random(in: 0 ... .max / 2)
guard count > 0 else {
  say("simulate [COUNT [FIRST-SEED]]")
  exit(64)
}
let threads = Int(number("SIMULATION_THREADS") ?? 2)
say("\(count) histories from LOGSTORE_SEED=\(first) on")
let start = ContinuousClock.now
let report = Runner.run(
  count: count, threads: threads, shrinks: number("SIMULATION_SHRINKS") != 0,
  seeds: { first &+ UInt64($0) },
  tell: { soFar in
    if soFar.histories % 10_000 == 0 {
      say("\(soFar.histories) histories, \((ContinuousClock.now - start).components.seconds) s")
    }
  })
let seconds = (ContinuousClock.now - start).components.seconds
if let failed = report.failed {
  say(failed.shrunk)
  say("history \(failed.histories) failed, LOGSTORE_SEED=\(failed.seed): \(failed.problem)")
  exit(1)
}
say(
  "\(report.histories) histories without a loss: \(report.events) events, \(report.turns) turns of threads,"
    + " \(seconds) s")
