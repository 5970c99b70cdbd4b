/// The result of one system in one workload, over all runs.
struct Measurement: Sendable {
  var workload: String
  var system: String
  var settings: String
  /// In all runs together.
  var events: Int
  var payloadBytes: Int
  var writers: Int
  var batch: Int
  var runs: Int
  /// Of all runs together.
  var seconds: Double
  /// Events a second.
  var rate: Spread
  /// Microseconds of one call (append, load of a stream, sight of an event); nil if there are no single calls.
  var percentiles: Percentiles?
  /// The limit's events a second.
  var limit: Double
  /// The rate divided by the limit's rate in the same run.
  var ratio: Spread
  /// LogStore's only, and only if there is a bar.
  var bar: Bar?
  var verdict: Verdict?
  var disk: DiskUse?
  var busyness: Busyness

  /// What a system's files take.
  struct DiskUse: Sendable {
    /// Bytes an event beyond its payload, without `aheadBytes`.
    var overheadPerEvent: Double
    /// Space that was only preallocated.
    var aheadBytes: Int
    /// Only LogStore's.
    var verdict: Verdict?
  }

  var mebibytesPerSecond: Double { rate.median * Double(payloadBytes) / 1_048_576 }

  var json: String {
    var line = JSONLine()
    line.put("workload", workload)
    line.put("system", system)
    line.put("events", events)
    line.put("payload_bytes", payloadBytes)
    line.put("writers", writers)
    line.put("batch", batch)
    line.put("seconds", seconds, digits: 6)
    line.put("events_per_second", rate.median, digits: 1)
    line.put("mib_per_second", mebibytesPerSecond, digits: 2)
    line.put("p50_us", percentiles?.p50, digits: 2)
    line.put("p99_us", percentiles?.p99, digits: 2)
    line.put("limit_events_per_second", limit, digits: 1)
    line.put("ratio_to_limit", ratio.median, digits: 4)
    line.put("runs", runs)
    line.put("events_per_second_min", rate.min, digits: 1)
    line.put("events_per_second_max", rate.max, digits: 1)
    line.put("ratio_to_limit_min", ratio.min, digits: 4)
    line.put("ratio_to_limit_max", ratio.max, digits: 4)
    line.put("p90_us", percentiles?.p90, digits: 2)
    line.put("p999_us", percentiles?.p999, digits: 2)
    line.put("max_us", percentiles?.max, digits: 2)
    line.put("bar", verdict?.bar ?? "")
    line.put("reached", verdict?.isReached)
    line.put("overhead_bytes_per_event", disk?.overheadPerEvent, digits: 2)
    line.put("ahead_bytes", disk.map { Double($0.aheadBytes) }, digits: 0)
    line.put("overhead_bar", disk?.verdict?.bar ?? "")
    line.put("overhead_reached", disk?.verdict?.isReached)
    line.put("busy", busyness.isBusy)
    line.put("others_cpu_percent", busyness.othersPercent, digits: 2)
    line.put("steal_percent", busyness.stealPercent, digits: 2)
    line.put("settings", settings)
    return line.text
  }
}

/// The results of one workload, from which its measurements are made.
struct WorkloadResult {
  var name: String
  var payloadBytes: Int
  var writers: Int
  var batch: Int
  var turns: [Turns]
  var busyness: Busyness
  /// LogStore's.
  var bar: Bar?
  /// What the systems' files take.
  var disk: [String: Measurement.DiskUse] = [:]

  /// One for each system, in the order of their turns. The limit must be one of them.
  func measurements() -> [Measurement] {
    guard let limit = turns.first(where: { $0.system == Contender.limit })?.rates else {
      preconditionFailure("\(name) was measured without its limit")
    }
    var all = turns.map { turns in
      Measurement(
        workload: name, system: turns.system, settings: turns.settings,
        events: turns.eventsPerTurn * turns.seconds.count, payloadBytes: payloadBytes, writers: writers, batch: batch,
        runs: turns.seconds.count, seconds: turns.seconds.reduce(0, +), rate: Spread(turns.rates),
        percentiles: turns.latencies.percentiles, limit: Spread(limit).median,
        ratio: Spread(zip(turns.rates, limit).map { $0 / $1 }), disk: disk[turns.system], busyness: busyness)
    }
    guard payloadBytes == Bar.payloadBytes, let index = all.firstIndex(where: { $0.system == Contender.logstore })
    else { return all }
    if let bar {
      let (value, isReached) = bar.judge(all[index], among: all)
      all[index].bar = bar
      all[index].verdict = Verdict(workload: name, bar: bar.text, value: value, isReached: isReached)
    }
    if let overhead = all[index].disk?.overheadPerEvent {
      all[index].disk?.verdict = Verdict(
        workload: "bytes on disk beyond the payload, \(name)", bar: "≤ \(fixed(Bar.overheadBytes, 0)) an event",
        value: fixed(overhead, 1), isReached: overhead <= Bar.overheadBytes)
    }
    return all
  }
}
