import LogStore

/// Streams of five events in random order, each stream in one call; hot.
struct LoadWorkload {
  var shape: EventShape
  var events: Int
  var peers: [PeerKind]
  var runs: Int
  private static let loadsPerTurn = 20_000
  private static let eventsPerStream = 5

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let watch = BusynessWatch()
    let streams = max(1, events / Self.eventsPerStream)
    let total = streams * Self.eventsPerStream
    let name = "load of \(Self.eventsPerStream) of \(streams) streams"
    // A stream's events lie as far from each other as they can.
    let stream: @Sendable (Int) -> Int = { $0 % streams }
    let store = try await fill(directory.file("store"), shape, events: total, reporter: reporter, stream: stream)
    let places = try writeFrames(shape, events: total, batch: 1000, to: directory.file("raw"))
    let raw = try RawMapping(directory.file("raw"))
    // Others in every run, and the same for all systems.
    var random = SplitMix(state: 42)
    let chosen = (0...runs).map { _ in
      (0..<Self.loadsPerTurn).map { _ in Int(random.next() % UInt64(streams)) }
    }
    let payloadBytes = shape.payloadBytes
    let expected = Payloads(count: Self.eventsPerStream, byteCount: Self.eventsPerStream * payloadBytes)
    func contender(
      _ system: String, _ settings: String,
      _ load: @escaping @Sendable (_ stream: Int, _ name: String) throws -> Payloads
    ) -> Contender {
      Contender(system: system, settings: settings, eventsPerTurn: Self.loadsPerTurn * Self.eventsPerStream) {
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
    let reader = store.reader
    var contenders = [
      contender(Contender.logstore, "borrowed events, every byte checked") { _, name in
        var found = Payloads()
        try reader.forEach(inStream: name) { event in
          found.count += 1
          found.byteCount += event.payload.byteCount
        }
        return found
      },
      contender(Contender.limit, "CRC-32C of the records at places known beforehand, in a mapped file") { stream, _ in
        var found = Payloads()
        for version in 0..<Self.eventsPerStream {
          let place = places[version * streams + stream]
          let length = Int(raw.number(at: place + 4))
          guard crc32c(raw.bytes, place + 4, length - 4) == raw.number(at: place) else {
            throw BenchError("the limit's own file is damaged")
          }
          found.count += 1
          found.byteCount += payloadBytes
        }
        return found
      },
    ]
    var opened: [(kind: PeerKind, peer: any Peer)] = []
    for kind in peers {
      let peer = try await fill(
        kind, directory.file(kind.rawValue), shape, events: total, reporter: reporter, stream: stream)
      opened.append((kind, peer))
      contenders.append(contender(kind.rawValue, "\(kind.version): \(kind.settings)") { try peer.load($1) })
    }
    let turns = try await interleave(contenders, runs: runs, workload: name, reporter)
    let busyness = watch.since()
    try await store.close()
    let size = try StoreSize(closed: directory.file("store"))
    var disk = [
      Contender.logstore: Measurement.DiskUse(
        overheadPerEvent: size.overhead(events: total, payloadBytes: payloadBytes), aheadBytes: size.aheadBytes)
    ]
    for (kind, peer) in opened {
      peer.close()
      let bytes = allocatedBytes(in: directory.file(kind.rawValue))
      disk[kind.rawValue] = Measurement.DiskUse(
        overheadPerEvent: Double(bytes - total * payloadBytes) / Double(total), aheadBytes: 0)
    }
    reporter.add(
      WorkloadResult(
        name: name, payloadBytes: payloadBytes, writers: 0, batch: Self.eventsPerStream, turns: turns,
        busyness: busyness, bar: .medianOf(.lmdb), disk: disk))
  }
}
