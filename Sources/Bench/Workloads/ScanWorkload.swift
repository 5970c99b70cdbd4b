import LogStore

/// All events in order, borrowed, everything checked; hot.
struct ScanWorkload {
  var shape: EventShape
  var events: Int
  var peers: [PeerKind]
  var runs: Int
  private static let batch = 1000
  private static let streams = 100_000
  private static let name = "scan, hot"

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let watch = BusynessWatch()
    let stream: @Sendable (Int) -> Int = { $0 % Self.streams }
    let store = try await fill(directory.file("store"), shape, events: events, reporter: reporter, stream: stream)
    _ = try writeFrames(shape, events: events, batch: Self.batch, to: directory.file("raw"))
    let raw = try RawMapping(directory.file("raw"))
    let expected = Payloads(count: events, byteCount: events * shape.payloadBytes)
    func contender(
      _ system: String, _ settings: String, _ scan: @escaping @Sendable () throws -> Payloads
    ) -> Contender {
      Contender(system: system, settings: settings, eventsPerTurn: events) { _, _ in
        try await onThread {
          let start = nowNanoseconds()
          let found = try scan()
          let seconds = Double(nowNanoseconds() - start) / 1e9
          guard found == expected else { throw BenchError("\(system) read \(found) instead of \(expected)") }
          return seconds
        }
      }
    }
    var contenders = [
      contender(Contender.logstore, "borrowed events, every byte checked") { try Self.scan(store.reader) },
      contender(Contender.limit, "every record's and header's CRC-32C in a mapped file, one after the other") {
        try Self.scan(raw, payloadBytes: shape.payloadBytes)
      },
    ]
    var opened: [any Peer] = []
    for kind in peers {
      let peer = try await fill(
        kind, directory.file(kind.rawValue), shape, events: events, reporter: reporter, stream: stream)
      opened.append(peer)
      contenders.append(contender(kind.rawValue, "\(kind.version): \(kind.settings)") { try peer.scan() })
    }
    let turns = try await interleave(contenders, runs: runs, workload: Self.name, reporter)
    let busyness = watch.since()
    for peer in opened { peer.close() }
    try await store.close()
    reporter.add(
      WorkloadResult(
        name: Self.name, payloadBytes: shape.payloadBytes, writers: 0, batch: Self.batch, turns: turns,
        busyness: busyness, bar: .ratio(1, aim: 1.5)))
  }

  private static func scan(_ reader: LogReader) throws -> Payloads {
    var found = Payloads()
    try reader.forEach(from: 0) { event in
      found.count += 1
      found.byteCount += event.payload.byteCount
      return true
    }
    return found
  }

  private static func scan(_ raw: RawMapping, payloadBytes: Int) throws -> Payloads {
    var found = Payloads()
    var position = 0
    let bytes = raw.bytes
    while position + EventShape.frameHeaderBytes <= bytes.count {
      let byteCount = Int(raw.number(at: position + 4))
      guard crc32c(bytes, position + 4, EventShape.frameHeaderBytes - 4) == raw.number(at: position) else {
        throw BenchError("the limit's own file is damaged")
      }
      var record = position + EventShape.frameHeaderBytes
      for _ in 0..<raw.number(at: position + 24) {
        let length = Int(raw.number(at: record + 4))
        guard record + length <= bytes.count, crc32c(bytes, record + 4, length - 4) == raw.number(at: record) else {
          throw BenchError("the limit's own file is damaged")
        }
        found.count += 1
        found.byteCount += payloadBytes
        record += length
      }
      position += byteCount
    }
    return found
  }
}
