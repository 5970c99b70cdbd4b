/// The part of the report that shows a mixed run.
enum MixedReport {
  /// More stalls than these are only counted.
  private static let stallsListed = 200

  static func sections(_ result: MixedResult) -> [(heading: String, body: HTML)] {
    let windows = result.windows
    let places = windows.map { "\(fixed($0.endSecond, windows.count < 8 ? 1 : 0)) s" }
    func series(_ name: String, _ color: String, _ value: (MixedResult.Window) -> Double?) -> LineChart.Series {
      LineChart.Series(name: name, color: color, values: windows.map(value))
    }
    let disk = series("disk max", "limit") { $0.probe.percentiles?.max }
    func times(
      _ title: String, _ meter: @escaping (MixedResult.Window) -> Percentiles?
    ) -> LineChart {
      LineChart(
        title: title, places: places,
        series: [
          series("p50", "logstore") { meter($0)?.p50 }, series("p99", "sqlite") { meter($0)?.p99 },
          series("max", "alarm") { meter($0)?.max }, disk,
        ], unit: .microseconds)
    }
    let charts = [
      times("append, synced") { $0.append.percentiles },
      times("append to seen by the tail") { $0.tail.percentiles },
      times("load of a stream") { $0.load.percentiles },
      LineChart(
        title: "events a second", places: places,
        series: [
          LineChart.Series(name: "appended", color: "logstore", values: rates(windows))
        ], unit: .perSecond, isAlwaysLinear: true),
      LineChart(
        title: "anonymous memory, peak of each window", places: places,
        series: [series("bytes", "logstore") { Double($0.anonymousBytes) }], unit: .bytes,
        mark: (Double(256 << 20), "bar 256 MiB"), isAlwaysLinear: true),
    ]
    return [
      ("Over time", "\(summary(result))<div class=\"charts\">\(charts.map(\.svg))</div>\n\(table(windows))"),
      ("Stalls", stalls(result)),
    ]
  }

  private static func rates(_ windows: [MixedResult.Window]) -> [Double?] {
    var before = 0.0
    return windows.map { window in
      defer { before = window.endSecond }
      return Double(window.append.count) / max(0.001, window.endSecond - before)
    }
  }

  private static func summary(_ result: MixedResult) -> HTML {
    """
    <p>\(grouped(result.events)) events in \(fixed(result.seconds, 0)) s, \
    \(grouped(Double(result.events) / max(0.001, result.seconds))) a second, in \(result.segments) segments.</p>
    """
  }

  private static func table(_ windows: [MixedResult.Window]) -> HTML {
    let headings = [
      "second", "events", "append p50 µs", "p99", "p99.9", "max", "tail p50 µs", "p99", "max", "load p50 µs", "p99",
      "max", "disk p50 µs", "max", "anonymous",
    ]
    func cells(_ values: [Double?]) -> [HTML] { values.map { "\($0.map { fixed($0, 1) } ?? "")" } }
    let rows = windows.map { window -> [HTML] in
      let (append, tail) = (window.append.percentiles, window.tail.percentiles)
      let (load, probe) = (window.load.percentiles, window.probe.percentiles)
      return ["\(fixed(window.endSecond, 1))", "\(grouped(window.append.count))"]
        + cells([append?.p50, append?.p99, append?.p999, append?.max, tail?.p50, tail?.p99, tail?.max])
        + cells([load?.p50, load?.p99, load?.max, probe?.p50, probe?.max])
        + ["\(bytes(Double(window.anonymousBytes)))"]
    }
    return HTML.table(headings, rows)
  }

  private static func stalls(_ result: MixedResult) -> HTML {
    guard !result.stalls.isEmpty else {
      return "<p>No call took over 50 ms more than the disk by itself in the same time.</p>"
    }
    let rows = result.stalls.prefix(stallsListed).map { stall -> [HTML] in
      [
        "\(fixed(stall.second, 1))", "\(stall.what)", "\(fixed(stall.milliseconds, 1))",
        "\(fixed(stall.diskMilliseconds, 1))",
      ]
    }
    let more = result.stalls.count - rows.count
    let note: HTML = more > 0 ? "<p>And \(more) more.</p>" : ""
    return "\(HTML.table(["second", "what", "ms", "the disk at most"], Array(rows)))\(note)"
  }

  static func method(_ workload: MixedWorkload) -> [String] {
    [
      """
      \(workload.writers) tasks appended one event each, synced, to streams that they began and went on with, at the \
      version expected; payloads of \(workload.shape.payloadBytes) bytes, segments of \
      \(bytes(Double(workload.segmentBytes))). One reader tailed the log in the same process; a thread loaded \
      \(workload.loadsPerSecond) random whole streams a second; segments ended and were indexed all the while. The cache of streams was \
      set to \(bytes(Double(MixedWorkload.streamCacheBytes))), so that it is full soon and anything that grows is seen.
      """,
      """
      A probe wrote and synced a frame of the same size into a file of its own on the same disk, \
      \(MixedWorkload.probesPerSecond) times a second: what it met, the disk did. A call that took over \
      \(fixed(MixedWorkload.stallMilliseconds, 0)) ms more than the probe's longest in the same window is a stall. Calls \
      that overlap in time are one stall.
      """,
    ]
  }
}
