import ArgumentParser
import Glibc
import LogStore

/// What the processes of ``ScaleBench`` need to know about the log.
struct ScaleOptions: ParsableArguments {
  @Option(help: "Bytes of payload of an event.")
  var payload = 256

  @Option(help: "Events of a stream.")
  var streamsOf = 4

  @Flag(help: "A stream's events as far apart as can be, instead of within some thousand events.")
  var spread = false

  @Option(help: "Tasks that append at the same time, synced.")
  var writers = 64

  @Option(help: "Seconds of each of the three kinds of synced appends, at each size.")
  var seconds = 5.0

  @Option(help: "Bytes of memory for streams that are loaded again and again (LogStore.Options); 0 for none.")
  var streamCache = LogStore.Options().streamCacheBytes

  func validate() throws {
    guard (8...4096).contains(payload) else { throw ValidationError("--payload must be 8 to 4096") }
    guard (1...1000).contains(streamsOf) else { throw ValidationError("--streams-of must be 1 to 1000") }
    guard (1...10_000).contains(writers) else { throw ValidationError("--writers must be 1 to 10000") }
    guard (0.05...3600).contains(seconds) else { throw ValidationError("--seconds must be 0.05 to 3600") }
    guard streamCache == 0 || streamCache >= 1 << 20 else {
      throw ValidationError("--stream-cache must be 0, or at least 1048576")
    }
  }

  var storeOptions: LogStore.Options {
    var options = LogStore.Options()
    options.streamCacheBytes = streamCache
    return options
  }

  var layout: ScaleLayout {
    ScaleLayout(shape: EventShape(payloadBytes: payload), eventsPerStream: streamsOf, isSpread: spread)
  }

  /// The arguments for a child process.
  var arguments: [String] {
    [
      "--payload", "\(payload)", "--streams-of", "\(streamsOf)", "--writers", "\(writers)", "--seconds",
      fixed(seconds, 3), "--stream-cache", "\(streamCache)",
    ] + (spread ? ["--spread"] : [])
  }
}

/// The process that fills the log to the next size, measures, and then appends until it is killed.
struct ScaleWorker: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "scale-worker", shouldDisplay: false)
  @Option var dir: String
  /// Events that were filled in before, and events to fill in.
  @Option var from: Int
  @Option var to: Int
  /// The number of sizes before this one, which names the process's own streams.
  @Option var step: Int
  @OptionGroup var options: ScaleOptions

  private static let loads = 20_000
  /// How long streams are loaded again and again: one pass is too short to measure.
  private static let hotNanoseconds: UInt64 = 2_000_000_000
  private static let batch = 1000
  private static let reportEveryMicroseconds: UInt32 = 5000

  func run() async throws {
    endWithParent()
    let memory = AnonymousMemory()
    try await fillAndClose()
    let store = try LogStore.open(dir, options: options.storeOptions)
    try await load(store.reader)
    for (name, kind) in [("append", Kind.goingOn), ("new", .new), ("old", .old)] {
      try await report(name, append(kind, to: store, until: deadline(), name: kind == .goingOn ? 0 : 1) { _ in })
    }
    report("anonymous", Double(memory.now))
    report("peak", Double(memory.peak))
    printLine("appending")
    let acknowledged = Counter(0)
    // Printed offsets were acknowledged before, so they must be there after the kill.
    startThread {
      while true {
        printLine("acknowledged \(acknowledged.value)")
        usleep(Self.reportEveryMicroseconds)
      }
    }
    _ = try await append(.goingOn, to: store, until: .max, name: 2) { acknowledged.raise(to: Int($0)) }
  }

  private func report(_ name: String, _ value: Double) { printLine("\(name) \(fixed(value, 3))") }
  private func deadline() -> UInt64 { nowNanoseconds() + UInt64(options.seconds * 1e9) }

  /// Fills at full speed, and closes the store so that its size on disk can be measured.
  private func fillAndClose() async throws {
    let store = try LogStore.open(dir)
    let (layout, from, to) = (options.layout, from, to)
    let next = Counter(from)
    let start = nowNanoseconds()
    // Two tasks, so that one creates events while the other's are written.
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<2 {
        group.addTask {
          while true {
            let first = next.add(Self.batch)
            guard first < to else { return }
            let events = (first..<min(first + Self.batch, to)).map { layout.event($0, stepFrom: from, to: to) }
            _ = try await store.appendBuffered(Append(events))
            if first / Self.batch % 100 == 0 { printLine("progress \(first)") }
          }
        }
      }
      try await group.waitForAll()
    }
    try await finishImport(store)
    report("fill", Double(to - from) / (Double(nowNanoseconds() - start) / 1e9))
    let events = store.reader.endOffset
    try await store.close()
    let size = try StoreSize(closed: dir)
    report("overhead", size.overhead(events: Int(events), payloadBytes: options.payload))
    report("ahead", Double(size.aheadBytes))
  }

  /// Loads random streams in one order: once from wherever they are, once more from memory, and then again and again, hot:
  /// from the store's cache, if it has one.
  private func load(_ reader: LogReader) async throws {
    let streams = options.layout.wholeStreams(to)
    guard streams > 0 else { throw BenchError("too few events for a whole stream; ask for more --events") }
    let least = options.streamsOf
    var random = SplitMix(state: UInt64(to))
    let names = (0..<Self.loads).map { _ in EventShape.stream(Int(random.next() % UInt64(streams))) }
    for (kind, nanoseconds) in [("first", 0), ("second", 0), ("hot", Self.hotNanoseconds)] {
      let latencies = try await onThread {
        let latencies = Latencies()
        let end = nowNanoseconds() + nanoseconds
        repeat {
          for name in names {
            let start = nowNanoseconds()
            var found = 0
            try reader.forEach(inStream: name) { event in found += event.payload.byteCount > 0 ? 1 : 0 }
            latencies.record(nowNanoseconds() - start)
            guard found >= least else { throw BenchError("stream \(name) has \(found) events instead of \(least)") }
          }
        } while nowNanoseconds() < end
        return latencies
      }
      guard let percentiles = latencies.percentiles else { continue }
      report("\(kind)50", percentiles.p50)
      report("\(kind)99", percentiles.p99)
    }
  }

  private enum Kind {
    /// To streams of its own, each begun and gone on with at the version expected.
    case goingOn
    /// Each to a stream that must not be there.
    case new
    /// Each to a random whole stream of the log, which must be there.
    case old
  }

  /// Appends with all writers until a deadline. Returns the appends per second.
  ///
  /// - Parameter name: 0 to 2, a different one for each call that creates streams.
  private func append(
    _ kind: Kind, to store: LogStore, until deadline: UInt64, name: Int,
    acknowledged: @escaping @Sendable (_ end: UInt64) -> Void
  ) async throws -> Double {
    let start = nowNanoseconds()
    let payload = options.layout.shape.payload(1)
    let names = OwnStreams(part: 3 * step + name)
    let (writers, to) = (options.writers, to)
    let (perStream, streams) = (options.streamsOf, options.layout.wholeStreams(to))
    let appends = try await withThrowingTaskGroup(of: Int.self) { group in
      for writer in 0..<writers {
        group.addTask {
          var count = 0
          var random = SplitMix(state: UInt64(to) &+ UInt64(writer) &* 1_000_003)
          while nowNanoseconds() < deadline {
            let append: Append
            switch kind {
            case .goingOn:
              let stream = names.name(writer: writer, number: count / perStream)
              append = Append(
                NewEvent(stream: stream, type: EventShape.type, payload: payload),
                expecting: .version(UInt64(count % perStream)))
            case .new:
              let stream = names.name(writer: writer, number: count)
              append = Append(
                NewEvent(stream: stream, type: EventShape.type, payload: payload), expecting: .noStream)
            case .old:
              let stream = EventShape.stream(Int(random.next() % UInt64(streams)))
              append = Append(
                NewEvent(stream: stream, type: EventShape.type, payload: payload), expecting: .streamExists)
            }
            acknowledged(try await store.append(append).offsets.upperBound)
            count += 1
          }
          return count
        }
      }
      return try await group.reduce(0, +)
    }
    return Double(appends) / (Double(nowNanoseconds() - start) / 1e9)
  }
}

/// The process that opens the log after the kill, and leaves it as it was: not closed.
struct ScaleOpener: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "scale-opener", shouldDisplay: false)
  @Option var dir: String

  func run() async throws {
    let start = nowNanoseconds()
    let store = try LogStore.open(dir)
    let milliseconds = Double(nowNanoseconds() - start) / 1e6
    printLine("open \(fixed(milliseconds, 3))")
    printLine("end \(store.reader.endOffset)")
    // Exit without closing the store.
    _exit(0)
  }
}
