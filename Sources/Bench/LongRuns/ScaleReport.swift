/// The part of the report that shows a growing log.
enum ScaleReport {
  static func sections(_ steps: [ScaleStep]) -> [(heading: String, body: HTML)] {
    let places = steps.map { Unit.plain.text(Double($0.events)) }
    func series(_ name: String, _ color: String, _ value: (ScaleStep) -> Double) -> LineChart.Series {
      LineChart.Series(name: name, color: color, values: steps.map(value))
    }
    let charts = [
      LineChart(
        title: "synced appends a second", places: places,
        series: [
          series("going on", "logstore") { $0.appendRate }, series("new", "lmdb") { $0.newStreamRate },
          series("old", "rocksdb") { $0.oldStreamRate },
        ], unit: .perSecond, isAlwaysLinear: true),
      LineChart(
        title: "load of a stream", places: places,
        series: [
          series("hot p50", "logstore") { $0.loadP50 }, series("hot p99", "lmdb") { $0.loadP99 },
          series("first p50", "rocksdb") { $0.firstLoadP50 }, series("first p99", "limit") { $0.firstLoadP99 },
        ], unit: .microseconds),
      LineChart(
        title: "open after kill -9", places: places,
        series: [
          series("as it is", "logstore") { $0.openMilliseconds },
          series("not cached", "lmdb") { $0.coldOpenMilliseconds },
        ], unit: .milliseconds, mark: (200, "bar 200 ms"), isAlwaysLinear: true),
      LineChart(
        title: "anonymous memory", places: places,
        series: [
          series("now", "logstore") { Double($0.anonymousBytes) },
          series("peak", "lmdb") { Double($0.anonymousPeakBytes) },
        ], unit: .bytes, mark: (Double(256 << 20), "bar 256 MiB"), isAlwaysLinear: true),
      LineChart(
        title: "bytes on disk an event beyond its payload", places: places,
        series: [series("bytes", "logstore") { $0.overheadPerEvent }], unit: .plain,
        mark: (Bar.overheadBytes, "bar 64"), isAlwaysLinear: true),
      LineChart(
        title: "filled, events a second", places: places, series: [series("fill", "logstore") { $0.fillRate }],
        unit: .perSecond, isAlwaysLinear: true),
    ]
    return [("As the log grows", "<div class=\"charts\">\(charts.map(\.svg))</div>\n\(table(steps))")]
  }

  private static func table(_ steps: [ScaleStep]) -> HTML {
    let headings = [
      "events", "streams", "fill/s", "append/s", "to new/s", "to old/s", "hot load p50 µs", "p99 µs",
      "second load p50 µs", "p99 µs", "first load p50 µs", "p99 µs", "bytes/event beyond payload", "anonymous", "peak",
      "open ms", "not cached",
    ]
    let rows = steps.map { step -> [HTML] in
      [
        "\(grouped(step.events))", "\(grouped(step.streams))", "\(grouped(step.fillRate))",
        "\(grouped(step.appendRate))", "\(grouped(step.newStreamRate))", "\(grouped(step.oldStreamRate))",
        "\(fixed(step.loadP50, 1))", "\(fixed(step.loadP99, 1))", "\(fixed(step.secondLoadP50, 1))",
        "\(fixed(step.secondLoadP99, 1))", "\(fixed(step.firstLoadP50, 1))", "\(fixed(step.firstLoadP99, 1))",
        "\(fixed(step.overheadPerEvent, 1))",
        "\(bytes(Double(step.anonymousBytes)))", "\(bytes(Double(step.anonymousPeakBytes)))",
        "\(fixed(step.openMilliseconds, 1))", "\(fixed(step.coldOpenMilliseconds, 1))",
      ]
    }
    return HTML.table(headings, rows)
  }

  static func method(_ options: ScaleOptions) -> [String] {
    [
      """
      Streams of \(options.streamsOf) events, \
      \(options.spread ? "as far apart as can be" : "which lie within some thousand events of each other, as a payment's do"), \
      with payloads of \(options.payload) bytes. The log was filled with buffered appends of 1,000 events, two at a time, \
      up to each size; the time is to the end of the flush. Then the store was closed, to see what it takes on disk; the \
      space that is only written ahead in its last segment is not counted.
      """,
      """
      Appends: \(options.writers) tasks, one event each, synced, \(fixed(options.seconds, 1)) s of each kind. Loads: 20,000 \
      random whole streams, one after the other: all of them once, from wherever they are; once more, from memory; and \
      then again and again for two seconds, which is called hot and is what the bar is about. By then most of them are in \
      the store's cache of streams, of \(bytes(Double(options.streamCache))).
      """,
      """
      Then the process was killed while all writers appended, and another opened the log; the time is that of the call that \
      opens. Once more after the kernel was asked to let all files go from its cache. What had been acknowledged before the \
      kill was there each time. Memory is the process's anonymous memory, with what the benchmark itself takes, looked at \
      fifty times a second from the process's start.
      """,
    ]
  }
}
