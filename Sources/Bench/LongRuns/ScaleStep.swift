/// The measurements at one size of the log.
struct ScaleStep: Sendable {
  var events = 0
  /// Complete streams.
  var streams = 0
  var fillRate = 0.0
  /// Appends a second of many writers: to streams that they begin and go on with; each to a stream that must not be there;
  /// each to an old stream.
  var appendRate = 0.0
  var newStreamRate = 0.0
  var oldStreamRate = 0.0
  /// Microseconds of a stream's first load; of its second, when it is in memory; and of all that follow, hot.
  var firstLoadP50 = 0.0
  var firstLoadP99 = 0.0
  var secondLoadP50 = 0.0
  var secondLoadP99 = 0.0
  var loadP50 = 0.0
  var loadP99 = 0.0
  var overheadPerEvent = 0.0
  var aheadBytes = 0
  var anonymousBytes = 0
  var anonymousPeakBytes = 0
  /// Milliseconds to open after a kill: with the cache as it is then, and with the files dropped from the cache.
  var openMilliseconds = 0.0
  var coldOpenMilliseconds = 0.0
  var busyness = Busyness(othersPercent: 0, stealPercent: 0, isKnown: false)

  var json: String {
    var line = JSONLine()
    line.put("workload", "scale")
    line.put("system", "logstore")
    line.put("events", events)
    line.put("streams", streams)
    line.put("fill_events_per_second", fillRate, digits: 1)
    line.put("append_events_per_second", appendRate, digits: 1)
    line.put("append_new_stream_events_per_second", newStreamRate, digits: 1)
    line.put("append_old_stream_events_per_second", oldStreamRate, digits: 1)
    line.put("load_p50_us", loadP50, digits: 2)
    line.put("load_p99_us", loadP99, digits: 2)
    line.put("second_load_p50_us", secondLoadP50, digits: 2)
    line.put("second_load_p99_us", secondLoadP99, digits: 2)
    line.put("first_load_p50_us", firstLoadP50, digits: 2)
    line.put("first_load_p99_us", firstLoadP99, digits: 2)
    line.put("overhead_bytes_per_event", overheadPerEvent, digits: 2)
    line.put("ahead_bytes", aheadBytes)
    line.put("anonymous_bytes", anonymousBytes)
    line.put("anonymous_peak_bytes", anonymousPeakBytes)
    line.put("open_ms", openMilliseconds, digits: 2)
    line.put("open_cold_ms", coldOpenMilliseconds, digits: 2)
    line.put("busy", busyness.isBusy)
    line.put("others_cpu_percent", busyness.othersPercent, digits: 2)
    line.put("steal_percent", busyness.stealPercent, digits: 2)
    return line.text
  }

  static let heading =
    column("events", 13) + column("fill/s", 11) + column("append/s", 11) + column("new/s", 11) + column("old/s", 11)
    + column("hot load", 10) + column("p99 µs", 8) + column("second", 8) + column("p99 µs", 8) + column("first", 8)
    + column("p99 µs", 9)
    + column("B/event", 9) + column("anon MiB", 10) + column("peak", 8) + column("open ms", 9) + column("cold", 9)

  var text: String {
    var text = column(grouped(events), 13)
    for rate in [fillRate, appendRate, newStreamRate, oldStreamRate] { text += column(grouped(rate), 11) }
    text += column(fixed(loadP50, 1), 10) + column(fixed(loadP99, 1), 8)
    text += column(fixed(secondLoadP50, 1), 8) + column(fixed(secondLoadP99, 1), 8)
    text += column(fixed(firstLoadP50, 1), 8) + column(fixed(firstLoadP99, 1), 9)
    text += column(fixed(overheadPerEvent, 1), 9) + column(fixed(Double(anonymousBytes) / 1_048_576, 0), 10)
    text += column(fixed(Double(anonymousPeakBytes) / 1_048_576, 0), 8)
    return text + column(fixed(openMilliseconds, 1), 9) + column(fixed(coldOpenMilliseconds, 1), 9)
  }

  /// The conditions that must hold at every size, and from the first size to the last.
  static func verdicts(_ steps: [ScaleStep]) -> [Verdict] {
    guard let first = steps.first, let last = steps.last else { return [] }
    let size = "at \(grouped(last.events)) events"
    let opening = steps.map(\.openMilliseconds).max() ?? 0
    let peak = Double(steps.map(\.anonymousPeakBytes).max() ?? 0)
    let overhead = steps.map(\.overheadPerEvent).max() ?? 0
    var verdicts = [
      Verdict(
        workload: "open after kill -9, the slowest", bar: "≤ 200 ms", value: "\(fixed(opening, 1)) ms",
        isReached: opening <= 200),
      Verdict(
        workload: "anonymous memory, peak", bar: "≤ 256 MiB", value: bytes(peak), isReached: peak <= Double(256 << 20)),
      Verdict(
        workload: "bytes on disk beyond the payload, the most", bar: "≤ 64 an event", value: fixed(overhead, 1),
        isReached: overhead <= Bar.overheadBytes),
    ]
    if steps.count > 1 {
      let load = last.loadP50 / max(0.001, first.loadP50)
      let second = last.secondLoadP50 / max(0.001, first.secondLoadP50)
      let append = first.appendRate / max(0.001, last.appendRate)
      let than = "of that at \(grouped(first.events))"
      verdicts.append(
        Verdict(
          workload: "hot load p50 \(size)", bar: "≤ 1.3 × \(than)",
          value: "\(fixed(load, 2)) × (each stream's second load: \(fixed(second, 2)) ×)", isReached: load <= 1.3))
      verdicts.append(
        Verdict(
          workload: "time of an append \(size)", bar: "≤ 1.3 × \(than)", value: "\(fixed(append, 2)) ×",
          isReached: append <= 1.3))
    }
    return verdicts
  }
}
