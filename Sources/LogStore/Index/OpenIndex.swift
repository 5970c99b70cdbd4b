import Glibc
import Synchronization

/// A stream id with its hash, made once for all the look-ups of a request.
struct StreamKey: Sendable, Hashable {
  let hash: UInt64
  let name: [UInt8]

  init(_ name: [UInt8]) {
    self.name = name
    hash = name.withUnsafeBytes(streamHash)
  }

  /// By bytes: strings that Unicode calls equal may be different streams.
  static func == (left: StreamKey, right: StreamKey) -> Bool {
    left.hash == right.hash && left.name == right.name
  }

  func hash(into hasher: inout Hasher) {
    // One word, mixed with the process's own seed, instead of all the bytes again.
    hasher.combine(hash)
  }

  func matches(_ record: Record, in bytes: UnsafeRawBufferPointer) -> Bool {
    record.nameLength == name.count && name.withUnsafeBytes { equal($0, record.name(in: bytes)) }
  }
}

@inline(__always)
func equal(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
  guard left.count == right.count, let a = left.baseAddress, let b = right.baseAddress else {
    return left.count == right.count
  }
  return memcmp(a, b, left.count) == 0
}

/// What a segment knows of where its events are. All of it is a claim to be checked against the record that it leads to.
protocol SegmentIndex: Sendable {
  /// Positions of a stream's events in the segment at versions from `version` on, ascending, at most `limit`.
  /// nil when the segment has none of the stream's events at all.
  func run(of stream: StreamKey, from version: UInt64, limit: Int, in segment: Segment) throws(LogStoreError)
    -> StreamRun?
  /// The last version of a stream in this segment.
  func lastVersion(of stream: StreamKey, in segment: Segment) throws(LogStoreError) -> UInt64?
  /// Positions of records that may have a stored event id.
  func candidates(for id: EventID) throws(LogStoreError) -> [UInt32]
  /// The position of a frame whose first event is at or before an offset, as near to it as is known.
  func framePosition(atOrBefore relativeOffset: UInt32) throws(LogStoreError) -> Int
  /// How many streams begin in this segment: have their version 1 there.
  func newStreamCount(in segment: Segment) throws(LogStoreError) -> UInt64
}

/// Consecutive events of one stream in one segment.
struct StreamRun: Sendable {
  /// The first version of the stream in the whole segment.
  var firstVersionInSegment: UInt64
  /// The version at `positions[0]`.
  var firstVersion: UInt64
  var positions: [UInt32]
}

/// The index of the segment that is being written, in memory, and of a finished one until its file is made.
///
/// Bounded by the segment's size. One thread adds; any thread reads, and sees only what lies before the bound given with
/// ``publish(endOffset:)``.
final class OpenIndex: SegmentIndex {
  struct StreamTail {
    var hash: UInt64
    /// The stream's newest event, counted from the segment's first.
    var lastOrdinal: UInt32
    var lastVersion: UInt64
    /// That of the stream's first event in this segment.
    var firstVersion: UInt64
  }

  struct State {
    /// By ordinal: where the event's record is, and the ordinal + 1 of the stream's event before it (0: none).
    var positions: [UInt32] = []
    var previous: [UInt32] = []
    /// By stream hash. Streams with equal hashes stand at the next free keys: see `key(of:)`.
    var streams: [UInt64: StreamTail] = [:]
    /// Stored event ids by their low half, with the same rule; values are ordinals.
    var ids: [UInt64: UInt32] = [:]
    /// Frames with events: relative offset of the first, position.
    var frames: [(relativeOffset: UInt32, position: UInt32)] = []
    /// Events that readers may see.
    var durableCount: UInt32 = 0
  }

  let segment: Segment
  let state = Mutex(State())

  init(_ segment: Segment) {
    self.segment = segment
  }

  /// Notes the record of the segment's next event. False if its version does not continue its stream here.
  static func add(_ record: Record, hash: UInt64, to state: inout State, in segment: Segment) -> Bool {
    let bytes = segment.bytes
    let ordinal = UInt32(state.positions.count)
    var key = hash
    var previous: UInt32 = 0
    var firstVersion = record.version
    let name = record.name(in: bytes)
    while let tail = state.streams[key] {
      if equal(name, recordName(at: Int(state.positions[Int(tail.lastOrdinal)]), in: bytes)) {
        guard record.version == tail.lastVersion &+ 1 else { return false }
        previous = tail.lastOrdinal + 1
        firstVersion = tail.firstVersion
        break
      }
      key &+= 1
    }
    state.streams[key] = StreamTail(
      hash: hash, lastOrdinal: ordinal, lastVersion: record.version, firstVersion: firstVersion)
    state.positions.append(UInt32(record.position))
    state.previous.append(previous)
    if record.hasID {
      var idKey = record.id(in: bytes, place: segment.place).low
      while state.ids[idKey] != nil { idKey &+= 1 }
      state.ids[idKey] = ordinal
    }
    return true
  }

  static func addFrame(_ header: FrameHeader, at position: Int, to state: inout State, in segment: Segment) {
    guard header.eventCount > 0 else { return }
    state.frames.append((UInt32(header.firstOffset - segment.baseOffset), UInt32(position)))
  }

  /// Lets readers see events with lower offsets.
  func publish(endOffset: UInt64) {
    state.withLock { $0.durableCount = UInt32(endOffset - segment.baseOffset) }
  }

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

  func lastVersion(of stream: StreamKey, in segment: Segment) -> UInt64? {
    state.withLock { Self.newestDurable(of: stream, in: $0, segment)?.version }
  }

  /// As ``lastVersion(of:in:)``, with what readers may not see yet: for the writer.
  func lastWrittenVersion(of stream: StreamKey) -> UInt64? {
    state.withLock { Self.tail(of: stream, in: $0, segment)?.lastVersion }
  }

  func candidates(for id: EventID) -> [UInt32] {
    state.withLock { state in
      var positions: [UInt32] = []
      var key = id.low
      while let ordinal = state.ids[key] {
        positions.append(state.positions[Int(ordinal)])
        key &+= 1
      }
      return positions
    }
  }

  func framePosition(atOrBefore relativeOffset: UInt32) -> Int {
    state.withLock { state in
      let after = state.frames.partitionPoint { $0.relativeOffset > relativeOffset }
      return after == 0 ? SegmentHeader.byteCount : Int(state.frames[after - 1].position)
    }
  }

  func newStreamCount(in segment: Segment) -> UInt64 {
    state.withLock { state in
      state.streams.values.reduce(into: 0) { count, stream in
        // Streams that readers may not see yet are told by their first event's place: not worth keeping for each.
        if stream.firstVersion == 1 { count += 1 }
      }
    }
  }

  private static func tail(of stream: StreamKey, in state: State, _ segment: Segment) -> StreamTail? {
    var key = stream.hash
    while let tail = state.streams[key] {
      let name = recordName(at: Int(state.positions[Int(tail.lastOrdinal)]), in: segment.bytes)
      if stream.name.withUnsafeBytes({ equal($0, name) }) { return tail }
      key &+= 1
    }
    return nil
  }

  private static func newestDurable(
    of stream: StreamKey, in state: State, _ segment: Segment
  ) -> (ordinal: UInt32, version: UInt64, firstVersion: UInt64)? {
    guard let tail = tail(of: stream, in: state, segment) else { return nil }
    var ordinal = tail.lastOrdinal
    var version = tail.lastVersion
    while ordinal >= state.durableCount {
      let before = state.previous[Int(ordinal)]
      if before == 0 { return nil }
      ordinal = before - 1
      version -= 1
    }
    return (ordinal, version, tail.firstVersion)
  }

  /// The name of a record that was checked, or written by this process, before it was added.
  private static func recordName(at position: Int, in bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    let hasID = bytes[position + 9] & Record.idFlag != 0
    return bytes.part(
      position + Record.byteCount + (hasID ? Record.idByteCount : 0), Int(bytes[position + 10]))
  }
}

extension RandomAccessCollection where Index == Int {
  /// The first index whose element is "after", given that those come last.
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
