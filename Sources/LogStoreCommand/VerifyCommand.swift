import ArgumentParser
import LogStore

struct VerifyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read and check every byte of the store.",
    discussion: """
      Changes nothing. If the store is sound, prints a summary and exits with 0. Otherwise prints one line for each \
      finding, `damaged FILE @BYTE: reason`, and exits with 1. A last write that a crash cut short is no finding, and \
      neither is a gap that a repair has left.
      """)

  @OptionGroup var location: StoreLocation

  @Flag(help: "Print one JSON object.")
  var json = false

  func run() async throws {
    let progress = ProgressLine("verifying")
    var found = Found()
    do throws(LogStoreError) {
      let report = try LogStore.verify(location.directory) { progress.show($0, of: $1) }
      found.findings = report.findings
      found.tornTail = report.tornTail
      found.gaps = report.gaps
      found.events = report.events
      found.segments = UInt64(report.segments)
      found.bytes = report.bytes
    } catch {
      // Damage that prevents reading the rest is a finding like any other.
      switch error {
      case .damaged(let damage), .unreadable(let damage): found.findings = [damage]
      default:
        progress.clear()
        throw error
      }
    }
    progress.clear()
    reportTornTail(found.tornTail)
    let output = Output()
    try output.add { bytes in
      if json { bytes.append(json: found) } else { bytes.append(lines: found) }
    }
    try output.flush()
    if !found.findings.isEmpty {
      let count = found.findings.count == 1 ? "1 place is" : "\(found.findings.count) places are"
      throw CommandFailure(
        message:
          "\(count) damaged in \(location.directory); nothing was changed, restore a backup, or save what is sound with `logstore repair`"
      )
    }
  }
}

private struct Found {
  var findings: [Damage] = []
  var tornTail: Damage?
  var gaps: [Range<UInt64>] = []
  var events: UInt64 = 0
  var segments: UInt64 = 0
  var bytes: UInt64 = 0
}

extension [UInt8] {
  fileprivate mutating func append(lines found: Found) {
    if found.findings.isEmpty {
      let missing = found.gaps.reduce(0) { $0 + $1.length }
      let note = found.gaps.isEmpty ? "" : ", \(missing) missing in \(found.gaps.count) gaps"
      let summary = "sound: \(found.events) events in \(found.segments) segments\(note), \(found.bytes) bytes read\n"
      append(contentsOf: summary.utf8)
    }
    for finding in found.findings {
      var line = finding.description
      line.withUTF8 { append(escaping: UnsafeRawBufferPointer($0), only: .lineBreaks) }
      append(UInt8(ascii: "\n"))
    }
  }

  fileprivate mutating func append(json found: Found) {
    append(
      contentsOf: """
        {"sound":\(found.findings.isEmpty),"events":\(found.events),"segments":\(found.segments),\
        "missing_events":\(found.gaps.reduce(0) { $0 + $1.length }),"gaps":\(found.gaps.count),\
        "bytes":\(found.bytes),"findings":[
        """.utf8)
    for (index, finding) in found.findings.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(json: finding)
    }
    append(UInt8(ascii: "]"))
    if let tornTail = found.tornTail {
      append(contentsOf: #","torn_tail":"#.utf8)
      append(json: tornTail)
    }
    append(contentsOf: "}\n".utf8)
  }
}
