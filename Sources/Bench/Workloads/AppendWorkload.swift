import LogStore
import Synchronization

/// Appends events with a number of writers and a batch size, synced or buffered.
struct AppendWorkload: Sendable {
  var shape: EventShape
  var writers: Int
  var batch: Int
  var isSynced: Bool
  /// The events of each system in all counted runs.
  var events: Int?
  var peers: [PeerKind]
  var runs: Int

  private static let poolEvents = 1 << 16
  private static let streams = poolEvents / 4
  /// Without `--events`: the events in all runs, as if there were five.
  private var usualEvents: Int {
    if !isSynced { return 2_000_000 }
    if writers == 1 { return batch == 1 ? 10_000 : 500_000 }
    return 5_000 * writers
  }

  private var name: String {
    let how = isSynced ? "append synced" : "append buffered"
    return "\(how), \(batch) by \(writers)"
  }

  /// The bars hold only for these shapes.
  private var bar: Bar? {
    switch (isSynced, writers, batch) {
    case (true, 1, 1): .ratio(0.9)
    case (true, 64, 1): .ratio(2)
    case (true, 1, 100): .ratio(0.9)
    case (false, 1, 1000): .ratio(0.75)
    default: nil
    }
  }

  /// Appends in one turn of one writer.
  private var appendsPerTurn: Int {
    let total = events.map { $0 / runs } ?? max(usualEvents, batch * writers) / 5
    return max(1, total / writers / batch)
  }

  /// Fewer if every writer waits for the syncs of all others.
  private func appendsPerTurn(of peer: PeerKind) -> Int {
    isSynced && !peer.sharesSyncs ? max(1, appendsPerTurn * min(8, writers) / writers) : appendsPerTurn
  }

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    reporter.progress("\(name): preparing")
    let watch = BusynessWatch()
    // Created beforehand: creating an event is the caller's work, and the limit creates none.
    let pool = (0..<max(1, min(Self.poolEvents / batch, appendsPerTurn * writers))).map { number in
      Append(
        (0..<batch).map { index in
          let event = number * batch + index
          return shape.event(event, stream: event % Self.streams)
        })
    }
    let store = try LogStore.open(directory.file("store"))
    var contenders = [storeContender(store, pool), try limitContender(directory.file("raw"))]
    let opened = try peers.map { kind in
      (kind: kind, peer: try kind.open(directory.file(kind.rawValue), isSynced: isSynced))
    }
    for (kind, peer) in opened { contenders.append(peerContender(kind, peer, pool)) }
    let turns = try await interleave(contenders, runs: runs, workload: name, reporter)
    let busyness = watch.since()
    try await store.close()
    var disk: [String: Measurement.DiskUse] = [:]
    // Synced appends write only as many events as the time allows, too few for the size to mean anything.
    if !isSynced {
      let size = try StoreSize(closed: directory.file("store"))
      disk[Contender.logstore] = Measurement.DiskUse(
        overheadPerEvent: size.overhead(events: events(of: turns[0]), payloadBytes: shape.payloadBytes),
        aheadBytes: size.aheadBytes)
      for (kind, peer) in opened {
        reporter.progress("\(name): measuring \(kind.rawValue)'s files")
        try peer.settle()
        peer.close()
        let events = appendsPerTurn(of: kind) * writers * batch * (runs + 1)
        let total = allocatedBytes(in: directory.file(kind.rawValue))
        disk[kind.rawValue] = Measurement.DiskUse(
          overheadPerEvent: Double(total - events * shape.payloadBytes) / Double(events), aheadBytes: 0)
      }
    }
    for (_, peer) in opened { peer.close() }
    reporter.add(
      WorkloadResult(
        name: name, payloadBytes: shape.payloadBytes, writers: writers, batch: batch, turns: turns,
        busyness: busyness, bar: bar, disk: disk))
  }

  /// Includes the round that doesn't count.
  private func events(of turns: Turns) -> Int { turns.eventsPerTurn * (runs + 1) }

  private func storeContender(_ store: LogStore, _ pool: [Append]) -> Contender {
    let appends = appendsPerTurn
    return Contender(
      system: Contender.logstore, settings: "default options; one task for each writer",
      eventsPerTurn: appends * writers * batch
    ) { _, latencies in
      var times: [[UInt64]] = []
      let seconds = try await time {
        times = try await withThrowingTaskGroup(of: [UInt64].self) { group in
          for writer in 0..<writers {
            group.addTask {
              var times: [UInt64] = []
              times.reserveCapacity(appends)
              for number in 0..<appends {
                let append = pool[(writer * appends + number) % pool.count]
                let start = nowNanoseconds()
                _ = try await isSynced ? store.append(append) : store.appendBuffered(append)
                times.append(nowNanoseconds() - start)
              }
              return times
            }
          }
          return try await group.reduce(into: []) { $0.append($1) }
        }
        if !isSynced { try await finishImport(store) }
      }
      for times in times { latencies.record(times) }
      return seconds
    }
  }

  private func limitContender(_ path: String) throws -> Contender {
    let appends = appendsPerTurn
    // Room for a whole turn: writing the same pages again before they are synced would be less work than LogStore does.
    let turnBytes = appends * writers * shape.frameBytes(batch)
    let prewritten = try RawFile(path, byteCount: isSynced ? min(max(64 << 20, turnBytes), 4 << 30) : 0)
    let imports = Counter()
    let frame = shape.frame(batch, first: 0)
    let group = isSynced && writers > 1 ? RawGroup(prewritten, groupBytes: frame.count * writers) : nil
    return Contender(
      system: Contender.limit, settings: limitSettings,
      eventsPerTurn: appends * writers * batch
    ) { _, latencies in
      // Each import goes into a new file that stays, as in a log. A file that is emptied releases its pages, which are then
      // reused while they are warm, and a growing log never finds its memory that warm.
      let raw = isSynced ? prewritten : try RawFile(growing: "\(path)-\(imports.add(1))", byteCount: turnBytes)
      return try await onThreads(writers, latencies) { _ in
        var times: [UInt64] = []
        times.reserveCapacity(appends)
        for _ in 0..<appends {
          let start = nowNanoseconds()
          if let group {
            try group.append(frame)
          } else {
            try raw.append(frame)
            if isSynced { try raw.sync() }
          }
          times.append(nowNanoseconds() - start)
        }
        return times
      } then: {
        if !isSynced { try raw.sync() }
      }
    }
  }

  private var limitSettings: String {
    if !isSynced {
      return "pwrite of LogStore's bytes into a new file each turn, all of which stay, one fdatasync at the end"
    }
    return "pwrite and fdatasync of LogStore's bytes into space written before"
      + (writers > 1 ? ", a thread for each writer, threads that wait sharing one sync" : "")
  }

  private func peerContender(_ kind: PeerKind, _ peer: any Peer, _ pool: [Append]) -> Contender {
    let appends = appendsPerTurn(of: kind)
    return Contender(
      system: kind.rawValue, settings: "\(kind.version): \(kind.settings)", eventsPerTurn: appends * writers * batch,
      turn: { _, latencies in
        try await onThreads(writers, latencies) { writer in
          var times: [UInt64] = []
          times.reserveCapacity(appends)
          for number in 0..<appends {
            let events = pool[(writer * appends + number) % pool.count].events
            let start = nowNanoseconds()
            try peer.append(events)
            times.append(nowNanoseconds() - start)
          }
          return times
        } then: {
          if !isSynced { try peer.flush() }
        }
      }, rest: { try peer.rest() })
  }
}

/// The end of an import: everything is durable and the indexes are built.
func finishImport(_ store: LogStore) async throws {
  try await store.flush()
  try await store.waitUntilIndexed()
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
  try await finishImport(store)
  return store
}

/// The same events in a peer's files.
func fill(
  _ kind: PeerKind, _ path: String, _ shape: EventShape, events: Int, reporter: Reporter,
  stream: @escaping @Sendable (_ event: Int) -> Int
) async throws -> any Peer {
  try await onThread {
    let peer = try kind.open(path, isSynced: false)
    for first in stride(from: 0, to: events, by: 1000) {
      if first % 100_000 == 0 { reporter.progress("writing \(first) of \(events) events into \(kind.rawValue)") }
      try peer.append((first..<min(first + 1000, events)).map { shape.event($0, stream: stream($0)) })
    }
    try peer.flush()
    try peer.settle()
    return peer
  }
}
