import Glibc
import Synchronization

/// A stream id with its hash, computed once for all queries of a request.
struct StreamKey: Sendable, Hashable {
  let hash: UInt64
  let name: [UInt8]

  init(_ name: [UInt8]) {
    self.init(name, hash: name.withUnsafeBytes(streamHash))
  }

  /// - Parameter hash: the hash of the name.
  init(_ name: [UInt8], hash: UInt64) {
    self.name = name
    self.hash = hash
  }

  /// Compares bytes: strings that are equal in Unicode may be different streams.
  static func == (left: StreamKey, right: StreamKey) -> Bool {
    left.hash == right.hash && left.name == right.name
  }

  func hash(into hasher: inout Hasher) {
    // Hashes one word, mixed with the process's own seed, instead of all bytes again.
    hasher.combine(hash)
  }

  func matches(_ record: Record, in bytes: UnsafeRawBufferPointer) -> Bool {
    record.nameLength == name.count && name.withUnsafeBytes { equal($0, record.name(in: bytes)) }
  }
}

/// Consecutive events of one stream in one segment.
struct StreamRun: Sendable {
  /// The first version of the stream in the whole segment.
  var firstVersionInSegment: UInt64
  /// The version at `positions[0]`.
  var firstVersion: UInt64
  var positions: [UInt32]
}

/// The in-memory index of the segment that is being written, and of a finished segment until its index file is written.
///
/// Its size is bounded by the segment's: at most 40 bytes an event, 8 where a stream has many. One thread adds. Any thread
/// reads, and sees only events before the bound given to ``publish(endOffset:)``.
final class ActiveIndex: Sendable {
  let segment: Segment
  let state = Mutex(SegmentTable())

  init(_ segment: Segment) {
    self.segment = segment
  }

  /// Adds the record of the segment's next event, which is in the mapping. Returns false if its version does not continue
  /// its stream. In a store's first segment every stream begins with version 1.
  static func add(_ record: Record, hash: UInt64, to state: inout SegmentTable, in segment: Segment) -> Bool {
    let names = RecordNames(mapped: segment.bytes)
    let name = record.name(in: segment.bytes)
    var stream = state.find(hash, name, names)
    if let known = stream {
      guard record.version == state.heads[known].lastVersion &+ 1 else { return false }
    } else if segment.baseOffset == 0, record.version != 1 {
      return false
    }
    state.add(
      position: UInt32(record.position), to: &stream, hash: hash, name: name, version: record.version,
      idKey: record.hasID ? IndexKey.hash(record.id(in: segment.bytes, checksumSeed: segment.checksumSeed)) : nil)
    return true
  }

  static func addFrame(_ header: FrameHeader, at position: Int, to state: inout SegmentTable, in segment: Segment) {
    guard header.eventCount > 0 else { return }
    state.frames.append((UInt32(header.firstOffset - segment.baseOffset), UInt32(position)))
  }

  /// Makes events with lower offsets visible to readers.
  func publish(endOffset: UInt64) {
    state.withLock { $0.durableCount = UInt32(endOffset - segment.baseOffset) }
  }

  /// Positions of a stream's events in the segment at versions from `version` on, ascending, at most `limit`; nil if the
  /// segment has no event of the stream. Like everything that the index returns, this is a claim: the caller checks it
  /// against the records.
  func run(of stream: StreamKey, from version: UInt64, limit: Int, in segment: Segment) -> StreamRun? {
    state.withLock { state in
      guard let newest = Self.newestDurable(of: stream, in: state, segment) else { return nil }
      var positions: [UInt32] = []
      var ordinal = newest.ordinal
      var current = newest.version
      let first = max(version, newest.firstVersion)
      while current >= first {
        positions.append(state.positions[Int(ordinal)])
        let before = state.previous[Int(ordinal)]
        if before == 0 { break }
        ordinal = before - 1
        current -= 1
      }
      positions.reverse()
      if positions.count > limit { positions.removeLast(positions.count - limit) }
      return StreamRun(firstVersionInSegment: newest.firstVersion, firstVersion: first, positions: positions)
    }
  }

  /// The last version of a stream in this segment.
  func lastVersion(of stream: StreamKey, in segment: Segment) -> UInt64? {
    state.withLock { Self.newestDurable(of: stream, in: $0, segment)?.version }
  }

  /// As ``lastVersion(of:in:)``, with the parts of a key, for a segment that is written completely.
  func lastVersion(hash: UInt64, name: UnsafeRawBufferPointer) -> UInt64? {
    state.withLock { state in
      state.find(hash, name, RecordNames(mapped: segment.bytes)).map { state.heads[$0].lastVersion }
    }
  }

  /// Positions of records that may have a stored event id.
  func candidates(for id: EventID) -> [UInt32] {
    state.withLock { state in
      var positions: [UInt32] = []
      state.forEachOrdinal(withIDKey: IndexKey.hash(id)) { ordinal in
        if ordinal < state.durableCount { positions.append(state.positions[Int(ordinal)]) }
      }
      return positions
    }
  }

  /// The position of the last known frame whose first event is at or before an offset.
  func framePosition(atOrBefore relativeOffset: UInt32) -> Int {
    state.withLock { state in
      let after = state.frames.partitionPoint { $0.relativeOffset > relativeOffset }
      return after == 0 ? SegmentHeader.byteCount : Int(state.frames[after - 1].position)
    }
  }

  /// The number of streams that begin in this segment, that is, have their version 1 there.
  func newStreamCount(in segment: Segment) -> UInt64 {
    state.withLock { state in
      state.heads.reduce(into: 0) { count, stream in
        if stream.firstVersion == 1, stream.firstOrdinal < state.durableCount { count += 1 }
      }
    }
  }

  private static func newestDurable(
    of stream: StreamKey, in state: borrowing SegmentTable, _ segment: Segment
  ) -> (ordinal: UInt32, version: UInt64, firstVersion: UInt64)? {
    let names = RecordNames(mapped: segment.bytes)
    guard let found = stream.name.withUnsafeBytes({ state.find(stream.hash, $0, names, below: state.durableCount) })
    else { return nil }
    let head = state.heads[found]
    var ordinal = head.lastOrdinal
    var version = head.lastVersion
    // Terminates: the stream's first event in the segment is durable.
    while ordinal >= state.durableCount {
      ordinal = state.previous[Int(ordinal)] - 1
      version -= 1
    }
    return (ordinal, version, head.firstVersion)
  }
}

extension RandomAccessCollection where Index == Int {
  /// The index of the first element that is "after". Such elements must come last.
  func partitionPoint(isAfter: (Element) -> Bool) -> Int {
    var low = startIndex
    var high = endIndex
    while low < high {
      let middle = low + (high - low) / 2
      if isAfter(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
