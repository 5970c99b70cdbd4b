import ArgumentParser
import Glibc
import LogStore
import Synchronization

/// The time from an append until a following reader has the event: in this process, and in another.
struct TailWorkload {
  var shape: EventShape
  /// The events in all counted runs.
  var events: Int
  var runs: Int

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let store = try LogStore.open(directory.file("store"))
    let raw = try RawFile(directory.file("raw"), byteCount: 64 << 20)
    for isOtherProcess in [false, true] {
      try await measure(isOtherProcess, store, raw, directory, reporter)
    }
    try await store.close()
  }

  private func measure(
    _ isOtherProcess: Bool, _ store: LogStore, _ raw: RawFile, _ directory: BenchDirectory, _ reporter: Reporter
  ) async throws {
    let name = isOtherProcess ? "tail from another process" : "tail in process"
    let perTurn = max(1, events / runs)
    let watch = BusynessWatch()
    // One reader for all turns, as in real use.
    let sights = try await startReader(
      isOtherProcess, store.reader, directory.file("store"), store.reader.endOffset, perTurn * (runs + 1))
    let appends = Mutex<[(start: UInt64, acknowledged: UInt64)]>([])
    let frame = shape.frame(1, first: 0)
    // Created beforehand, since the limit creates none.
    let pool = (0..<min(perTurn, 1000)).map { Append([shape.event($0, stream: $0)]) }
    let contenders = [
      Contender(system: Contender.logstore, settings: "one reader that waits", eventsPerTurn: perTurn) { _, _ in
        try await time {
          for number in 0..<perTurn {
            let append = pool[number % pool.count]
            let start = nowNanoseconds()
            _ = try await store.append(append)
            let acknowledged = nowNanoseconds()
            appends.withLock { $0.append((start, acknowledged)) }
          }
        }
      },
      Contender(
        system: Contender.limit, settings: "pwrite and fdatasync of the same bytes, without a reader",
        eventsPerTurn: perTurn
      ) { _, latencies in
        try await onThreads(1, latencies) { _ in
          var times: [UInt64] = []
          for _ in 0..<perTurn {
            let start = nowNanoseconds()
            try raw.append(frame)
            try raw.sync()
            times.append(nowNanoseconds() - start)
          }
          return times
        }
      },
    ]
    var turns = try await interleave(contenders, runs: runs, workload: name, reporter)
    let busyness = watch.since()
    let seen = try await sights.value
    guard seen.count == perTurn * (runs + 1) else {
      throw BenchError("the reader saw \(seen.count) events of \(perTurn * (runs + 1))")
    }
    let whole = Latencies()
    for (seen, append) in zip(seen, appends.withLock { $0 }).dropFirst(perTurn) {
      // The reader may be first, since both are notified at the same moment. Then it did not wait beyond the sync.
      turns[0].latencies.record(seen > append.acknowledged ? seen - append.acknowledged : 0)
      whole.record(seen > append.start ? seen - append.start : 0)
    }
    var beyond = turns
    // A raw file notifies nobody: its times belong only to the second table.
    beyond[1].latencies = Latencies()
    reporter.add(
      WorkloadResult(
        name: name, payloadBytes: shape.payloadBytes, writers: 1, batch: 1, turns: beyond, busyness: busyness,
        bar: .p99(isOtherProcess ? 1000 : 200)))
    turns[0].latencies = whole
    reporter.add(
      WorkloadResult(
        name: name + ", append to seen", payloadBytes: shape.payloadBytes, writers: 1, batch: 1, turns: turns,
        busyness: busyness))
  }

  /// Starts the reader, and returns when it waits. Its value is the time at which it had each event.
  private func startReader(
    _ isOtherProcess: Bool, _ reader: LogReader, _ path: String, _ first: UInt64, _ count: Int
  ) async throws -> Task<[UInt64], any Error> {
    guard isOtherProcess else { return Task { try await follow(reader, from: first, count: count) } }
    let process = try ChildProcess(["tail-reader", "--dir", path, "--from", "\(first)", "--count", "\(count)"])
    guard try await onThread({ process.line() }) == "ready" else {
      throw BenchError("the reading process ended early")
    }
    return Task {
      try await onThread {
        var sights: [UInt64] = []
        while let line = process.line(), let sight = UInt64(line) { sights.append(sight) }
        return sights
      }
    }
  }
}

/// Follows the log and records when it had each event.
func follow(_ reader: LogReader, from first: UInt64, count: Int) async throws -> [UInt64] {
  var sights: [UInt64] = []
  sights.reserveCapacity(count)
  var next = first
  while sights.count < count, try await reader.waitForEvents(at: next) {
    next = try reader.forEach(from: next) { _ in
      sights.append(nowNanoseconds())
      return true
    }
  }
  return sights
}

/// The other process's part of ``TailWorkload``.
struct TailReader: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "tail-reader", shouldDisplay: false)
  @Option var dir: String
  @Option var from: UInt64
  @Option var count: Int

  func run() async throws {
    endWithParent()
    let reader = try LogReader.open(dir)
    printLine("ready")
    for sight in try await follow(reader, from: from, count: count) { printLine(String(sight)) }
    _exit(0)
  }
}
