/// A metric and its present values, as one scrape shows them. The names and units follow Prometheus: base units, and a counter's
/// samples end with `_total`.
struct MetricFamily: Sendable {
  enum Kind: String, Sendable {
    case counter, gauge, histogram
    /// A sum and a count.
    case summary
  }

  enum Unit: String, Sendable, CaseIterable {
    case seconds, bytes, ratio
  }

  struct Label: Sendable, Hashable {
    var name: String
    var value: String

    init(_ name: String, _ value: String) {
      self.name = name
      self.value = value
    }
  }

  enum Value: Sendable {
    case integer(Int64)
    case number(Double)
    case histogram(HistogramSnapshot)
    case summary(sum: Double, count: UInt64)
  }

  struct Sample: Sendable {
    var labels: [Label]
    var value: Value
  }

  /// A counter's without `_total`.
  let name: String
  let kind: Kind
  /// One sentence.
  let help: String
  private(set) var samples: [Sample] = []

  /// The name's last word, if it is a unit.
  var unit: Unit? { Unit.allCases.first { name.hasSuffix("_\($0.rawValue)") } }

  init(_ name: String, _ kind: Kind, _ help: String) {
    self.name = name
    self.kind = kind
    self.help = help
  }

  /// A family with one sample and no label.
  static func gauge(_ name: String, _ help: String, _ value: Double) -> MetricFamily {
    var family = MetricFamily(name, .gauge, help)
    family.add([], .number(value))
    return family
  }

  /// The same, of an integer.
  static func gauge(_ name: String, _ help: String, _ value: some BinaryInteger) -> MetricFamily {
    var family = MetricFamily(name, .gauge, help)
    family.add([], value)
    return family
  }

  static func counter(_ name: String, _ help: String, _ value: some BinaryInteger) -> MetricFamily {
    var family = MetricFamily(name, .counter, help)
    family.add([], value)
    return family
  }

  mutating func add(_ labels: [Label], _ value: Value) { samples.append(Sample(labels: labels, value: value)) }

  mutating func add(_ labels: [Label], _ value: some BinaryInteger) { add(labels, .integer(Int64(clamping: value))) }

  mutating func add(_ labels: [Label], _ value: Double) { add(labels, .number(value)) }

  /// 1 for the label's present value, and 0 for each of the others.
  mutating func add(_ labels: [Label], _ name: String, _ all: [String], is present: String) {
    for value in all { add(labels + [Label(name, value)], value == present ? 1 : 0) }
  }
}

/// A histogram's values at one moment.
struct HistogramSnapshot: Sendable {
  /// Upper bounds, ascending, without infinity.
  var bounds: [Double]
  /// The number of values in each range, one more than ``bounds``.
  var counts: [UInt64]
  var sum: Double
  /// For each range the last one that was recorded, or nil. Empty if there never was one.
  var exemplars: [Exemplar?] = []

  var count: UInt64 { counts.reduce(0, +) }
}

/// A recorded value with the trace that it belongs to.
struct Exemplar: Sendable {
  var value: Double
  var trace: TraceParent
  /// Microseconds since 1970.
  var microseconds: UInt64
}
