import LogStore

/// Reports the gaps between two offsets on standard error, one per line.
func reportMissing(_ gaps: [Range<UInt64>], from start: UInt64, to end: UInt64) {
  for gap in gaps where gap.upperBound > start && gap.lowerBound < end { printError("missing \(gap.text)") }
}

/// Reports what was found in a damaged store, in addition to what was missing.
func reportDamage(_ report: DamagedLog.Report) {
  reportTornTail(report.tornTail)
  for finding in report.findings { printError(finding.description) }
  if report.isEndUnknown { printError("events at the end of the log are missing, and nothing tells how many") }
}

extension Output {
  /// Prints the sound events of a damaged store from an offset on, and reports the rest. Returns the offset to continue
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
      printError("missing \(gap.text)")
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
