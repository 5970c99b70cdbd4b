/// The two text formats that scrapers read.
enum MetricsFormat: Sendable {
  /// Prometheus' own, version 0.0.4.
  case prometheus
  /// OpenMetrics 1.0.0, which has units and exemplars.
  case openMetrics

  var contentType: String {
    switch self {
    case .prometheus: "text/plain; version=0.0.4; charset=utf-8"
    case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
    }
  }

  /// Media ranges of an `Accept` field that are looked at. Prometheus sends up to five.
  private static let rangeLimit = 16

  /// OpenMetrics, if the client names it in a version that is this one or none, with at least the weight of plain text;
  /// otherwise Prometheus' format, whatever the client accepts.
  ///
  /// - Parameter accept: the field's value; nil without one.
  init(accept: String?) {
    var weights: (open: Double, plain: Double) = (0, 0)
    for range in (accept ?? "").lowercased().split(separator: ",", maxSplits: Self.rangeLimit).prefix(Self.rangeLimit) {
      let parts = range.split(separator: ";").map { $0.filter { $0 != " " && $0 != "\t" && $0 != "\"" } }
      guard let type = parts.first else { continue }
      func parameter(_ name: String) -> String? {
        parts.dropFirst().first { $0.hasPrefix(name + "=") }.map { String($0.dropFirst(name.count + 1)) }
      }
      let weight = parameter("q").map { Double($0) ?? 0 } ?? 1
      switch type {
      case "application/openmetrics-text" where ["1.0.0", nil].contains(parameter("version")):
        weights.open = max(weights.open, weight)
      case "text/plain": weights.plain = max(weights.plain, weight)
      default: break
      }
    }
    self = weights.open > 0 && weights.open >= weights.plain ? .openMetrics : .prometheus
  }
}
