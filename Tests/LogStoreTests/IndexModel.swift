import Foundation
import Testing

@testable import LogStore

/// The expected content of a store, to compare with the results of its indexes.
struct IndexModel: Sendable {
  struct Entry: Sendable {
    var stream: String
    var id: EventID?
  }

  /// By offset.
  var entries: [Entry] = []
  /// Offsets by stream, in order of version.
  var offsets: [String: [UInt64]] = [:]

  mutating func add(_ events: [NewEvent]) {
    for event in events {
      offsets[event.stream, default: []].append(UInt64(entries.count))
      entries.append(Entry(stream: event.stream, id: event.id))
    }
  }

  /// Events for a few streams with many events, some with several, and many with one.
  func events(_ count: Int, _ generator: inout some RandomNumberGenerator) -> [NewEvent] {
    (0..<count).map { _ in
      let stream =
        switch Int.random(in: 0..<10, using: &generator) {
        case 0..<3: "long-\(Int.random(in: 0..<3, using: &generator))"
        case 3..<7: "some-\(Int.random(in: 0..<200, using: &generator))"
        default: "one-\(UInt64.random(in: .min ... .max, using: &generator))"
        }
      let id: EventID? =
        Bool.random(using: &generator)
        ? EventID(
          high: UInt64.random(in: .min ... .max, using: &generator), low: UInt64.random(in: 0..<100, using: &generator))
        : nil
      return NewEvent(
        stream: stream, type: "t",
        payload: [UInt8](repeating: 0x70, count: Int.random(in: 0..<120, using: &generator)), id: id)
    }
  }

  /// Appends this many events in appends of different sizes.
  mutating func append(
    _ count: Int, to store: LogStore, _ generator: inout some RandomNumberGenerator
  ) async throws(LogStoreError) {
    var left = count
    while left > 0 {
      let events = events(min(left, Int.random(in: 1...60, using: &generator)), &generator)
      _ = try await store.appendBuffered(Append(events))
      add(events)
      left -= events.count
    }
    try await store.flush()
  }

  /// Compares this many random queries of each kind. Returns nil if all results are right.
  ///
  /// - Parameter countsStreams: only indexes tell the number of streams, and `verify` compares them with the log.
  func check(
    _ reader: LogReader, lookUps: Int, countsStreams: Bool = true, _ generator: inout some RandomNumberGenerator
  ) throws(LogStoreError) -> String? {
    guard reader.endOffset == UInt64(entries.count) else { return "the log ends with \(reader.endOffset)" }
    let segments = reader.commitPoint.segments
    let statistics = try reader.statistics()
    guard !countsStreams || statistics.streams == UInt64(offsets.count) else {
      return "\(statistics.streams) streams, expected \(offsets.count)"
    }
    for _ in 0..<lookUps {
      let offset = Int.random(in: 0..<entries.count, using: &generator)
      let entry = entries[offset]
      let all = offsets[entry.stream] ?? []
      guard try reader.streamVersion(entry.stream) == UInt64(all.count) else {
        return "version of \(entry.stream) is \(try reader.streamVersion(entry.stream)), expected \(all.count)"
      }
      guard try reader.stream(entry.stream).map(\.offset) == all else { return "\(entry.stream) is not whole" }
      let from = Int.random(in: 1...all.count + 1, using: &generator)
      let limit = Int.random(in: 1...5, using: &generator)
      let part = try reader.stream(entry.stream, from: UInt64(from), limit: limit)
      guard part.map(\.offset) == Array(all.dropFirst(from - 1).prefix(limit)),
        part.map(\.version) == (0..<part.count).map({ UInt64(from + $0) }),
        part.allSatisfy({ $0.stream == entry.stream })
      else { return "\(entry.stream) from \(from), \(limit) events: \(part.map(\.offset)) of \(all)" }
      guard try reader.events(from: UInt64(offset), limit: 1).map(\.stream) == [entry.stream] else {
        return "another event at offset \(offset)"
      }
      let key = StreamKey(Array(entry.stream.utf8))
      if let id = entry.id {
        let found = try segments.find(id: id) { key.matches($0, in: $1.bytes) }
        guard let found, found.segment.baseOffset + UInt64(found.record.relativeOffset) == UInt64(offset) else {
          return "id \(id) of offset \(offset) is not found"
        }
      }
      let other = EventID(high: UInt64.random(in: .min ... .max, using: &generator), low: 5)
      guard try segments.find(id: other, where: { _, _ in true }) == nil else {
        return "an id that was never given is found"
      }
      let nobody = "nobody-\(UInt64.random(in: .min ... .max, using: &generator))"
      guard try reader.streamVersion(nobody) == 0, try reader.stream(nobody).isEmpty else {
        return "\(nobody) is found"
      }
    }
    return nil
  }
}

extension TemporaryDirectory {
  /// The number of segments of each index file, from the oldest on.
  var indexedSegmentCounts: [Int] {
    let bases = names(".log").compactMap { FileName.baseOffset($0, suffix: ".log") }
    return indexRanges.map { range in bases.count { range.contains($0) } }
  }
}
