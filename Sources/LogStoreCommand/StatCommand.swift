import ArgumentParser
import LogStore

struct StatCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stat",
    abstract: "Print what the store holds: events, streams, segments, bytes, cursors and their lag.")

  @OptionGroup var location: StoreLocation

  @Flag(help: "Print one JSON object.")
  var json = false

  func run() async throws {
    let reader = try LogReader.open(location.directory)
    reportTornTail(reader.recovery.tornTail)
    let statistics = try reader.statistics()
    let cursors = try reader.cursors().map { cursor in
      // A cursor is never behind the end that was read after it.
      let behind = statistics.endOffset - min(cursor.place, statistics.endOffset)
      return CursorLag(name: cursor.name, place: cursor.place, lag: behind)
    }
    let output = Output()
    try output.add { bytes in
      if json {
        bytes.append(json: statistics, cursors)
      } else {
        bytes.append(table: statistics, cursors)
      }
    }
    try output.flush()
  }
}

/// A consumer's place, and how many events it has still to read.
private struct CursorLag {
  var name: String
  var place: UInt64
  var lag: UInt64
}

extension [UInt8] {
  fileprivate mutating func append(table statistics: StoreStatistics, _ cursors: [CursorLag]) {
    let rows: [(String, UInt64)] = [
      ("events", UInt64(statistics.events)),
      ("streams", UInt64(statistics.streams)),
      ("end offset", statistics.endOffset),
      ("segments", UInt64(statistics.segments)),
      ("log bytes", UInt64(statistics.logBytes)),
      ("index bytes", UInt64(statistics.indexBytes)),
      ("cursors", UInt64(cursors.count)),
    ]
    for (name, value) in rows {
      append(contentsOf: name.utf8)
      append(contentsOf: repeatElement(UInt8(ascii: " "), count: 12 - name.utf8.count))
      append(decimal: value)
      append(UInt8(ascii: "\n"))
    }
    for cursor in cursors {
      append(contentsOf: "cursor ".utf8)
      append(contentsOf: "\(cursor.name): at \(cursor.place), \(cursor.lag) behind".escapedOnOneLine)
      append(UInt8(ascii: "\n"))
    }
  }

  fileprivate mutating func append(json statistics: StoreStatistics, _ cursors: [CursorLag]) {
    append(
      contentsOf: """
        {"events":\(statistics.events),"streams":\(statistics.streams),"end_offset":\(statistics.endOffset),\
        "segments":\(statistics.segments),"log_bytes":\(statistics.logBytes),"index_bytes":\(statistics.indexBytes),\
        "cursors":[
        """.utf8)
    for (index, cursor) in cursors.enumerated() {
      if index > 0 { append(UInt8(ascii: ",")) }
      append(contentsOf: #"{"name":"#.utf8)
      append(jsonString: cursor.name)
      append(contentsOf: #","place":\#(cursor.place),"lag":\#(cursor.lag)}"#.utf8)
    }
    append(contentsOf: "]}\n".utf8)
  }
}

extension String {
  /// The bytes with the fields' escapes.
  fileprivate var escapedOnOneLine: [UInt8] {
    var text = self
    return text.withUTF8 { utf8 in
      var bytes: [UInt8] = []
      bytes.append(escaping: UnsafeRawBufferPointer(utf8))
      return bytes
    }
  }
}
