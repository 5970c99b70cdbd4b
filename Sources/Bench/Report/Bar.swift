/// What LogStore has to reach in a workload, with payloads of 256 bytes.
enum Bar: Sendable {
  /// The median of the ratios to the limit of the same run, and a further aim, if any.
  case ratio(Double, aim: Double? = nil)
  /// The median time of a call, compared with another system's in the same workload.
  case medianOf(PeerKind)
  /// Microseconds that 99 of 100 calls stay below.
  case p99(Double)

  static let payloadBytes = 256
  /// Bytes on disk an event beyond its payload, indexes included.
  static let overheadBytes = 64.0

  var text: String {
    switch self {
    case .ratio(let bar, let aim): "ratio ≥ \(fixed(bar, 2))" + (aim.map { ", aim \(fixed($0, 2))" } ?? "")
    case .medianOf(let peer): "p50 ≤ \(peer.rawValue)'s"
    case .p99(let bar): "p99 ≤ \(fixed(bar, 0)) µs"
    }
  }

  /// The measured value, and whether it is enough; nil if that is unknown.
  func judge(_ measured: Measurement, among all: [Measurement]) -> (value: String, isReached: Bool?) {
    switch self {
    case .ratio(let bar, _):
      return (fixed(measured.ratio.median, 2), measured.ratio.median >= bar)
    case .medianOf(let peer):
      guard let own = measured.percentiles?.p50 else { return ("not measured", nil) }
      guard let other = all.first(where: { $0.system == peer.rawValue })?.percentiles?.p50 else {
        return ("\(fixed(own, 2)) µs, and \(peer.rawValue) was not asked for", nil)
      }
      return ("\(fixed(own, 2)) µs against \(fixed(other, 2)) µs", own <= other)
    case .p99(let bar):
      guard let p99 = measured.percentiles?.p99 else { return ("not measured", nil) }
      return ("\(fixed(p99, 1)) µs", p99 <= bar)
    }
  }
}

/// A bar, and LogStore's result.
struct Verdict: Sendable {
  var workload: String
  var bar: String
  var value: String
  var isReached: Bool?

  var reached: String {
    switch isReached {
    case true?: "reached"
    case false?: "NOT reached"
    case nil: "not known"
    }
  }

  /// For workloads whose verdicts are lines of their own.
  func json(workload: String) -> String {
    var line = JSONLine()
    line.put("workload", workload)
    line.put("system", Contender.logstore)
    line.put("what", self.workload)
    line.put("bar", bar)
    line.put("value", value)
    line.put("reached", isReached)
    return line.text
  }
}
