import Foundation
import LogStore

/// All events in order, borrowed, everything checked; hot.
struct ScanWorkload {
  var shape: EventShape
  var events: Int
  private static let turns = 5
  private static let batch = 1000

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let store = try await fill(directory.file("store"), shape, events: events, reporter: reporter) { $0 % 100_000 }
    _ = try writeFrames(shape, events: events, batch: Self.batch, to: directory.file("raw"))
    let raw = try RawMapping(directory.file("raw"))
    var seconds = (store: 0.0, raw: 0.0)
    for turn in 0...Self.turns {
      reporter.progress("scan: turn \(turn) of \(Self.turns)")
      let storeTime = try await time { try expect(try scan(store.reader), "LogStore") }
      let rawTime = try await time { try expect(scan(raw), "the limit") }
      if turn > 0 {
        seconds.store += storeTime
        seconds.raw += rawTime
      }
    }
    try await store.close()
    let limit = Double(events * Self.turns) / seconds.raw
    for (system, seconds) in [("logstore", seconds.store), ("limit", seconds.raw)] {
      reporter.add(
        Measurement(
          workload: "scan, hot", system: system, events: events * Self.turns, payloadBytes: shape.payloadBytes,
          writers: 0, batch: Self.batch, seconds: seconds, limit: limit))
    }
  }

  private func expect(_ found: Int, _ system: String) throws {
    guard found == events else { throw BenchError("\(system) read \(found) events of \(events)") }
  }

  private func scan(_ reader: LogReader) throws -> Int {
    var count = 0
    var byteCount = 0
    try reader.forEach(from: 0) { event in
      count += 1
      byteCount += event.payload.byteCount
      return true
    }
    return byteCount == count * shape.payloadBytes ? count : -1
  }

  private func scan(_ raw: RawMapping) -> Int {
    var count = 0
    var position = 0
    let bytes = raw.bytes
    while position + EventShape.frameHeaderBytes <= bytes.count {
      let byteCount = Int(raw.number(at: position + 4))
      guard crc32c(bytes, position + 4, EventShape.frameHeaderBytes - 4) == raw.number(at: position) else { return -1 }
      var record = position + EventShape.frameHeaderBytes
      for _ in 0..<raw.number(at: position + 24) {
        let length = Int(raw.number(at: record + 4))
        guard record + length <= bytes.count, crc32c(bytes, record + 4, length - 4) == raw.number(at: record) else {
          return -1
        }
        record += length
        count += 1
      }
      position += byteCount
    }
    return count
  }
}

/// Streams of five events, which lie far apart in the log, each read in one call; hot.
struct LoadWorkload {
  var shape: EventShape
  var events: Int
  private static let turns = 5
  private static let loadsPerTurn = 20_000
  private static let eventsPerStream = 5

  func run(in directory: BenchDirectory, _ reporter: Reporter) async throws {
    let streams = max(1, events / Self.eventsPerStream)
    let total = streams * Self.eventsPerStream
    let store = try await fill(directory.file("store"), shape, events: total, reporter: reporter) { $0 % streams }
    func anonymous() -> String { (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8))?.split(separator: "\n").filter { $0.hasPrefix("RssAnon") || $0.hasPrefix("VmHWM") }.joined(separator: " ") ?? "" }
    print("filled", anonymous())
    let indexTime = try await time { try await store.waitUntilIndexed() }
    let s = try store.reader.statistics()
    print("indexed after", indexTime, "index bytes an event", Double(s.indexBytes) / Double(s.events), "streams", s.streams, anonymous())
    let openTime = try await time { let r = try LogReader.open(directory.file("store")); _ = try r.streamVersion("nobody"); r.close() }
    print("open", openTime)
    let unknown = try await time { for i in 0..<100_000 { guard try store.reader.streamVersion("nobody-\(i)") == 0 else { throw BenchError("x") } } }
    print("unknown stream ns", unknown * 1e4)
    let places = try writeFrames(shape, events: min(total, 2_000_000), batch: 1000, to: directory.file("raw"))
    let raw = try RawMapping(directory.file("raw"))
    // The same for both, and on every run.
    var order = SplitMix(state: 42)
    let latencies = (store: Latencies(), raw: Latencies())
    var seconds = (store: 0.0, raw: 0.0)
    for turn in 0...Self.turns {
      reporter.progress("load: turn \(turn) of \(Self.turns)")
      let chosen = (0..<Self.loadsPerTurn).map { _ in Int(order.next() % UInt64(streams)) }
      let names = chosen.map(EventShape.stream)
      let isCounted = turn > 0
      let storeTime = try await time {
        for name in names {
          let start = nowNanoseconds()
          var found = 0
          try store.reader.forEach(inStream: name) { event in
            found += event.payload.byteCount == shape.payloadBytes ? 1 : 0
          }
          if isCounted { latencies.store.record(nowNanoseconds() - start) }
          guard found == Self.eventsPerStream else { throw BenchError("stream \(name) has \(found) events") }
        }
      }
      let rawTime = try await time {
        for stream in chosen {
          let start = nowNanoseconds()
          for version in 0..<Self.eventsPerStream {
            let place = places[(version * streams + stream) % places.count]
            let length = Int(raw.number(at: place + 4))
            guard crc32c(raw.bytes, place + 4, length - 4) == raw.number(at: place) else {
              throw BenchError("the limit's own file is damaged")
            }
          }
          if isCounted { latencies.raw.record(nowNanoseconds() - start) }
        }
      }
      if isCounted {
        seconds.store += storeTime
        seconds.raw += rawTime
      }
    }
    try await store.close()
    let read = Self.turns * Self.loadsPerTurn * Self.eventsPerStream
    let limit = Double(read) / seconds.raw
    for (system, seconds, latencies) in [
      ("logstore", seconds.store, latencies.store), ("limit", seconds.raw, latencies.raw),
    ] {
      reporter.add(
        Measurement(
          workload: "load of \(Self.eventsPerStream) of \(streams) streams", system: system, events: read,
          payloadBytes: shape.payloadBytes, writers: 0, batch: Self.eventsPerStream, seconds: seconds,
          p50: latencies.percentile(50), p99: latencies.percentile(99), limit: limit))
    }
  }
}

/// Numbers that look random and are the same on every run.
struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}
