import LogStore

/// Events appended by so many writers, so many at a time, synced or buffered.
struct AppendWorkload: Sendable {
  var shape: EventShape
  var writers: Int
  var batch: Int
  var isSynced: Bool
  var events: Int?

  /// The two take turns this often; before that each has one turn that isn't counted.
  private static let turns = 5
  private static let poolEvents = 1 << 16

  private var name: String {
    let how = isSynced ? "append synced" : "append buffered"
    return "\(how), \(batch) by \(writers)"
  }

  /// Appends in one turn of one writer.
  private var appendsPerTurn: Int {
    let usual = isSynced ? (writers == 1 ? (batch == 1 ? 5_000 : 500_000) : 2_000 * writers) : 2_000_000
    return max(1, (events ?? max(usual, batch * writers)) / Self.turns / writers / batch)
  }

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    reporter.progress("\(name): preparing")
    let store = try LogStore.open(directory.file("store"))
    // Room for a whole turn: writing the same pages again before they are synced would be less work than LogStore's.
    let turnBytes = appendsPerTurn * writers * shape.frameBytes(batch)
    let raw = try RawFile(directory.file("raw"), byteCount: min(max(64 << 20, turnBytes), 4 << 30))
    // Made beforehand: making an event is the caller's work, and the limit doesn't make any.
    let pool = (0..<max(1, min(Self.poolEvents / batch, appendsPerTurn * writers))).map { number in
      Append(
        (0..<batch).map { index in
          let event = number * batch + index
          return shape.event(event, stream: event % (Self.poolEvents / 4))
        })
    }
    let frame = shape.frame(batch, first: 0)
    let latencies = (store: Latencies(), raw: Latencies())
    var seconds = (store: 0.0, raw: 0.0)
    for turn in 0...Self.turns {
      reporter.progress("\(name): turn \(turn) of \(Self.turns)")
      let isCounted = turn > 0
      let storeTime = try await time { try await append(pool, to: store, isCounted ? latencies.store : nil) }
      if !isSynced { try raw.empty() }
      let rawTime = try await time { try await append(frame, to: raw, isCounted ? latencies.raw : nil) }
      if isCounted {
        seconds.store += storeTime
        seconds.raw += rawTime
      }
    }
    try await store.close()
    let events = appendsPerTurn * writers * batch * Self.turns
    let limit = Double(events) / seconds.raw
    for (system, seconds, latencies) in [
      ("logstore", seconds.store, latencies.store), ("limit", seconds.raw, latencies.raw),
    ] {
      reporter.add(
        Measurement(
          workload: name, system: system, events: events, payloadBytes: shape.payloadBytes, writers: writers,
          batch: batch, seconds: seconds, p50: latencies.percentile(50), p99: latencies.percentile(99), limit: limit))
    }
  }

  private func append(_ pool: [Append], to store: LogStore, _ latencies: Latencies?) async throws {
    let appends = appendsPerTurn
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<writers {
        group.addTask {
          for number in 0..<appends {
            let append = pool[(writer * appends + number) % pool.count]
            let start = nowNanoseconds()
            _ = try await isSynced ? store.append(append) : store.appendBuffered(append)
            latencies?.record(nowNanoseconds() - start)
          }
        }
      }
      try await group.waitForAll()
    }
    if !isSynced { try await store.flush() }
  }

  private func append(_ frame: [UInt8], to raw: RawFile, _ latencies: Latencies?) async throws {
    let appends = appendsPerTurn
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<writers {
        group.addTask {
          // A thread for each writer, since each blocks in its own sync.
          try await onThread {
            for _ in 0..<appends {
              let start = nowNanoseconds()
              try raw.append(frame)
              if isSynced { try raw.sync() }
              latencies?.record(nowNanoseconds() - start)
            }
          }
        }
      }
      try await group.waitForAll()
    }
    if !isSynced { try await onThread { try raw.sync() } }
  }
}

/// Seconds that `body` took.
func time(_ body: () async throws -> Void) async rethrows -> Double {
  let start = nowNanoseconds()
  try await body()
  return Double(nowNanoseconds() - start) / 1e9
}

/// Fills a new store for a workload that reads.
func fill(
  _ path: String, _ shape: EventShape, events: Int, reporter: Reporter, stream: (_ event: Int) -> Int
) async throws -> LogStore {
  let store = try LogStore.open(path)
  for first in stride(from: 0, to: events, by: 1000) {
    if first % 100_000 == 0 { reporter.progress("writing \(first) of \(events) events") }
    _ = try await store.appendBuffered(
      Append((first..<min(first + 1000, events)).map { shape.event($0, stream: stream($0)) }))
  }
  try await store.flush()
  return store
}
