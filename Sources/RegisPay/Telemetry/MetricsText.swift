/// Writes metrics as text. The formats are those of the Prometheus documentation (*Exposition formats*) and of the OpenMetrics
/// specification 1.0.0; they agree on samples and differ in the lines above them, in exemplars and in the end.
struct MetricsText {
  /// Bytes of a text, at most; some thirty times the usual size. Families that would exceed it are left out and counted.
  static let byteLimit = 4 << 20

  let format: MetricsFormat
  private(set) var bytes: [UInt8] = []
  /// Families that did not fit.
  private var leftOut = 0

  private init(_ format: MetricsFormat) { self.format = format }

  /// The families that have samples. Takes some microseconds for each; a few milliseconds in all.
  static func bytes(_ families: [MetricFamily], _ format: MetricsFormat) -> [UInt8] {
    var text = MetricsText(format)
    text.bytes.reserveCapacity(64 << 10)
    for family in families where !family.samples.isEmpty { text.add(family) }
    text.add(
      .gauge("regispay_metrics_left_out", "Metrics left out of this text because it would be too long.", text.leftOut))
    if format == .openMetrics { text.write("# EOF\n") }
    return text.bytes
  }

  private mutating func add(_ family: MetricFamily) {
    let start = bytes.count
    head(family)
    for sample in family.samples { add(sample, of: family) }
    if bytes.count > Self.byteLimit {
      bytes.removeLast(bytes.count - start)
      leftOut += 1
    }
  }

  private mutating func head(_ family: MetricFamily) {
    let isPlain = format == .prometheus
    let name = family.kind == .counter && isPlain ? family.name + "_total" : family.name
    write("# HELP \(name) \(escaped(family.help, quotes: !isPlain))\n# TYPE \(name) \(family.kind.rawValue)\n")
    if !isPlain, let unit = family.unit { write("# UNIT \(name) \(unit.rawValue)\n") }
  }

  private mutating func add(_ sample: MetricFamily.Sample, of family: MetricFamily) {
    let labels = sample.labels.map { "\($0.name)=\"\(escaped($0.value, quotes: true))\"" }.joined(separator: ",")
    let braced = labels.isEmpty ? "" : "{\(labels)}"
    let suffix = family.kind == .counter ? "_total" : ""
    switch sample.value {
    case .integer(let value): write("\(family.name)\(suffix)\(braced) \(value)\n")
    case .number(let value): write("\(family.name)\(suffix)\(braced) \(Self.text(value))\n")
    case .summary(let sum, let count):
      write("\(family.name)_sum\(braced) \(Self.text(sum))\n\(family.name)_count\(braced) \(count)\n")
    case .histogram(let histogram): add(histogram, of: family.name, labels, braced)
    }
  }

  private mutating func add(_ histogram: HistogramSnapshot, of name: String, _ labels: String, _ braced: String) {
    var count: UInt64 = 0
    for (range, own) in histogram.counts.enumerated() {
      count += own
      let bound = range < histogram.bounds.count ? Self.text(histogram.bounds[range]) : "+Inf"
      write("\(name)_bucket{\(labels)\(labels.isEmpty ? "" : ",")le=\"\(bound)\"} \(count)")
      if format == .openMetrics, range < histogram.exemplars.count, let exemplar = histogram.exemplars[range] {
        write(" # {trace_id=\"\(exemplar.trace.traceID)\",span_id=\"\(exemplar.trace.spanID)\"}")
        write(" \(Self.text(exemplar.value)) \(Self.text(Double(exemplar.microseconds) / 1e6))")
      }
      write("\n")
    }
    // The count is that of the last range, so that both agree while values are recorded.
    write("\(name)_sum\(braced) \(Self.text(histogram.sum))\n\(name)_count\(braced) \(count)\n")
  }

  private mutating func write(_ text: String) { bytes.append(contentsOf: text.utf8) }

  /// A number as both formats write it: `0.25`, `1.0`, `+Inf`, `NaN`.
  static func text(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
    return "\(value)"
  }

  /// - Parameter quotes: whether a quotation mark is escaped too: in label values, and in OpenMetrics' help.
  private func escaped(_ text: String, quotes: Bool) -> String {
    guard
      text.utf8.contains(where: { $0 == UInt8(ascii: "\\") || $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\"") })
    else { return text }
    var escaped = ""
    for character in text.unicodeScalars {
      switch character {
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case "\"" where quotes: escaped += "\\\""
      default: escaped.unicodeScalars.append(character)
      }
    }
    return escaped
  }
}
