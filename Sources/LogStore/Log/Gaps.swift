/// The gaps of a store's log: events that a repair could not save. The headers of the segments behind the gaps and the
/// records in their first frames store them. They never change while a store is open: only a repair makes gaps.
struct Gaps: Sendable {
  static let none = Gaps()

  /// Offsets without events, ascending.
  private(set) var ranges: [Range<UInt64>] = []
  /// The last version of each stream that lost its last events, by the stream's key. No version up to it may be given
  /// again.
  private(set) var lastVersions: [UInt64: UInt64] = [:]

  @inline(__always) var isEmpty: Bool { ranges.isEmpty }
  var eventCount: UInt64 { ranges.reduce(0) { $0 + $1.length } }

  init() {}

  /// - Parameter ranges: ascending.
  init(ranges: [Range<UInt64>], lastVersions: [UInt64: UInt64]) {
    self.ranges = ranges
    self.lastVersions = lastVersions
  }

  /// Reads the first frame of every segment behind a gap.
  init(_ catalog: Catalog, disk: any Disk) throws(LogStoreError) {
    for header in catalog.segments {
      guard let gap = header.gap else { continue }
      ranges.append(gap)
      let segment = try Segment.open(
        catalog.path(of: header), baseOffset: header.baseOffset, storeID: catalog.storeID, disk: disk,
        mayBeShort: catalog.clean == nil && header == catalog.lastSegment)
      do throws(Fault) {
        _ = try segment.checkFrame(segment.start) { record throws(Fault) in
          guard record.kind == .lostStream else { return }
          let stream = try LostStream(record, in: segment)
          lastVersions[stream.key] = Swift.max(lastVersions[stream.key] ?? 0, stream.lastVersion)
        }
      } catch {
        throw segment.damage(error)
      }
    }
  }

  /// The gap that an offset is in.
  func gap(at offset: UInt64) -> Range<UInt64>? {
    let after = ranges.partitionPoint { $0.lowerBound > offset }
    guard after > 0, ranges[after - 1].contains(offset) else { return nil }
    return ranges[after - 1]
  }

  /// The gap that ends with an offset: the one before the segment with that base offset.
  func gap(before offset: UInt64) -> Range<UInt64>? {
    let next = ranges.partitionPoint { $0.upperBound >= offset }
    guard next < ranges.count, ranges[next].upperBound == offset else { return nil }
    return ranges[next]
  }

  /// Whether a gap is between two offsets of events.
  func areBetween(_ first: UInt64, _ second: UInt64) -> Bool {
    let next = ranges.partitionPoint { $0.upperBound > first }
    return next < ranges.count && ranges[next].upperBound <= second
  }

  /// The number of offsets of a range that have no event.
  func eventCount(in range: Range<UInt64>) -> UInt64 {
    ranges.reduce(0) { $0 + $1.clamped(to: range).length }
  }

  /// The last version that a stream is known to have had, whatever is left of the stream.
  func lastVersion(of stream: StreamKey) -> UInt64 {
    if lastVersions.isEmpty { return 0 }
    return lastVersions[IndexKey.stream(hash: stream.hash)] ?? 0
  }
}

/// A record in the first frame of a segment behind a gap: the stream with this key had events up to a version, and the last
/// of them are lost. It has only the key, since the name of a stream may be lost with all of its events.
struct LostStream: Hashable, Sendable {
  static let keyByteCount = 6

  /// The upper 48 bits of the stream's hash, as in an index.
  var key: UInt64
  var lastVersion: UInt64

  init(key: UInt64, lastVersion: UInt64) {
    self.key = key
    self.lastVersion = lastVersion
  }

  /// - Throws: a fault if the record is where none can be.
  init(_ record: Record, in segment: Segment) throws(Fault) {
    guard record.nameLength == Self.keyByteCount, segment.header.gapStart != nil, record.version > 0,
      record.framePosition == SegmentHeader.byteCount
    else {
      throw Fault(position: record.position + RecordField.kind, reason: "a record of a lost stream where no gap ends")
    }
    key = record.name(in: segment.bytes).reduce(0) { $0 << 8 | UInt64($1) }
    lastVersion = record.version
  }

  /// The record without the fields that it gets with its position.
  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Record.byteCount + Self.keyByteCount)
    bytes.withUnsafeMutableBytes { buffer in
      for index in 0..<Self.keyByteCount {
        buffer[Record.byteCount + index] = UInt8(truncatingIfNeeded: key >> UInt64(8 * (Self.keyByteCount - 1 - index)))
      }
      Record.begin(
        buffer, .lostStream, nameLength: Self.keyByteCount, typeLength: 0, metadataLength: 0, payloadLength: 0, id: nil)
    }
    return bytes
  }
}

extension Segment {
  /// The streams in the segment's first frame, which was checked.
  var lostStreams: [LostStream] {
    var found: [LostStream] = []
    let first = start.position
    let header = FrameHeader(trusted: bytes, at: first)
    var position = first + FrameHeader.byteCount
    for _ in 0..<header.recordCount {
      let record = Record(trusted: bytes, at: position)
      // Opening has checked these records and reported a wrong one.
      if record.kind == .lostStream, let stream = try? LostStream(record, in: self) { found.append(stream) }
      position = record.end
    }
    return found
  }
}
