import Synchronization

/// What became of spans.
final class TraceMetrics: Sendable {
  /// Why spans, or all those of an operation, were not sent or not kept.
  enum Reason: String, Sendable, CaseIterable {
    /// The operation ended long before the collector could be reached.
    case old
    /// The payment can't be read.
    case unreadable
    /// The collector does not take them.
    case rejected
  }

  let exported = MetricCounter()
  let failures = MetricCounter()
  let dropped = CounterTable<Reason>()
  /// The largest number until something is known.
  private let readOffset = Atomic<UInt64>(.max)

  /// The collector has the spans of every event below this offset.
  func read(to offset: UInt64) { readOffset.store(offset, ordering: .relaxed) }

  /// - Parameter end: of the log.
  func families(end: UInt64) -> [MetricFamily] {
    var dropped = MetricFamily(
      "regispay_traces_dropped", .counter,
      "Spans that the collector rejected, and operations whose spans were not made, by reason.")
    for (reason, count) in self.dropped.counts { dropped.add([.init("reason", reason)], count) }
    let offset = readOffset.load(ordering: .relaxed)
    return [
      .counter("regispay_traces_exported_spans", "Spans that the collector has accepted.", exported.value),
      dropped,
      .counter(
        "regispay_traces_export_failures", "Requests to the collector that failed and are repeated.", failures.value),
      .gauge(
        "regispay_traces_lag_events", "Events whose spans the collector has not got yet.",
        end - min(offset, end)),
    ]
  }
}
