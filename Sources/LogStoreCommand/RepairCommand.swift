import ArgumentParser
import LogStore

struct RepairCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "repair",
    abstract: "Create a new store from everything that is sound in a damaged one, and list what is lost.",
    discussion: """
      Changes nothing in the damaged store. The new one has the same offsets, versions, ids, times and cursors. Where \
      events could not be saved it has a gap, which no reader takes for the end. Prints, one per line: `damaged FILE @BYTE: \
      reason` for each damaged place; `missing FIRST..LAST: damaged …` for each gap; `lost OFFSET⇥STREAM⇥VERSION` for each \
      event in a gap that an index file lists (STREAM is empty if no other event of the stream was saved); `partial \
      FIRST..LAST` for saved events of a write that lost others, so that an append among them may be incomplete; `guessed \
      time FIRST..LAST` for events whose time is lost and which have the time of the write before; `left out FILE \
      FIRST..LAST: reason` for each segment file of another store, or of a copy of this one that was written to \
      separately; and a summary. The exit code is 0 if the new store was created, whatever was lost, and 2 if it was \
      created and files were left out.

      If the files come from copies that were written to separately, it uses those that lead to the end of the log that \
      the files `clean` and `tail` name. If these do not decide, it creates nothing: for each copy it prints one line \
      `history N: …` that says what the copy has and which file to name with --keep, and one line `history N FILE` for \
      each file that not all copies share, and exits with 3. No file is changed or moved, so each of the copies can be \
      repaired, one after the other.

      The new store is written to a directory with .repairing appended to its name, which the next run replaces, and gets \
      its name when all of it has been read and checked. It is the same store: write to only one of the two.
      """)

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  @Option(help: ArgumentHelp("The new store's directory: one that does not exist yet, or is empty.", valueName: "D2"))
  var to: String

  @Option(
    help: ArgumentHelp(
      "A segment file of the copy to keep, if there are several; or clean or tail, to believe that file. Can be repeated.",
      valueName: "FILE")
  )
  var keep: [String] = []

  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    if to.isEmpty { throw ValidationError("--to must name a directory") }
  }

  func run() async throws {
    let progress = ProgressLine("repairing")
    defer { progress.clear() }
    let report: RepairReport
    do throws(LogStoreError) {
      report = try LogStore.repair(location.directory, to: to, keeping: keep, access: newFiles.access) {
        progress.show($0, of: $1)
      }
    } catch .repairUndecided(let path, let histories) {
      progress.clear()
      try show(histories)
      complain(LogStoreError.repairUndecided(path: path, histories: histories).description)
      throw ExitCode(3)
    }
    progress.clear()
    reportTornTail(report.tornTail)
    let output = Output()
    try output.add { bytes in
      if json { bytes.append(json: report) } else { bytes.append(lines: report) }
    }
    try output.flush()
    if !report.leftOut.isEmpty { throw ExitCode(2) }
  }

  private func show(_ histories: [RepairHistory]) throws {
    let output = Output()
    try output.add { bytes in
      if json { bytes.append(json: histories) } else { bytes.append(lines: histories) }
    }
    try output.flush()
  }
}

extension Range<UInt64> {
  /// `7..9`, the last one included.
  var text: String { "\(lowerBound)..\(upperBound - 1)" }
}

extension [UInt8] {
  fileprivate mutating func append(lines histories: [RepairHistory]) {
    for (index, history) in histories.enumerated() {
      let what =
        history.endOffset.map { "\(history.events) events, up to offset \($0)" }
        ?? "the log that \(history.keeping) tells of, without files that it does not fit"
      append(line: "history \(index + 1): \(what); --keep \(history.keeping)")
      for file in history.files { append(line: "history \(index + 1) \(file)") }
    }
  }

  fileprivate mutating func append(json histories: [RepairHistory]) {
    append(contentsOf: #"{"histories":["#.utf8)
    for (index, history) in histories.enumerated() {
      append(contentsOf: (index > 0 ? "," : "").utf8)
      append(contentsOf: #"{"events":\#(history.events),"keep":"#.utf8)
      append(jsonString: history.keeping)
      if let end = history.endOffset { append(contentsOf: #","end_offset":\#(end)"#.utf8) }
      append(contentsOf: #","files":["#.utf8)
      for (index, file) in history.files.enumerated() {
        append(contentsOf: (index > 0 ? "," : "").utf8)
        append(jsonString: file)
      }
      append(contentsOf: "]}".utf8)
    }
    append(contentsOf: "]}\n".utf8)
  }

  fileprivate mutating func append(lines report: RepairReport) {
    for finding in report.findings { append(line: finding.description) }
    for missing in report.missing {
      append(line: "missing \(missing.offsets.text): \(missing.damage?.description ?? "missing before")")
      for event in missing.events {
        append(contentsOf: "lost \(event.offset)\t".utf8)
        var stream = event.stream ?? ""
        stream.withUTF8 { append(escaping: UnsafeRawBufferPointer($0)) }
        append(contentsOf: "\t\(event.version)\n".utf8)
      }
    }
    for offsets in report.partial { append(line: "partial \(offsets.text)") }
    for offsets in report.guessedTimes { append(line: "guessed time \(offsets.text)") }
    for file in report.leftOut {
      append(
        line: "left out \(file.file)\(file.offsets.isEmpty ? "" : " " + file.offsets.text): \(file.reason)")
    }
    if report.isEndUnknown {
      append(line: "events at the end of the log are lost, and nothing tells how many; the next get their offsets")
    }
    append(
      line: "saved \(report.events) of \(report.endOffset) events in \(report.segments) segments, "
        + "\(report.missingEvents) missing in \(report.missing.count) gaps, \(report.cursors) cursors")
  }

  private mutating func append(line: String) {
    var line = line
    line.withUTF8 { append(escaping: UnsafeRawBufferPointer($0), only: .lineBreaks) }
    append(UInt8(ascii: "\n"))
  }

  fileprivate mutating func append(json report: RepairReport) {
    append(
      contentsOf: """
        {"events":\(report.events),"end_offset":\(report.endOffset),"missing_events":\(report.missingEvents),\
        "segments":\(report.segments),"cursors":\(report.cursors),"end_unknown":\(report.isEndUnknown),"missing":[
        """.utf8)
    for (index, missing) in report.missing.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(contentsOf: "{\"first\":\(missing.offsets.lowerBound),\"last\":\(missing.offsets.upperBound - 1)".utf8)
      if let damage = missing.damage {
        append(contentsOf: #","damage":"#.utf8)
        append(json: damage)
      }
      append(contentsOf: #","events":["#.utf8)
      for (index, event) in missing.events.enumerated() {
        if index > 0 { append(UInt8(ascii: ",")) }
        append(contentsOf: "{\"offset\":\(event.offset),\"version\":\(event.version)".utf8)
        if let stream = event.stream {
          append(contentsOf: #","stream":"#.utf8)
          append(jsonString: stream)
        }
        append(UInt8(ascii: "}"))
      }
      append(contentsOf: "]}".utf8)
    }
    append(contentsOf: "]".utf8)
    append(json: "partial", report.partial)
    append(json: "guessed_times", report.guessedTimes)
    append(contentsOf: #","left_out":["#.utf8)
    for (index, file) in report.leftOut.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(contentsOf: #"{"file":"#.utf8)
      append(jsonString: file.file)
      if !file.offsets.isEmpty {
        append(contentsOf: #","first":\#(file.offsets.lowerBound),"last":\#(file.offsets.upperBound - 1)"#.utf8)
      }
      append(contentsOf: #","events":\#(file.events),"reason":"#.utf8)
      append(jsonString: file.reason)
      append(UInt8(ascii: "}"))
    }
    append(contentsOf: #"],"findings":["#.utf8)
    for (index, finding) in report.findings.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(json: finding)
    }
    append(UInt8(ascii: "]"))
    if let torn = report.tornTail {
      append(contentsOf: #","torn_tail":"#.utf8)
      append(json: torn)
    }
    append(contentsOf: "}\n".utf8)
  }

  private mutating func append(json name: String, _ ranges: [Range<UInt64>]) {
    append(contentsOf: #","\#(name)":["#.utf8)
    for (index, range) in ranges.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(contentsOf: "{\"first\":\(range.lowerBound),\"last\":\(range.upperBound - 1)}".utf8)
    }
    append(UInt8(ascii: "]"))
  }

  mutating func append(json damage: Damage) {
    append(contentsOf: #"{"file":"#.utf8)
    append(jsonString: damage.file)
    append(contentsOf: #","byte":\#(damage.position),"reason":"#.utf8)
    append(jsonString: damage.reason)
    append(UInt8(ascii: "}"))
  }
}
