import LogStore

/// One system in a workload, ready to take its turns.
struct Contender: Sendable {
  var system: String
  /// Its settings, for readers of the numbers.
  var settings: String
  var eventsPerTurn: Int
  /// Takes one turn. Returns the seconds that it took, without work that isn't the system's own, and records the times of
  /// single calls if there are any.
  var turn: @Sendable (_ run: Int, _ latencies: Latencies) async throws -> Double
  /// Waits until nothing of the turn continues in the background during the next one.
  var rest: @Sendable () throws -> Void = {}

  static let limit = "limit"
  static let logstore = "logstore"
}

/// The results of a contender's turns, without the first, which doesn't count.
struct Turns: Sendable {
  var system: String
  var settings: String
  var eventsPerTurn: Int
  var seconds: [Double] = []
  var latencies = Latencies()

  var rates: [Double] { seconds.map { Double(eventsPerTurn) / $0 } }
}

/// Lets every contender take its turn in each run, so that a slow phase of the machine slows all of them. Waits for a
/// turn's background work before the next turn. A first round of all doesn't count.
func interleave(
  _ contenders: [Contender], runs: Int, workload: String, _ reporter: Reporter
) async throws -> [Turns] {
  var results = contenders.map {
    Turns(system: $0.system, settings: $0.settings, eventsPerTurn: $0.eventsPerTurn)
  }
  for run in 0...runs {
    for index in order(run: run, count: contenders.count) {
      let contender = contenders[index]
      reporter.progress("\(workload): run \(run) of \(runs), \(contender.system)")
      let latencies = Latencies()
      let seconds = try await contender.turn(run, latencies)
      try await onThread(contender.rest)
      guard run > 0 else { continue }
      results[index].seconds.append(seconds)
      results[index].latencies.add(latencies)
    }
  }
  return results
}

/// The order of the contenders in a run. Over the runs each follows each other one about equally often: a Latin square that
/// is balanced for carry-over effects (E. J. Williams, 1949), with its mirror image for odd numbers.
func order(run: Int, count: Int) -> [Int] {
  // 0, 1, last, 2, last but one, …
  let zigzag = (0..<count).map { $0 == 0 ? 0 : $0 % 2 == 1 ? ($0 + 1) / 2 : count - $0 / 2 }
  let moved = zigzag.map { ($0 + run) % count }
  return count % 2 == 1 && run % 2 == 1 ? moved.reversed() : moved
}

/// Median and spread of one value over the runs.
struct Spread: Sendable {
  var median: Double
  var min: Double
  var max: Double

  init(_ values: [Double]) {
    let sorted = values.sorted()
    precondition(!sorted.isEmpty, "a spread of nothing")
    let middle = sorted.count / 2
    median = sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    min = sorted[0]
    max = sorted[sorted.count - 1]
  }
}

/// Seconds that `body` took.
func time(_ body: () async throws -> Void) async rethrows -> Double {
  let start = nowNanoseconds()
  try await body()
  return Double(nowNanoseconds() - start) / 1e9
}

/// Runs `body` once for each writer, each on a thread of its own, waits for all, then runs `last`, also on a thread.
/// Returns the seconds of all that. `body` returns the times of its calls, which are recorded afterwards.
func onThreads(
  _ writers: Int, _ latencies: Latencies, _ body: @escaping @Sendable (_ writer: Int) throws -> [UInt64],
  then last: @escaping @Sendable () throws -> Void = {}
) async throws -> Double {
  let start = nowNanoseconds()
  let times = try await withThrowingTaskGroup(of: [UInt64].self) { group in
    for writer in 0..<writers { group.addTask { try await onThread { try body(writer) } } }
    return try await group.reduce(into: []) { $0.append($1) }
  }
  try await onThread(last)
  let seconds = Double(nowNanoseconds() - start) / 1e9
  for times in times { latencies.record(times) }
  return seconds
}
