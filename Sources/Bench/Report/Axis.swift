import Glibc

/// Maps a value to a position on an axis: linear, or logarithmic if values are far apart.
struct Axis: Sendable {
  private let low: Double
  private let high: Double
  let isLogarithmic: Bool
  /// Values that have a line and a label.
  let ticks: [Double]

  /// From 0 to beyond the greatest value, in round numbers of `size`.
  init(linearTo greatest: Double, of size: Double = 1) {
    isLogarithmic = false
    low = 0
    let step = Self.step(greatest / 4 / size) * size
    high = max(step, (greatest / step).rounded(.up) * step)
    ticks = stride(from: 0, through: high + step / 2, by: step).map { $0 }
  }

  /// From the power of ten below the least value to the one above the greatest. Values at or below `floor` are drawn there.
  init(logarithmic values: [Double], floor: Double) {
    isLogarithmic = true
    let values = values.map { max($0, floor) }
    var exponent = log10(values.min() ?? 1).rounded(.down)
    var end = log10(values.max() ?? 10).rounded(.up)
    if end <= exponent { end = exponent + 1 }
    low = pow(10, exponent)
    high = pow(10, end)
    var ticks: [Double] = []
    let every = max(1, ((end - exponent) / 6).rounded(.up))
    while exponent <= end {
      ticks.append(pow(10, exponent))
      exponent += every
    }
    self.ticks = ticks
  }

  /// Linear, unless the values differ by more than a factor of 20.
  init(fitting values: [Double], floor: Double) {
    let positive = values.filter { $0 > floor }
    if let least = positive.min(), let greatest = positive.max(), greatest > 20 * least {
      self.init(logarithmic: positive, floor: floor)
    } else {
      self.init(linearTo: values.max() ?? 1)
    }
  }

  /// 0 at the axis's beginning, 1 at its end.
  func place(_ value: Double) -> Double {
    let part =
      isLogarithmic
      ? (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low)) : value / high
    return min(1, max(0, part))
  }

  /// 1, 2 or 5 times a power of ten, at least this much.
  private static func step(_ least: Double) -> Double {
    guard least > 0 else { return 1 }
    let power = pow(10, log10(least).rounded(.down))
    return [1.0, 2, 5, 10].first { $0 * power >= least }.map { $0 * power } ?? 10 * power
  }
}

/// Numbers as they stand in charts.
enum Unit: Sendable {
  case perSecond, microseconds, milliseconds, bytes, ratio, plain

  /// What round numbers are made of.
  var size: Double { self == .bytes ? 1_048_576 : 1 }

  func text(_ value: Double) -> String {
    switch self {
    case .perSecond, .plain:
      if value >= 1e6 { return "\(short(value / 1e6))M" }
      if value >= 1e4 { return "\(short(value / 1e3))k" }
      return value < 10 && value != value.rounded() ? fixed(value, value < 1 ? 2 : 1) : grouped(value)
    case .microseconds:
      if value >= 1e6 { return "\(short(value / 1e6)) s" }
      if value >= 1e3 { return "\(short(value / 1e3)) ms" }
      return "\(short(value)) µs"
    case .milliseconds: return value >= 1e3 ? "\(short(value / 1e3)) s" : "\(short(value)) ms"
    case .bytes:
      return value == (value / size).rounded() * size ? "\(fixed(value / size, 0)) MiB" : Bench.bytes(value)
    case .ratio: return fixed(value, 2)
    }
  }

  private func short(_ value: Double) -> String {
    if value >= 100 || value == value.rounded() { return fixed(value, 0) }
    return fixed(value, value >= 10 ? 1 : value >= 1 ? 2 : 2)
  }
}
