import ArgumentParser
import LogStore

struct StatCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stat",
    abstract: "Print what the store holds: events, streams, segments, bytes, cursors and their lag.",
    discussion: """
      Counts events that a repair could not save as missing. With --allow-damaged it reads all of a damaged store and \
      counts what is sound.
      """)

  @OptionGroup var location: StoreLocation

  @Flag(help: "Print one JSON object.")
  var json = false

  @Flag(help: "Count what is sound in a damaged store.")
  var allowDamaged = false

  func run() async throws {
    let statistics: StoreStatistics
    if allowDamaged {
      let counted = try DamagedLog(location.directory).statistics()
      reportDamage(counted.report)
      statistics = counted.statistics
    } else {
      let reader = try LogReader.open(location.directory)
      reportTornTail(reader.recovery.tornTail)
      statistics = try reader.statistics()
    }
    let output = Output()
    try output.add { bytes in
      if json {
        bytes.append(json: statistics)
      } else {
        bytes.append(table: statistics)
      }
    }
    try output.flush()
  }
}

extension [UInt8] {
  fileprivate mutating func append(table statistics: StoreStatistics) {
    var rows: [(String, UInt64)] = [
      ("events", statistics.events),
      ("streams", statistics.streams),
      ("end offset", statistics.endOffset),
      ("segments", UInt64(statistics.segments)),
      ("log bytes", statistics.logBytes),
      ("index bytes", statistics.indexBytes),
      ("cursors", UInt64(statistics.cursors.count)),
    ]
    if !statistics.gaps.isEmpty {
      rows.insert(("missing", statistics.missingEvents), at: 1)
      rows.insert(("gaps", UInt64(statistics.gaps.count)), at: 2)
    }
    for (name, value) in rows {
      append(contentsOf: name.utf8)
      append(contentsOf: repeatElement(UInt8(ascii: " "), count: 12 - name.utf8.count))
      append(decimal: value)
      append(UInt8(ascii: "\n"))
    }
    for cursor in statistics.cursors {
      append(contentsOf: "cursor ".utf8)
      append(contentsOf: "\(cursor.name): at \(cursor.checkpoint), \(cursor.lag) behind".escapedOnOneLine)
      append(UInt8(ascii: "\n"))
    }
  }

  fileprivate mutating func append(json statistics: StoreStatistics) {
    append(
      contentsOf: """
        {"events":\(statistics.events),"streams":\(statistics.streams),"end_offset":\(statistics.endOffset),\
        "missing_events":\(statistics.missingEvents),"gaps":\(statistics.gaps.count),\
        "segments":\(statistics.segments),"log_bytes":\(statistics.logBytes),"index_bytes":\(statistics.indexBytes),\
        "cursors":[
        """.utf8)
    for (index, cursor) in statistics.cursors.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(contentsOf: #"{"name":"#.utf8)
      append(jsonString: cursor.name)
      append(contentsOf: #","checkpoint":\#(cursor.checkpoint),"lag":\#(cursor.lag)}"#.utf8)
    }
    append(contentsOf: "]}\n".utf8)
  }
}

extension String {
  /// The bytes with the fields' escapes.
  var escapedOnOneLine: [UInt8] {
    var text = self
    return text.withUTF8 { utf8 in
      var bytes: [UInt8] = []
      bytes.append(escaping: UnsafeRawBufferPointer(utf8))
      return bytes
    }
  }
}
