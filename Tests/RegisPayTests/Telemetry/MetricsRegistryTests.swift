import CoreMetrics
import Testing

@testable import RegisPay

@Suite("Metrics of libraries")
struct MetricsRegistryTests {
  private func text(_ registry: MetricsRegistry) async -> String {
    String(decoding: MetricsText.bytes(await registry.families(), .prometheus), as: UTF8.self)
  }

  @Test("what a library makes through swift-metrics is shown, in base units and with names that Prometheus allows")
  func kinds() async {
    let registry = MetricsRegistry()
    Counter(label: "lib.requests", dimensions: [("http.method", "GET")], factory: registry).increment(by: 3)
    Counter(label: "lib.requests", dimensions: [("http.method", "GET")], factory: registry).increment()
    Counter(label: "lib_total", factory: registry).increment()
    FloatingPointCounter(label: "lib.energy", factory: registry).increment(by: 0.5)
    Meter(label: "lib.depth", factory: registry).set(2)
    Gauge(label: "lib.size", factory: registry).record(4)
    Recorder(label: "lib.batch", factory: registry).record(10)
    CoreMetrics.Timer(label: "lib.wait", factory: registry).recordMilliseconds(2)
    let text = await text(registry)
    for line in [
      "lib_requests_total{http_method=\"GET\"} 4", "lib_total 1", "lib_energy_total 0.5", "lib_depth 2.0",
      "lib_size 4.0", "lib_batch_sum 10.0", "lib_batch_count 1", "lib_wait_seconds_bucket{le=\"0.0025\"} 1",
      "lib_wait_seconds_sum 0.002", "regispay_metrics_dropped_series_total 0",
    ] { #expect(text.contains("\n\(line)\n"), "\(line)") }
  }

  @Test("series beyond the limit do nothing and are counted; those before it go on")
  func limit() async {
    let registry = MetricsRegistry()
    for number in 0..<MetricsRegistry.seriesLimit + 5 {
      Counter(label: "lib.paths", dimensions: [("path", "/\(number)")], factory: registry).increment()
    }
    Counter(label: "lib.paths", dimensions: [("path", "/0")], factory: registry).increment()
    let text = await text(registry)
    #expect(text.split(separator: "\n").count { $0.hasPrefix("lib_paths_total") } == MetricsRegistry.seriesLimit)
    #expect(text.contains("lib_paths_total{path=\"/0\"} 2\n"))
    #expect(text.contains("regispay_metrics_dropped_series_total 5\n"))
  }

  @Test("a library can't take the server's names, two kinds for one name, or names and labels that break the text")
  func refused() async {
    let registry = MetricsRegistry()
    Counter(label: "lib.x", factory: registry).increment()
    Gauge(label: "lib.x", factory: registry).record(1)
    Gauge(label: "lib.x_total", factory: registry).record(1)
    CoreMetrics.Timer(label: "lib.t", factory: registry).recordSeconds(1)
    Gauge(label: "lib.t_seconds_count", factory: registry).record(1)
    Counter(label: "process_cpu_seconds", factory: registry).increment()
    Counter(label: "regispay.x", factory: registry).increment()
    Counter(label: "", factory: registry).increment()
    Counter(label: String(repeating: "x", count: 300), factory: registry).increment()
    Counter(label: "lib.y", dimensions: [("le", "1")], factory: registry).increment()
    Counter(label: "lib.y", dimensions: [("a.b", "1"), ("a_b", "2")], factory: registry).increment()
    Counter(label: "lib.y", dimensions: (0..<9).map { ("l\($0)", "") }, factory: registry).increment()
    let text = await text(registry)
    #expect(text.contains("regispay_metrics_dropped_series_total 10\n"))
    let names = text.split(separator: "\n").filter { $0.hasPrefix("# TYPE") }.compactMap {
      $0.split(separator: " ").dropFirst(2).first
    }
    #expect(
      names == ["lib_t_seconds", "lib_x_total", "regispay_metrics_dropped_series_total", "regispay_metrics_left_out"])
  }

  @Test("a destroyed metric is shown no longer, and its name is free")
  func destroyed() async {
    let registry = MetricsRegistry()
    let counter = Counter(label: "lib.x", factory: registry)
    counter.increment()
    counter.destroy()
    #expect(await !text(registry).contains("lib_x"))
    Gauge(label: "lib.x", factory: registry).record(1)
    #expect(await text(registry).contains("lib_x 1.0\n"))
  }

  @Test("counters only grow, whatever a library adds")
  func growing() async {
    let registry = MetricsRegistry()
    Counter(label: "lib.a", factory: registry).increment(by: -1)
    let numbers = FloatingPointCounter(label: "lib.b", factory: registry)
    for amount in [-1.0, .nan, .infinity, 1] { numbers.increment(by: amount) }
    let text = await text(registry)
    #expect(text.contains("lib_a_total 0\n") && text.contains("lib_b_total 1.0\n"))
  }
}
