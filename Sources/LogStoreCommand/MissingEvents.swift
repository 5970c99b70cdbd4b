import LogStore

/// Tells on standard error of the gaps between two offsets, one a line.
func reportMissing(_ gaps: [Range<UInt64>], from start: UInt64, to end: UInt64) {
  for gap in gaps where gap.upperBound > start && gap.lowerBound < end { tell("missing \(gap.text)") }
}

/// Tells what was found in a damaged store, beside what was missing.
func reportDamage(_ report: DamagedLog.Report) {
  reportTornTail(report.tornTail)
  for finding in report.findings { tell(finding.description) }
  if report.isEndUnknown { tell("events at the end of the log are missing, and nothing tells how many") }
}

extension Output {
  /// Prints the sound events of a damaged store from an offset on, and tells of the rest; returns the offset to go on
  /// with.
  @discardableResult
  func add(
    eventsOf log: DamagedLog, from offset: UInt64, stream: String? = nil, limit: UInt64 = .max, as format: RowFormat
  ) throws -> UInt64 {
    var left = limit
    var failure: OutputError?
    if limit == 0 { return offset }
    let name = stream.map { Array($0.utf8) }
    let report = try log.forEach(from: offset) { gap, _ in
      tell("missing \(gap.text)")
    } _: { event in
      if let name, !event.stream.withUnsafeBytes({ $0.elementsEqual(name) }) { return true }
      do throws(OutputError) {
        try self.add { $0.append(event, as: format) }
      } catch {
        failure = error
        return false
      }
      left -= 1
      return left > 0
    }
    if let failure { throw failure }
    try flush()
    reportDamage(report)
    return report.next
  }
}
