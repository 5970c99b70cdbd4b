/// The result of a mixed run.
struct MixedResult: Sendable {
  struct Window: Sendable {
    var endSecond: Double
    var append: (count: Int, percentiles: Percentiles?)
    var tail: (count: Int, percentiles: Percentiles?)
    var load: (count: Int, percentiles: Percentiles?)
    var probe: (count: Int, percentiles: Percentiles?)
    /// The most in the window.
    var anonymousBytes: Int
  }

  /// A period in which a call took too long, compared with the disk's own longest time in its windows.
  struct Stall: Sendable {
    var what: String
    var second: Double
    var milliseconds: Double
    var diskMilliseconds: Double
  }

  var start: UInt64
  var windowSeconds: Double
  var windows: [Window] = []
  var stalls: [Stall] = []
  var segments = 0
  var append: Percentiles?
  var tail: Percentiles?
  var load: Percentiles?
  var probe: Percentiles?
  var busyness = Busyness(othersPercent: 0, stealPercent: 0, isKnown: false)

  init(start: UInt64, windowSeconds: Double) {
    self.start = start
    self.windowSeconds = windowSeconds
  }

  var events: Int { windows.reduce(0) { $0 + $1.append.count } }
  var seconds: Double { windows.last?.endSecond ?? 0 }

  /// Takes the measurements after the last window, and finds the stalls.
  mutating func finish(_ meters: MixedMeters) {
    if var last = windows.popLast() {
      // Appends that were in flight at the end, and the times at which they were seen.
      last.append.count += meters.append.take().count
      last.tail.count += meters.tail.take().count
      _ = (meters.load.take(), meters.probe.take())
      windows.append(last)
    }
    append = meters.append.all.percentiles
    tail = meters.tail.all.percentiles
    load = meters.load.all.percentiles
    probe = meters.probe.all.percentiles
    for meter in [meters.append, meters.tail, meters.load] {
      for stall in meter.stalls {
        let milliseconds = Double(stall.end - stall.start) / 1e6
        let (from, to) = (Double(stall.start - start) / 1e9, Double(stall.end - start) / 1e9)
        let disk = diskMilliseconds(from: from, to: to)
        guard milliseconds > disk + MixedWorkload.stallMilliseconds else { continue }
        stalls.append(Stall(what: meter.name, second: from, milliseconds: milliseconds, diskMilliseconds: disk))
      }
    }
    stalls.sort { $0.second < $1.second }
  }

  /// The longest time of the probe in any of the windows that a period touches.
  private func diskMilliseconds(from: Double, to: Double) -> Double {
    var longest = 0.0
    var begin = 0.0
    for (index, window) in windows.enumerated() {
      let end = index == windows.count - 1 ? .infinity : window.endSecond
      if from < end, to >= begin { longest = max(longest, (window.probe.percentiles?.max ?? 0) / 1000) }
      begin = window.endSecond
    }
    return longest
  }

  /// Peaks of the second quarter of the time and of the last: the first is for warming up.
  private var memory: (early: Int, late: Int) {
    let peaks = windows.map(\.anonymousBytes)
    guard peaks.count >= 4 else { return (peaks.first ?? 0, peaks.last ?? 0) }
    let quarter = peaks.count / 4
    return (peaks[quarter..<2 * quarter].max() ?? 0, peaks.suffix(quarter).max() ?? 0)
  }

  /// A tenth more, or as much as an allocator keeps in reserve, still counts as flat.
  private static let flatBytes = 8 << 20

  var verdicts: [Verdict] {
    let (early, late) = memory
    let worst = stalls.map { $0.milliseconds - $0.diskMilliseconds }.max()
    return [
      Verdict(
        workload: "stalls of more than 50 ms beyond the disk's own", bar: "none",
        value: "\(stalls.count)" + (worst.map { ", the longest \(fixed($0, 0)) ms beyond" } ?? ""),
        isReached: stalls.isEmpty),
      Verdict(
        workload: "anonymous memory, last quarter against second", bar: "flat",
        value: "\(bytes(Double(late))) against \(bytes(Double(early)))",
        // In a quarter of a short run nothing could grow.
        isReached: windows.count >= 8 ? late <= early + max(early / 10, Self.flatBytes) : nil),
      Verdict(
        workload: "anonymous memory, peak", bar: "≤ 256 MiB",
        value: bytes(Double(windows.map(\.anonymousBytes).max() ?? 0)),
        isReached: (windows.map(\.anonymousBytes).max() ?? 0) <= 256 << 20),
    ]
  }

  /// One line of JSON for the whole run.
  var json: String {
    var line = JSONLine()
    line.put("workload", "mixed")
    line.put("system", Contender.logstore)
    line.put("seconds", seconds, digits: 3)
    line.put("events", events)
    line.put("events_per_second", Double(events) / max(seconds, 0.001), digits: 1)
    line.put("segments", segments)
    for (name, percentiles) in [("append", append), ("tail", tail), ("load", load), ("probe", probe)] {
      line.put("\(name)_p50_us", percentiles?.p50, digits: 1)
      line.put("\(name)_p99_us", percentiles?.p99, digits: 1)
      line.put("\(name)_p999_us", percentiles?.p999, digits: 1)
      line.put("\(name)_max_us", percentiles?.max, digits: 1)
    }
    line.put("stalls", stalls.count)
    line.put("anonymous_early_bytes", memory.early)
    line.put("anonymous_late_bytes", memory.late)
    line.put("anonymous_peak_bytes", windows.map(\.anonymousBytes).max() ?? 0)
    line.put("busy", busyness.isBusy)
    line.put("others_cpu_percent", busyness.othersPercent, digits: 2)
    line.put("steal_percent", busyness.stealPercent, digits: 2)
    return line.text
  }
}

extension MixedResult.Window {
  static let heading =
    column("second", 8) + column("events", 12) + column("append p50", 12) + column("p99 µs", 10) + column("max µs", 11)
    + column("tail p99", 11) + column("max µs", 11) + column("load p50", 10) + column("max µs", 11)
    + column("disk max", 11) + column("anon MiB", 10)

  var text: String {
    func microseconds(_ value: Double?, _ width: Int) -> String { column(value.map { fixed($0, 1) } ?? "", width) }
    var text = column(fixed(endSecond, 1), 8) + column(grouped(append.count), 12)
    text += microseconds(append.percentiles?.p50, 12) + microseconds(append.percentiles?.p99, 10)
    text += microseconds(append.percentiles?.max, 11) + microseconds(tail.percentiles?.p99, 11)
    text += microseconds(tail.percentiles?.max, 11) + microseconds(load.percentiles?.p50, 10)
    text += microseconds(load.percentiles?.max, 11) + microseconds(probe.percentiles?.max, 11)
    return text + column(fixed(Double(anonymousBytes) / 1_048_576, 1), 10)
  }

  var json: String {
    var line = JSONLine()
    line.put("workload", "mixed window")
    line.put("system", Contender.logstore)
    line.put("second", endSecond, digits: 3)
    line.put("events", append.count)
    for (name, percentiles) in [
      ("append", append.percentiles), ("tail", tail.percentiles), ("load", load.percentiles),
      ("probe", probe.percentiles),
    ] {
      line.put("\(name)_p50_us", percentiles?.p50, digits: 1)
      line.put("\(name)_p99_us", percentiles?.p99, digits: 1)
      line.put("\(name)_p999_us", percentiles?.p999, digits: 1)
      line.put("\(name)_max_us", percentiles?.max, digits: 1)
    }
    line.put("anonymous_bytes", anonymousBytes)
    return line.text
  }
}

extension MixedResult.Stall {
  var json: String {
    var line = JSONLine()
    line.put("workload", "mixed stall")
    line.put("system", Contender.logstore)
    line.put("what", what)
    line.put("second", second, digits: 3)
    line.put("milliseconds", milliseconds, digits: 1)
    line.put("disk_milliseconds", diskMilliseconds, digits: 1)
    return line.text
  }

  var text: String {
    "stall at second \(fixed(second, 1)): \(what) \(fixed(milliseconds, 1)) ms, the disk by itself at most "
      + "\(fixed(diskMilliseconds, 1)) ms"
  }
}
