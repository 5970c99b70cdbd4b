import CoreMetrics
import Synchronization

/// The metrics of a process: those of the server, which are collected when they are read, and those that libraries make through
/// swift-metrics, for which this is the factory.
///
/// Libraries choose names and labels at run time, so their number is limited: ``seriesLimit`` series, ``labelLimit`` labels each.
/// A series beyond that gets a handler that does nothing, and is counted. Safe to use from any thread.
public final class MetricsRegistry: MetricsFactory {
  typealias Collector = @Sendable () async -> [MetricFamily]

  static let seriesLimit = 1_000
  static let labelLimit = 8
  /// UTF-8 bytes of a name, a label's name or a label's value.
  static let textLimit = 200
  /// Beginnings of names that belong to the server.
  private static let reserved = ["regispay_", "logstore_", "process_", "http_server_"]
  /// Milliseconds: what a timer of a library measures is not known.
  private static let timerBounds: [Double] = [
    0.1, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000,
  ]

  private struct Key: Hashable {
    var name: String
    var labels: [MetricFamily.Label]
  }

  private struct State {
    var series: [Key: any LibrarySeries] = [:]
    /// The metric of each sample's name: no two may have samples of one name.
    var claims: [String: Claim] = [:]
    var collectors: [Collector] = []
  }

  private struct Claim: Equatable {
    var name: String
    var kind: MetricFamily.Kind

    /// The names of the metric's samples, and its own.
    var samples: [String] {
      switch kind {
      case .counter: [name, name + "_total"]
      case .gauge: [name]
      case .histogram, .summary: [name, name + "_bucket", name + "_sum", name + "_count"]
      }
    }
  }

  private let state = Mutex(State())
  private let dropped = MetricCounter()

  public init() {}

  /// Adds metrics that are collected when they are read. Their names must be no others'.
  func add(_ collector: @escaping Collector) { state.withLock { $0.collectors.append(collector) } }

  /// All metrics as they are now, in the order in which their collectors were added. The collectors run at the same time, so that
  /// those that wait for a disk do it together.
  func families() async -> [MetricFamily] {
    let collectors = state.withLock { $0.collectors }
    let collected = await withTaskGroup(of: (Int, [MetricFamily]).self) { group in
      for (number, collector) in collectors.enumerated() { group.addTask { (number, await collector()) } }
      return await group.reduce(into: [Int: [MetricFamily]]()) { $0[$1.0] = $1.1 }
    }
    let library = await MetricsThreads.run { self.libraryFamilies }
    return collectors.indices.flatMap { collected[$0] ?? [] } + library
  }

  /// The metrics of libraries, by name.
  private var libraryFamilies: [MetricFamily] {
    let series = state.withLock { $0.series.map { ($0.key, $0.value) } }
    var families: [String: MetricFamily] = [:]
    for (key, series) in series.sorted(by: { "\($0.0)" < "\($1.0)" }) {
      let new = MetricFamily(key.name, series.kind, "A library's metric.")
      families[key.name, default: new].add(key.labels, series.value)
    }
    return families.values.sorted { $0.name < $1.name } + [
      .counter(
        "regispay_metrics_dropped_series", "Requests of libraries for metrics beyond the limits, which were not made.",
        dropped.value)
    ]
  }

  // MARK: - swift-metrics

  public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
    make(Self.without("_total", label), dimensions) { LibraryCounter() } ?? LibraryCounter()
  }

  public func makeFloatingPointCounter(
    label: String, dimensions: [(String, String)]
  ) -> any FloatingPointCounterHandler {
    make(Self.without("_total", label), dimensions) { LibraryNumberCounter() } ?? LibraryNumberCounter()
  }

  public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
    make(label, dimensions) { LibraryGauge() } ?? LibraryGauge()
  }

  public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
    guard aggregate else { return make(label, dimensions) { LibraryGauge() } ?? LibraryGauge() }
    return make(label, dimensions) { LibrarySummary() } ?? LibrarySummary()
  }

  /// In seconds, whatever unit the library prefers to show.
  public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
    make(Self.without("_seconds", label) + "_seconds", dimensions) { LibraryTimer(Self.timerBounds) }
      ?? LibraryTimer(Self.timerBounds)
  }

  public func destroyCounter(_ handler: any CounterHandler) { remove(handler) }
  public func destroyMeter(_ handler: any MeterHandler) { remove(handler) }
  public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { remove(handler) }
  public func destroyRecorder(_ handler: any RecorderHandler) { remove(handler) }
  public func destroyTimer(_ handler: any TimerHandler) { remove(handler) }

  /// The series of this name and these labels, new if it is the first one; nil beyond the limits.
  private func make<Series: LibrarySeries>(
    _ label: String, _ dimensions: [(String, String)], _ new: () -> Series
  ) -> Series? {
    guard let key = Self.key(label, dimensions) else {
      dropped.add()
      return nil
    }
    let series = state.withLock { state -> Series? in
      if let known = state.series[key] { return known as? Series }
      let series = new()
      let claim = Claim(name: key.name, kind: series.kind)
      guard state.series.count < Self.seriesLimit,
        claim.samples.allSatisfy({ state.claims[$0, default: claim] == claim })
      else { return nil }
      for sample in claim.samples { state.claims[sample] = claim }
      state.series[key] = series
      return series
    }
    if series == nil { dropped.add() }
    return series
  }

  private func remove(_ handler: AnyObject) {
    state.withLock { state in
      state.series = state.series.filter { $0.value !== handler }
      let names = Set(state.series.keys.map(\.name))
      state.claims = state.claims.filter { names.contains($0.value.name) }
    }
  }

  /// Nil for a name that is empty, too long or the server's own, and for labels that are too many, too long or equal.
  private static func key(_ label: String, _ dimensions: [(String, String)]) -> Key? {
    guard let name = name(label, mayHaveColon: true), !reserved.contains(where: name.hasPrefix),
      dimensions.count <= labelLimit
    else { return nil }
    var labels: [MetricFamily.Label] = []
    for (dimension, value) in dimensions {
      guard let name = Self.name(dimension, mayHaveColon: false), name != "le", name != "quantile",
        value.utf8.count <= textLimit
      else { return nil }
      labels.append(.init(name, value))
    }
    guard Set(labels.map(\.name)).count == labels.count else { return nil }
    return Key(name: name, labels: labels.sorted { $0.name < $1.name })
  }

  /// A name in the characters that Prometheus allows; others become `_`.
  private static func name(_ text: String, mayHaveColon: Bool) -> String? {
    guard (1...textLimit).contains(text.utf8.count) else { return nil }
    var bytes = text.utf8.map { byte -> UInt8 in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        byte
      case UInt8(ascii: ":") where mayHaveColon: byte
      default: UInt8(ascii: "_")
      }
    }
    if let first = bytes.first, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) {
      bytes.insert(UInt8(ascii: "_"), at: 0)
    }
    // Names of labels with two at the beginning are Prometheus' own.
    return bytes.starts(with: "__".utf8) ? nil : String(decoding: bytes, as: UTF8.self)
  }

  private static func without(_ suffix: String, _ label: String) -> String {
    label.hasSuffix(suffix) ? String(label.dropLast(suffix.count)) : label
  }
}
