import Glibc

// Runs histories until one fails, and says how many there were.
//
//   simulate [COUNT [FIRST-SEED]]
//
// LOGSTORE_SEED runs one history again, and reports what happens in it. LOGSTORE_SIMULATIONS is the number of histories, if
// none is given; SIMULATION_PROCESSES how many run at a time; SIMULATION_SHRINKS=0 reports a failure and does not look for
// a shorter one, which may take long.

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

/// Runs each part in a process of its own, not in threads: unreadable pages are counted for the whole process, so a history
/// beside others would run differently than alone. Returns the exit status; the first process that fails ends the others.
func runInParts(_ count: Int, from first: UInt64, processes: Int) -> Int32 {
  setenv("SIMULATION_PROCESSES", "1", 1)
  var running: Set<pid_t> = []
  for number in 0..<processes {
    let range = count * number / processes..<count * (number + 1) / processes
    let words = [CommandLine.arguments[0], "\(range.count)", "\(first &+ UInt64(range.lowerBound))"]
    var pointers = words.map { strdup($0) } + [nil]
    var id: pid_t = 0
    let failure = posix_spawn(&id, "/proc/self/exe", nil, nil, &pointers, environ)
    for word in pointers { free(word) }
    if failure != 0 {
      say("no process for a part of the histories: \(String(cString: strerror(failure)))")
      return 1
    }
    running.insert(id)
  }
  var result: Int32 = 0
  while !running.isEmpty {
    var status: Int32 = 0
    let id = wait(&status)
    if id < 0 { return 1 }
    running.remove(id)
    if status != 0, result == 0 {
      result = 1
      for other in running { kill(other, SIGTERM) }
    }
  }
  if result == 0 { say("\(count) histories without a loss, \((ContinuousClock.now - start).components.seconds) s") }
  return result
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
let processes = Int(clamping: number("SIMULATION_PROCESSES") ?? 2)
let start = ContinuousClock.now
if processes > 1 { exit(runInParts(count, from: first, processes: min(processes, count))) }
say("\(count) histories from LOGSTORE_SEED=\(first) on")
let report = Runner.run(
  count: count, threads: 1, shrinks: number("SIMULATION_SHRINKS") != 0,
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
