import Testing

@testable import RegisPay

@Suite("Metrics as text")
struct MetricsTextTests {
  private static func text(_ families: [MetricFamily], _ format: MetricsFormat) -> [Substring] {
    String(decoding: MetricsText.bytes(families, format), as: UTF8.self).split(
      separator: "\n", omittingEmptySubsequences: false)
  }

  @Test("a counter's samples end with _total; its name in the lines above does too, but not in OpenMetrics")
  func counters() {
    let families = [MetricFamily.counter("process_cpu_seconds", "Time.", 7)]
    #expect(
      Self.text(families, .prometheus).prefix(3) == [
        "# HELP process_cpu_seconds_total Time.", "# TYPE process_cpu_seconds_total counter",
        "process_cpu_seconds_total 7",
      ])
    let open = Self.text(families, .openMetrics)
    #expect(
      open.prefix(4) == [
        "# HELP process_cpu_seconds Time.", "# TYPE process_cpu_seconds counter", "# UNIT process_cpu_seconds seconds",
        "process_cpu_seconds_total 7",
      ])
    #expect(open.suffix(2) == ["# EOF", ""])
  }

  @Test("labels and help are escaped: backslash, quotation mark and line break")
  func escaping() {
    var family = MetricFamily("a", .gauge, "one\\two\n\"three\"")
    family.add([.init("x", "C:\\a \"b\"\nc"), .init("y", "é")], 1)
    let line = #"a{x="C:\\a \"b\"\nc",y="é"} 1"#
    #expect(
      Self.text([family], .prometheus).prefix(3) == [#"# HELP a one\\two\n"three""#, "# TYPE a gauge", line[...]])
    #expect(
      Self.text([family], .openMetrics).prefix(3) == [#"# HELP a one\\two\n\"three\""#, "# TYPE a gauge", line[...]])
  }

  @Test("numbers are written as both formats know them")
  func numbers() {
    #expect(MetricsText.text(0.25) == "0.25")
    #expect(MetricsText.text(10) == "10.0")
    #expect(MetricsText.text(.infinity) == "+Inf")
    #expect(MetricsText.text(-.infinity) == "-Inf")
    #expect(MetricsText.text(.nan) == "NaN")
  }

  @Test("a histogram's buckets add up, and only OpenMetrics shows the trace of a value in its bucket")
  func histograms() throws {
    let histogram = DurationHistogram(milliseconds: [1, 10])
    let trace = try #require(TraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    histogram.record(nanoseconds: 1_000_000)
    histogram.record(nanoseconds: 1_000_001, trace: trace)
    histogram.record(nanoseconds: 500_000_000)
    var family = MetricFamily("t_seconds", .histogram, "Time.")
    family.add([.init("a", "b")], .histogram(histogram.snapshot))
    let plain = Self.text([family], .prometheus)
    #expect(
      plain[2..<7] == [
        "t_seconds_bucket{a=\"b\",le=\"0.001\"} 1", "t_seconds_bucket{a=\"b\",le=\"0.01\"} 2",
        "t_seconds_bucket{a=\"b\",le=\"+Inf\"} 3", "t_seconds_sum{a=\"b\"} 0.502000001", "t_seconds_count{a=\"b\"} 3",
      ])
    let open = Self.text([family], .openMetrics)
    #expect(open[3] == "t_seconds_bucket{a=\"b\",le=\"0.001\"} 1")
    #expect(
      open[4].hasPrefix(
        "t_seconds_bucket{a=\"b\",le=\"0.01\"} 2 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\","
          + "span_id=\"b7ad6b7169203331\"} 0.001000001 1"))
  }

  @Test("a text has a limit: what does not fit is left out and counted")
  func limit() {
    var long = MetricFamily("long", .gauge, "Long.")
    for number in 0..<30 { long.add([.init("x", String(repeating: "x", count: 200_000) + "\(number)")], 1) }
    let lines = Self.text([long, .gauge("short", "Short.", 1)], .prometheus)
    #expect(!lines.contains { $0.hasPrefix("long") })
    #expect(lines.contains("short 1") && lines.contains("regispay_metrics_left_out 1"))
  }

  @Test(
    "the format is the one that the scraper asks for",
    arguments: [
      (nil, MetricsFormat.prometheus), ("", .prometheus), ("*/*", .prometheus), ("text/html", .prometheus),
      ("application/openmetrics-text", .openMetrics),
      ("application/openmetrics-text; version=1.0.0; charset=utf-8", .openMetrics),
      ("application/openmetrics-text; version=\"1.0.0\"", .openMetrics),
      ("application/openmetrics-text;version=0.0.1", .prometheus),
      ("application/openmetrics-text;q=0.3,text/plain;q=0.5", .prometheus),
      ("application/openmetrics-text;q=0", .prometheus),
      // What Prometheus 2.42 sends.
      (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
          + "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", .openMetrics
      ),
    ] as [(String?, MetricsFormat)])
  func negotiation(accept: String?, format: MetricsFormat) {
    #expect(MetricsFormat(accept: accept) == format)
  }

  @Test(
    "a traceparent is taken as W3C Trace Context says, and nothing else is",
    arguments: [
      ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
      ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
      ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
      ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
      ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
      ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
      ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
      ("00-0af7651916cd43dd8448eb211c80319-b7ad6b71692033311-01", false),
      ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false), ("", false), ("-", false),
      ("00-0af7651916cd43dd8448eb211c8031\"\n-b7ad6b7169203331-01", false),
    ])
  func traceParents(text: String, isValid: Bool) {
    #expect((TraceParent(text) != nil) == isValid)
  }

  @Test("a trace's ids are shown with all their digits")
  func traceIDs() throws {
    let trace = try #require(TraceParent("00-00000000000000ab000000000000cdef-000000000000000f-00"))
    #expect(trace.traceID == "00000000000000ab000000000000cdef" && trace.spanID == "000000000000000f")
  }
}
