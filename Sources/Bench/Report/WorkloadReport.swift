/// The part of the report that shows workloads: rates, times of calls, ratios to the limit, and all numbers.
enum WorkloadReport {
  /// A section for each workload, in the order measured.
  static func sections(_ measurements: [Measurement]) -> [(heading: String, body: HTML)] {
    var names: [String] = []
    for measurement in measurements where names.last != measurement.workload { names.append(measurement.workload) }
    return names.map { name in (name, body(measurements.filter { $0.workload == name })) }
  }

  /// Every system with its settings; LogStore's and the limit's are another for each workload and stand there.
  static func settings(_ measurements: [Measurement]) -> [(system: String, text: String)] {
    var settings: [(system: String, text: String)] = []
    for kind in PeerKind.allCases {
      guard let found = measurements.first(where: { $0.system == kind.rawValue }) else { continue }
      settings.append((kind.rawValue, found.settings))
    }
    return settings
  }

  static func method(runs: Int, payloadBytes: Int) -> [String] {
    [
      """
      In each of \(runs) runs every system took its turn, in an order that moved on by one from run to run; a round before \
      was not counted. A rate is the median over the runs, the thin line its least and greatest. A ratio is taken to the \
      limit's rate in the same run. Times of calls are those of all counted runs together, to three digits.
      """,
      """
      Every payload had \(payloadBytes) bytes. All systems kept the log by offset and a unique stream and version, looked up \
      the streams' last versions in each append, and kept the same promise: synced appends were on disk when they \
      returned, buffered ones at the end of the turn. LogStore's writers were tasks, the other systems' threads.
      """,
      """
      Where appends wait for each other's syncs anyway, SQLite and LMDB with many writers, a turn had fewer of them. \
      LogStore checks all that it reads; of the others only RocksDB has checksums, which it looks at when it fetches a \
      block from its file, and not again.
      """,
    ]
  }

  private static func body(_ measurements: [Measurement]) -> HTML {
    var charts: [HTML] = []
    // Of a tail the rate is that of one writer, and says nothing of the tail.
    let isTail = measurements.contains { $0.workload.hasPrefix("tail") }
    if !isTail {
      charts.append(
        BarChart(
          title: "events a second", bars: measurements.map { BarChart.Bar(system: $0.system, spread: $0.rate) },
          unit: .perSecond
        ).svg)
      charts.append(ratios(measurements))
    }
    let timed = measurements.compactMap { measured in measured.percentiles.map { (measured.system, $0) } }
    if !timed.isEmpty { charts.append(latencies(timed, measurements)) }
    let (logstore, limit) = (text(Contender.logstore, measurements), text(Contender.limit, measurements))
    return """
      <p class="quiet">LogStore: \(logstore). Limit: \(limit).</p>
      <div class="charts">\(charts)</div>
      \(table(measurements))
      """
  }

  private static func text(_ system: String, _ measurements: [Measurement]) -> String {
    measurements.first { $0.system == system }?.settings ?? "not measured"
  }

  private static func ratios(_ measurements: [Measurement]) -> HTML {
    var mark: (value: Double, name: String) = (1, "the limit")
    if case .ratio(let bar, _)? = measurements.compactMap(\.bar).first { mark = (bar, "bar \(fixed(bar, 2))") }
    return BarChart(
      title: "ratio to the limit of the same run",
      bars: measurements.filter { $0.system != Contender.limit }.map {
        BarChart.Bar(system: $0.system, spread: $0.ratio)
      }, unit: .ratio, mark: mark, isAlwaysLinear: true
    ).svg
  }

  private static func latencies(_ rows: [(String, Percentiles)], _ measurements: [Measurement]) -> HTML {
    var mark: (microseconds: Double, name: String)?
    switch measurements.compactMap(\.bar).first {
    case .p99(let bar)?: mark = (bar, "bar for p99")
    case .medianOf(let peer)?:
      if let p50 = measurements.first(where: { $0.system == peer.rawValue })?.percentiles?.p50 {
        mark = (p50, "bar for p50")
      }
    case .ratio?, nil: break
    }
    return LatencyChart(title: "time of one call", rows: rows, mark: mark).svg
  }

  private static func table(_ measurements: [Measurement]) -> HTML {
    let hasDisk = measurements.contains { $0.disk != nil }
    var headings = ["", "events/s", "min … max", "MiB/s"] + Percentiles.names.map { "\($0) µs" }
    headings += ["ratio", "min … max"] + (hasDisk ? ["bytes/event beyond payload"] : [])
    let rows = measurements.map { measured -> [HTML] in
      var row: [HTML] = [
        "\(measured.system)", "\(grouped(measured.rate.median))",
        "\(grouped(measured.rate.min)) … \(grouped(measured.rate.max))", "\(fixed(measured.mebibytesPerSecond, 1))",
      ]
      row += measured.percentiles?.values.map { "\(fixed($0, 1))" } ?? Array(repeating: "", count: 5)
      row.append("\(fixed(measured.ratio.median, 2))")
      row.append("\(fixed(measured.ratio.min, 2)) … \(fixed(measured.ratio.max, 2))")
      if hasDisk { row.append("\(measured.disk.map { fixed($0.overheadPerEvent, 1) } ?? "")") }
      return row
    }
    let ahead = measurements.compactMap(\.disk).first { $0.aheadBytes > 0 }
    let note: HTML =
      ahead.map {
        """
        <p class="quiet">LogStore's last segment has \(bytes(Double($0.aheadBytes))) more that are only written ahead; \
        they are not in the bytes an event.</p>
        """
      } ?? ""
    return "\(HTML.table(headings, rows))\(note)"
  }
}
