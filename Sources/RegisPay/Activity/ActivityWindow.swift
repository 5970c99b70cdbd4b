/// What was counted in the last seconds: one entry for each second. A pure value.
struct ActivityWindow {
  /// Seconds whose rates and quantiles a tick has.
  static let seconds = 5

  private struct Entry {
    var tally: PaymentFlow.Tally
    /// All syncs until then.
    var syncs: RangeCounts
    /// The end of the entry, by a clock that only goes forwards.
    var nanoseconds: UInt64
  }

  /// From the oldest to the latest; the first one only says when the next began.
  private var entries: [Entry]

  init(syncs: RangeCounts, nanoseconds: UInt64) {
    entries = [Entry(tally: .init(), syncs: syncs, nanoseconds: nanoseconds)]
  }

  /// - Returns: the seconds since the last call.
  mutating func add(_ tally: PaymentFlow.Tally, syncs: RangeCounts, nanoseconds: UInt64) -> Double {
    // There is always one.
    let last = entries[entries.count - 1].nanoseconds
    if entries.count > Self.seconds { entries.removeFirst() }
    entries.append(Entry(tally: tally, syncs: syncs, nanoseconds: nanoseconds))
    return Double(nanoseconds - min(last, nanoseconds)) / 1e9
  }

  var flow: ActivityPoint.Flow {
    var tally = PaymentFlow.Tally()
    for entry in entries.dropFirst() { tally.add(entry.tally) }
    let nanoseconds = entries[entries.count - 1].nanoseconds - entries[0].nanoseconds
    // Before the first entry nothing was counted.
    return .init(tally, seconds: entries.count > 1 ? Double(nanoseconds) / 1e9 : 1)
  }

  var sync: TimeQuantiles? { TimeQuantiles(entries[entries.count - 1].syncs, since: entries[0].syncs) }
}
