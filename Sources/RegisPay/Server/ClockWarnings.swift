import LogStore

/// Warns when a log's time is ahead of the machine's clock.
struct ClockWarnings: Sendable {
  /// Smaller differences, as time services correct them, are not reported.
  static let tolerance = Duration.seconds(5)

  let stores: [(name: String, store: LogStore)]

  /// One line for each log.
  var lines: [String] {
    stores.compactMap { name, store in Self.line(name, lead: .microseconds(store.clockLeadMicroseconds)) }
  }

  static func line(_ name: String, lead: Duration) -> String? {
    guard lead > tolerance else { return nil }
    let seconds = lead.components.seconds
    let end = timestamp(microseconds: Clock.microseconds() + lead.microseconds)
    return "the \(name) log's time is \(text(seconds)) ahead of this machine's clock, which was set back or was wrong"
      + " before: events get the time \(end) until the clock reaches it; payments continue. If the clock is wrong now, set it"
  }

  /// `3 h 12 min`, in the two largest units.
  private static func text(_ seconds: Int64) -> String {
    let units: [(name: String, seconds: Int64)] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)]
    guard let first = units.firstIndex(where: { seconds >= $0.seconds }) else { return "0 s" }
    var rest = seconds
    return units[first..<min(first + 2, units.count)].compactMap { unit in
      defer { rest %= unit.seconds }
      return rest >= unit.seconds ? "\(rest / unit.seconds) \(unit.name)" : nil
    }.joined(separator: " ")
  }
}
