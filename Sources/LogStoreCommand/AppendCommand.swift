import ArgumentParser
import LogStore

struct AppendCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "append",
    abstract: "Append events, and print `ok OFFSET` for each once it is durable.",
    discussion: """
      Reads STREAM⇥TYPE⇥PAYLOAD lines from standard input, with \\t, \\n, \\r and \\\\ for a tab, newline, carriage \
      return and backslash. The payload is the rest of the line and may be any bytes. A line that ends with a carriage \
      return, as in a CRLF file, or begins with a byte order mark is refused, since neither is meant to be data: write \\r \
      for a carriage return that is. For each line, in order, it prints `ok OFFSET` once the event is durable, or `err \
      REASON` if the line is refused; the exit code is 1 if one was.

      With --batch N, N good lines are one atomic append: after a crash all of them are there, or none. A line that is no \
      event gets `err` and is not part of any batch, so the batch around it continues with the next line. The last batch \
      may be shorter. If the store refuses an append, each of its lines gets `err`. On SIGINT, SIGTERM or SIGHUP it reads \
      nothing more, finishes complete batches, and prints `err` for an incomplete one; it does not wait for a reader that \
      no longer reads its output.

      With --stream, --type and --data it appends one event, and takes the data as it is, without escapes. With --id the \
      call can be repeated, whatever became of the first one: the same stream, type and data print the first one's offset. \
      The id with another stream, type or data, or at another version than --expect names, is refused, and `err` says which \
      event has the id. --expect any and exists accept it wherever it is in the stream.
      """)

  @OptionGroup var location: StoreLocation

  @OptionGroup var newFiles: NewFileOptions

  @Option(help: ArgumentHelp("Append N lines at a time, atomically.", valueName: "n"))
  var batch: Int?

  @Option(help: "Append one event, to this stream.")
  var stream: String?

  @Option(help: "The one event's type.")
  var type: String?

  @Option(help: "The one event's payload.")
  var data: String?

  @Option(
    help: ArgumentHelp(
      "The condition on the stream for the one event: any, none (no stream), exists, or its last version.",
      valueName: "any|none|exists|N"))
  var expect: Expectation?

  @Option(
    help: "The one event's id, a UUID: sending the same event again changes nothing and prints the first one's offset.")
  var id: EventID?

  @Option(help: "The size of new segment files: a number of bytes, or a number with KiB, MiB or GiB.")
  var segmentSize: ByteCount?

  func validate() throws {
    let isSingle = stream != nil || type != nil || data != nil
    if isSingle {
      guard let stream, let type, data != nil else {
        throw ValidationError("one event needs all of --stream, --type and --data")
      }
      try checkName(stream, "--stream")
      try checkName(type, "--type")
      if batch != nil { throw ValidationError("--batch is for events from standard input") }
    } else if expect != nil || id != nil {
      throw ValidationError("--expect and --id are for one event; give --stream, --type and --data")
    }
    if let batch, batch < 1 { throw ValidationError("--batch must be at least 1") }
    if let segmentSize, !Limits.segmentBytes.contains(segmentSize.bytes) {
      throw ValidationError(
        "--segment-size must be \(Limits.segmentBytes.lowerBound) to \(Limits.segmentBytes.upperBound) bytes")
    }
  }

  func run() async throws {
    var options = LogStore.Options()
    if let segmentSize { options.segmentBytes = segmentSize.bytes }
    options.access = newFiles.access
    if let stream, let type, let data {
      try await appendOne(
        NewEvent(stream: stream, type: type, payload: Array(data.utf8), id: id), options: options)
    } else {
      // Before the store is opened, so that a signal at any moment after that closes it cleanly.
      let interrupted = try Interruption.descriptor()
      let store = try LogStore.open(location.directory, options: options)
      reportTornTail(store.recovery.tornTail)
      try await appendLines(to: store, interrupted: interrupted)
    }
  }

  private func appendOne(_ event: NewEvent, options: LogStore.Options) async throws {
    let store = try LogStore.open(location.directory, options: options)
    reportTornTail(store.recovery.tornTail)
    var line: [UInt8] = []
    var refusal: LogStoreError?
    do throws(LogStoreError) {
      let appended = try await store.append(Append(event, expecting: expect?.condition ?? .any))
      line.append(ok: appended.offsets.lowerBound)
    } catch {
      guard error.isRefusal else { throw error }
      line.append(err: error.description)
      refusal = error
    }
    // Print the response first: closing can fail, and the event is durable all the same.
    let response = Result { () throws(OutputError) in try writeAll(line, to: 1) }
    try await store.close()
    try response.get()
    if let refusal { throw refusal }
  }

  private func appendLines(to store: LogStore, interrupted: Int32) async throws {
    let pipeline = AppendPipeline(store: store, onStop: Interruption.wake)
    let input = AppendInput(pipeline: pipeline, batchSize: batch ?? 1, interrupted: interrupted)
    startThread { pipeline.runOutput() }
    startThread { input.run() }
    let outcome = await pipeline.finished()
    if let failure = outcome.failure {
      // The store has stopped; closing only releases its resources, and the first failure is the one to throw.
      try? await store.close()
      throw failure
    }
    try await store.close()
    if let inputFailure = outcome.inputFailure { throw inputFailure }
    // After a signal, output that nobody read does not change how this ends.
    if let outputFailure = outcome.outputFailure, !outputFailure.isInterruption { throw outputFailure }
    if outcome.refusedLines > 0 {
      let lines = outcome.refusedLines == 1 ? "1 line was" : "\(outcome.refusedLines) lines were"
      throw CommandFailure(message: "\(lines) refused; the err lines say why")
    }
  }
}

/// Refuses a name that no store accepts, before anything is opened or printed.
func checkName(_ name: String, _ option: String) throws {
  guard (1...Limits.nameBytes).contains(name.utf8.count) else {
    throw ValidationError("\(option) is \(name.utf8.count) bytes long; it must be 1 to \(Limits.nameBytes)")
  }
}

/// `--expect`.
struct Expectation: ExpressibleByArgument {
  var condition: StreamCondition

  init?(argument: String) {
    switch argument {
    case "any": condition = .any
    case "none": condition = .noStream
    case "exists": condition = .streamExists
    default:
      guard let version = UInt64(argument) else { return nil }
      condition = .version(version)
    }
  }
}

extension EventID: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

/// A number of bytes: `1048576`, `1024KiB` or `1MiB`.
struct ByteCount: ExpressibleByArgument {
  var bytes: Int

  init?(argument: String) {
    var digits = argument[...]
    var shift = 0
    for (suffix, bits) in [("KiB", 10), ("MiB", 20), ("GiB", 30)] where argument.hasSuffix(suffix) {
      digits = argument.dropLast(suffix.count)
      shift = bits
    }
    guard let number = Int(digits), number >= 0, number <= Int.max >> shift else { return nil }
    bytes = number << shift
  }
}

extension LogStoreError {
  /// Whether only the one append was refused and the store continues. Any other error has stopped the store.
  var isRefusal: Bool {
    switch self {
    case .invalidArgument, .limitExceeded, .conflict, .eventIDReused, .cursorBehind: true
    default: false
    }
  }
}

extension [UInt8] {
  mutating func append(ok offset: UInt64) {
    append(contentsOf: "ok ".utf8)
    append(decimal: offset)
    append(UInt8(ascii: "\n"))
  }

  mutating func append(err reason: String) {
    append(contentsOf: "err ".utf8)
    var reason = reason
    reason.withUTF8 { append(escaping: UnsafeRawBufferPointer($0), only: .lineBreaks) }
    append(UInt8(ascii: "\n"))
  }
}
