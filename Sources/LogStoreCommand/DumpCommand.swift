import ArgumentParser
import LogStore

struct DumpCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump",
    abstract: "Print events: OFFSET⇥STREAM⇥VERSION⇥TYPE⇥PAYLOAD, one a line.",
    discussion: """
      Only reads, and prints what is durable, also while another process is writing. Tabs, newlines, carriage returns and \
      backslashes in a field are written \\t, \\n, \\r and \\\\; all other bytes of a payload as they are. In JSON, a \
      payload that is not UTF-8 is `payload_base64`.
      """)

  @OptionGroup var location: StoreLocation

  @Option(help: ArgumentHelp("Begin at this offset.", valueName: "offset"))
  var from: UInt64 = 0

  @Option(help: "Only this stream.")
  var stream: String?

  @Option(help: ArgumentHelp("At most this many events.", valueName: "n"))
  var limit: UInt64 = .max

  @Option(help: "tsv or json, one object a line.")
  var format: RowFormat = .tsv

  func run() async throws {
    let reader = try LogReader.open(location.directory)
    reportTornTail(reader.recovery.tornTail)
    let output = Output()
    do {
      if let stream {
        try dump(stream: stream, of: reader, to: output)
      } else {
        try output.add(eventsOf: reader, from: from, limit: limit, as: format)
      }
    } catch let error as LogStoreError {
      // What was sound before the damage is still printed.
      try output.flush()
      throw error
    }
    try output.flush()
  }

  private func dump(stream: String, of reader: LogReader, to output: Output) throws {
    var version = try firstVersion(of: stream, in: reader)
    var left = limit
    while left > 0 {
      var failure: OutputError?
      let first = version
      // In pieces, so that an output that is gone ends a long stream soon.
      try reader.forEach(inStream: stream, from: first, limit: Int(min(left, 1000))) { event in
        version = event.version + 1
        guard failure == nil else { return }
        do throws(OutputError) {
          try output.add { $0.append(event, as: format) }
        } catch {
          failure = error
        }
      }
      if let failure { throw failure }
      guard version > first else { return }
      left -= version - first
    }
  }

  /// The first version at or after `--from`. Offsets ascend with versions, so a few single reads find it.
  private func firstVersion(of stream: String, in reader: LogReader) throws -> UInt64 {
    guard from > 0 else { return 1 }
    var low: UInt64 = 1
    var high = try reader.streamVersion(stream) + 1
    while low < high {
      let middle = low + (high - low) / 2
      guard let event = try reader.stream(stream, from: middle, limit: 1).first else { return middle }
      if event.offset < from { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

extension Output {
  /// Prints events from an offset up to the durable end, or fewer; returns the offset after the last. Nothing is
  /// allocated for an event, and its bytes are copied once, from the mapping into the buffer.
  @discardableResult
  func add(
    eventsOf reader: LogReader, from offset: UInt64, limit: UInt64 = .max, as format: RowFormat
  ) throws -> UInt64 {
    guard limit > 0, offset < reader.endOffset else { return offset }
    var left = limit
    var failure: OutputError?
    let next = try reader.forEach(from: offset) { event in
      do throws(OutputError) {
        try add { $0.append(event, as: format) }
      } catch {
        failure = error
        return false
      }
      left -= 1
      return left > 0
    }
    if let failure { throw failure }
    return next
  }
}
