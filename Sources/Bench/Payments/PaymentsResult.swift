import RegisPay

/// The result of a load of payments.
struct PaymentsResult {
  var rate: Int
  var seconds: Int
  var paymentsBefore: Int
  /// To a broker.
  var isPublishing: Bool
  var readyMilliseconds: Double
  var load: LoadReport
  var before: PaymentsServer.Status
  var after: PaymentsServer.Status
  var memory: [Int]
  /// The most events that the list of payments was behind.
  var listBehind: Int
  var busyness: Busyness

  private static let percentiles: [(name: String, percent: Double)] = [
    ("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9), ("max", 100),
  ]

  private var completed: Int { load.toCompleted.count }
  /// Microseconds of the server's processor time for a payment.
  var cpuOfOne: Double { Double(after.cpuMicroseconds - before.cpuMicroseconds) / Double(max(completed, 1)) }
  private var syncsOfOne: Double { Double(after.syncs - before.syncs) / Double(max(completed, 1)) }

  private static func perSecond(_ count: Int, _ time: Duration) -> Double {
    time > .zero ? Double(count) / (time / .seconds(1)) : 0
  }

  private static func microseconds(_ latencies: LoadLatencies, _ percent: Double) -> Double? {
    latencies.percentile(percent).map { $0 / .microseconds(1) }
  }

  var text: String {
    func row(_ name: String, _ latencies: LoadLatencies) -> String {
      column(name, -22)
        + Self.percentiles.map { percentile in
          column(Self.microseconds(latencies, percentile.percent).map { fixed($0 / 1_000, 2) } ?? "", 10)
        }.joined()
    }
    let mebibytes = { (bytes: Int) in fixed(Double(bytes) / Double(1 << 20), 1) }
    return [
      "\(rate) payments a second for \(seconds) s\(isPublishing ? ", published to a broker" : ""), on a store of \(grouped(Double(paymentsBefore))); ready after "
        + "\(fixed(readyMilliseconds, 0)) ms",
      "sent \(load.sent), errors \(load.errors.values.reduce(0, +)), not completed \(load.incomplete)",
      "accepted \(load.toAccepted.count), \(fixed(Self.perSecond(load.toAccepted.count, load.acceptedAfter), 0))/s; "
        + "completed \(completed), \(fixed(Self.perSecond(completed, load.completedAfter), 0))/s",
      column("milliseconds", -22) + Self.percentiles.map { column($0.name, 10) }.joined(),
      row("to accepted", load.toAccepted), row("to completed", load.toCompleted),
      "server: \(fixed(cpuOfOne, 0)) µs of processor and \(fixed(syncsOfOne, 2)) syncs a payment; anonymous memory "
        + "\(mebibytes(memory.first ?? 0)) MiB at first, \(mebibytes(middle)) in the middle, "
        + "\(mebibytes(memory.last ?? 0)) at last, \(mebibytes(memory.max() ?? 0)) at most",
      "the list of payments was behind by \(grouped(Double(listBehind))) events at most",
    ].joined(separator: "\n")
  }

  private var middle: Int { memory.isEmpty ? 0 : memory[memory.count / 2] }

  var json: String {
    var fields: [(String, String)] = [
      ("workload", "\"payments\""), ("rate", "\(rate)"), ("seconds", "\(seconds)"),
      ("broker", "\(isPublishing)"), ("payments_before", "\(paymentsBefore)"),
      ("ready_ms", fixed(readyMilliseconds, 1)), ("sent", "\(load.sent)"),
      ("accepted", "\(load.toAccepted.count)"), ("completed", "\(completed)"),
      ("errors", "\(load.errors.values.reduce(0, +))"), ("incomplete", "\(load.incomplete)"),
      ("accepted_per_second", fixed(Self.perSecond(load.toAccepted.count, load.acceptedAfter), 1)),
      ("completed_per_second", fixed(Self.perSecond(completed, load.completedAfter), 1)),
    ]
    for (name, latencies) in [("accepted", load.toAccepted), ("completed", load.toCompleted)] {
      for percentile in Self.percentiles {
        let value = Self.microseconds(latencies, percentile.percent).map { fixed($0, 1) } ?? "null"
        fields.append(("\(name)_\(percentile.name)_us", value))
      }
    }
    fields += [
      ("list_behind_events_max", "\(listBehind)"),
      ("server_cpu_us_per_payment", fixed(cpuOfOne, 1)), ("syncs_per_payment", fixed(syncsOfOne, 3)),
      ("anonymous_bytes_begin", "\(memory.first ?? 0)"), ("anonymous_bytes_middle", "\(middle)"),
      ("anonymous_bytes_end", "\(memory.last ?? 0)"), ("anonymous_bytes_peak", "\(memory.max() ?? 0)"),
      ("others_cpu_percent", fixed(busyness.othersPercent, 1)), ("steal_percent", fixed(busyness.stealPercent, 1)),
      ("busy", "\(busyness.isBusy)"),
    ]
    return "{" + fields.map { "\"\($0.0)\":\($0.1)" }.joined(separator: ",") + "}"
  }
}
