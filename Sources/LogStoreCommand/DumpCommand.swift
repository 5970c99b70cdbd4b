import ArgumentParser
import LogStore

struct DumpCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump",
    abstract: "Print events: OFFSET⇥STREAM⇥VERSION⇥TYPE⇥PAYLOAD, one a line.",
    discussion: """
      Only reads, and prints what is durable, also while another process writes. Tabs, newlines, carriage returns and \
      backslashes in a field are written \\t, \\n, \\r and \\\\; all other bytes of a payload as they are. In JSON, a \
      payload that is not UTF-8 is `payload_base64`.

      Where a repair could not save events, it prints a line `missing FIRST..LAST` to standard error. With --stream, events \
      that the stream lost are an error, unless --skip-missing is given. It refuses a damaged store, unless --allow-damaged \
      is given: then it prints the sound events, and reports damaged places and missing events on standard error.
      """)

  @OptionGroup var location: StoreLocation

  @Option(help: ArgumentHelp("Start at this offset.", valueName: "offset"))
  var from: UInt64 = 0

  @Option(help: "Only this stream.")
  var stream: String?

  @Option(help: ArgumentHelp("At most this many events.", valueName: "n"))
  var limit: UInt64 = .max

  @Option(help: "tsv or json, one object a line.")
  var format: RowFormat = .tsv

  @Flag(help: "With --stream, leave out the events that a repair could not save.")
  var skipMissing = false

  @Flag(help: "Print the sound events of a damaged store.")
  var allowDamaged = false

  func validate() throws {
    if let stream { try checkName(stream, "--stream") }
    if skipMissing, stream == nil { throw ValidationError("--skip-missing goes with --stream") }
  }

  func run() async throws {
    let output = Output()
    if allowDamaged {
      try output.add(eventsOf: DamagedLog(location.directory), from: from, stream: stream, limit: limit, as: format)
      return try output.flush()
    }
    let reader = try LogReader.open(location.directory)
    reportTornTail(reader.recovery.tornTail)
    do {
      if let stream {
        try dump(stream: stream, of: reader, to: output)
      } else {
        let next = try output.add(eventsOf: reader, from: from, limit: limit, as: format)
        reportMissing(reader.gaps, from: from, to: next)
      }
    } catch let error as LogStoreError {
      // Sound events before the damage are still printed.
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
      // In pieces, so that a closed output ends a long stream soon.
      var count: UInt64 = 0
      try reader.forEach(
        inStream: stream, from: first, limit: Int(min(left, 1000)), skippingMissing: skipMissing
      ) { event in
        version = event.version + 1
        count += 1
        guard failure == nil else { return }
        do throws(OutputError) {
          try output.add { $0.append(event, as: format) }
        } catch {
          failure = error
        }
      }
      if let failure { throw failure }
      guard count > 0 else { return }
      left -= count
    }
  }

  /// The first version at or after `--from`. Offsets ascend with versions, so a few single reads find it. Where versions
  /// are missing, the first one behind them is used instead.
  private func firstVersion(of stream: String, in reader: LogReader) throws -> UInt64 {
    guard from > 0 else { return 1 }
    var low: UInt64 = 1
    var high = try reader.streamVersion(stream) + 1
    while low < high {
      let middle = low + (high - low) / 2
      guard let event = try reader.stream(stream, from: middle, limit: 1, skippingMissing: true).first else {
        high = middle
        continue
      }
      if event.offset < from { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

extension Output {
  /// Prints events from an offset up to the durable end, or fewer if the task is cancelled. Returns the offset after the
  /// last. An event costs no allocation, and its bytes are copied once, from the mapping into the buffer.
  @discardableResult
  func add(
    eventsOf reader: LogReader, from offset: UInt64, limit: UInt64 = .max, as format: RowFormat
  ) throws -> UInt64 {
    guard limit > 0 else { return offset }
    var left = limit
    let end = reader.endOffset
    var cursor = reader.cursor(from: offset)
    while left > 0, cursor.offset < end, let event = try cursor.next() {
      try add(event, as: format)
      // Bytes that became unreadable were printed as zeros.
      try cursor.check()
      left -= 1
    }
    return cursor.offset
  }
}
