import LogStore

/// Loads streams of five events in random order, each stream in one call; hot.
struct LoadWorkload {
  var shape: EventShape
  var events: Int
  var peers: [PeerKind]
  var runs: Int
  private static let loadsPerTurn = 20_000
  private static let eventsPerStream = 5

  private var streams: Int { max(1, events / Self.eventsPerStream) }
  private var total: Int { streams * Self.eventsPerStream }

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let watch = BusynessWatch()
    let name = "load of \(Self.eventsPerStream) of \(streams) streams"
    let streams = streams
    // A stream's events lie as far from each other as possible.
    let stream: @Sendable (Int) -> Int = { $0 % streams }
    let store = try await fill(directory.file("store"), shape, events: total, reporter: reporter, stream: stream)
    let chosen = chooseStreams()
    var contenders = [logStore(store.reader, chosen), try limit(directory.file("raw"), chosen)]
    var opened: [(kind: PeerKind, peer: any Peer)] = []
    for kind in peers {
      let peer = try await fill(
        kind, directory.file(kind.rawValue), shape, events: total, reporter: reporter, stream: stream)
      opened.append((kind, peer))
      contenders.append(
        contender(kind.rawValue, "\(kind.version): \(kind.settings)", chosen) { try peer.load($1) })
    }
    let turns = try await interleave(contenders, runs: runs, workload: name, reporter)
    let busyness = watch.since()
    try await store.close()
    for (_, peer) in opened { peer.close() }
    reporter.add(
      WorkloadResult(
        name: name, payloadBytes: shape.payloadBytes, writers: 0, batch: Self.eventsPerStream, turns: turns,
        busyness: busyness, bar: .medianOf(.lmdb), disk: try diskUse(in: directory)))
  }

  /// The streams of each run's loads: different ones in every run, and the same for all systems.
  private func chooseStreams() -> [[Int]] {
    var random = SplitMix(state: 42)
    return (0...runs).map { _ in
      (0..<Self.loadsPerTurn).map { _ in Int(random.next() % UInt64(streams)) }
    }
  }

  // MARK: - Contenders

  private func logStore(_ reader: LogReader, _ chosen: [[Int]]) -> Contender {
    contender(Contender.logstore, "borrowed events, every byte checked", chosen) { _, name in
      var found = Payloads()
      try reader.forEach(inStream: name) { event in
        found.count += 1
        found.byteCount += event.payload.byteCount
      }
      return found
    }
  }

  private func limit(_ file: String, _ chosen: [[Int]]) throws -> Contender {
    let positions = try writeFrames(shape, events: total, batch: 1000, to: file)
    let raw = try RawMapping(file)
    let (streams, payloadBytes) = (streams, shape.payloadBytes)
    return contender(
      Contender.limit, "CRC-32C of the records at positions known beforehand, in a mapped file", chosen
    ) { stream, _ in
      var found = Payloads()
      for version in 0..<Self.eventsPerStream {
        let position = positions[version * streams + stream]
        let length = Int(raw.number(at: position + 4))
        guard crc32c(raw.bytes, position + 4, length - 4) == raw.number(at: position) else {
          throw BenchError("the limit's own file is damaged")
        }
        found.count += 1
        found.byteCount += payloadBytes
      }
      return found
    }
  }

  /// - Parameter load: loads one stream, given by its number and its name.
  private func contender(
    _ system: String, _ settings: String, _ chosen: [[Int]],
    _ load: @escaping @Sendable (_ stream: Int, _ name: String) throws -> Payloads
  ) -> Contender {
    let expected = Payloads(count: Self.eventsPerStream, byteCount: Self.eventsPerStream * shape.payloadBytes)
    return Contender(system: system, settings: settings, eventsPerTurn: Self.loadsPerTurn * Self.eventsPerStream) {
      run, latencies in
      try await onThread {
        let names = chosen[run].map(EventShape.stream)
        var times: [UInt64] = []
        times.reserveCapacity(names.count)
        let first = nowNanoseconds()
        for (stream, name) in zip(chosen[run], names) {
          let start = nowNanoseconds()
          let found = try load(stream, name)
          times.append(nowNanoseconds() - start)
          guard found == expected else { throw BenchError("\(system) read \(found) of \(name), not \(expected)") }
        }
        let seconds = Double(nowNanoseconds() - first) / 1e9
        latencies.record(times)
        return seconds
      }
    }
  }

  // MARK: - Size

  /// Of the closed store and the peers' closed files.
  private func diskUse(in directory: BenchDirectory) throws -> [String: Measurement.DiskUse] {
    let size = try StoreSize(closed: directory.file("store"))
    var disk = [
      Contender.logstore: Measurement.DiskUse(
        overheadPerEvent: size.overhead(events: total, payloadBytes: shape.payloadBytes), aheadBytes: size.aheadBytes)
    ]
    for kind in peers {
      let bytes = allocatedBytes(in: directory.file(kind.rawValue))
      disk[kind.rawValue] = Measurement.DiskUse(
        overheadPerEvent: Double(bytes - total * shape.payloadBytes) / Double(total), aheadBytes: 0)
    }
    return disk
  }
}
