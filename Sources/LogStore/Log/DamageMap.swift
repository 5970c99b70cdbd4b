/// A range of offsets whose events can't be read because a file is damaged.
public struct DamagedRange: Sendable, Hashable, CustomStringConvertible {
  /// The offsets of the missing events. Empty if the damage has hit no event, for example only a frame's header whose
  /// records are all sound; then it is the offset of the next event behind the damage.
  public var offsets: Range<UInt64>
  /// The damage and its position.
  public var damage: Damage

  /// A damaged range, as ``LogReader/damagedRanges(file:again:)`` returns it.
  public init(offsets: Range<UInt64>, damage: Damage) {
    self.offsets = offsets
    self.damage = damage
  }

  /// The damage and the missing offsets, in one line.
  public var description: String {
    offsets.isEmpty ? "\(damage); no event is lost" : "\(damage); offsets \(offsets.lowerBound)..<\(offsets.upperBound)"
  }
}

/// The sound and the damaged parts of a segment. Built once by reading all of the segment, then used by all readers that
/// pass over the damage.
///
/// No offset is guessed. A frame counts if its checksums hold, if it fits between its neighbours, and if it continues the
/// frame before it, where that one is sound. In a damaged frame, and behind a damaged header, each record counts whose own
/// checksum holds, since that covers the record's position and offset. Everything between is missing.
final class DamageMap: Sendable {
  enum Content: Sendable {
    /// Consecutive sound frames.
    case frames
    /// Consecutive sound records of a damaged frame.
    case records(count: UInt32, timestamp: UInt64)
    /// An index into ``ranges``.
    case missing(Int)
  }

  struct Piece: Sendable {
    var offsets: Range<UInt64>
    /// Bytes of the file.
    var bytes: Range<Int>
    var content: Content
  }

  /// The approximate number of bytes of sound frames in one piece. A reader that begins in the middle of a piece reads up
  /// to that many bytes in vain.
  static let pieceByteCount = 256 << 10
  /// The greatest number of pieces of a map, so that no content makes it grow without bound. What is behind the last one
  /// counts as missing.
  static let pieceLimit = 1 << 16

  let segment: Segment
  /// The end of the checked bytes: the segment's end, or the durable end.
  let limit: Int
  /// The pieces, in order, covering all offsets of the segment up to ``endOffset``.
  let pieces: [Piece]
  /// Every damaged range, in order.
  let ranges: [DamagedRange]
  /// The indexes in ``ranges`` of those that the disk could not read.
  private let unreadable: Set<Int>
  let endOffset: UInt64
  /// Where the frames end, if that is proven: with the frame that the next segment continues.
  let lastFrame: LastFrame?

  struct LastFrame: Sendable {
    /// The position behind it.
    var end: Int
    /// Its header's checksum.
    var chain: UInt32
  }

  /// Whether every event of the segment is sound, so that an index can be made from the records alone.
  var hasAllEvents: Bool { lastFrame != nil && ranges.allSatisfy(\.offsets.isEmpty) }
  /// Whether the disk could not read some part of the segment. It may become readable again.
  var isOfUnreadable: Bool {
    if case .unreadable = segment.fileError { return true }
    return segment.mapping.faultCount > 0
  }

  /// - Parameter unreadable: the indexes of the ranges that the disk could not read.
  init(
    segment: Segment, limit: Int, pieces: [Piece], ranges: [DamagedRange], unreadable: Set<Int>, endOffset: UInt64,
    lastFrame: LastFrame?
  ) {
    self.lastFrame = lastFrame
    self.segment = segment
    self.limit = limit
    self.pieces = pieces
    self.ranges = ranges
    self.unreadable = unreadable
    self.endOffset = endOffset
  }

  /// The piece that holds an offset before ``endOffset``.
  func piece(holding offset: UInt64) -> Piece? {
    let after = pieces.partitionPoint { $0.offsets.lowerBound > offset }
    guard after > 0, pieces[after - 1].offsets.contains(offset) else { return nil }
    return pieces[after - 1]
  }

  /// The error for the first range where events are missing, or else for the first range: damage, or what the disk can't
  /// read.
  var worst: LogStoreError? {
    (ranges.firstIndex { !$0.offsets.isEmpty } ?? ranges.indices.first).map { error(of: $0) }
  }

  /// The error for the first range that the disk could not read.
  var firstUnreadable: LogStoreError? { unreadable.min().map { error(of: $0) } }

  private func error(of number: Int) -> LogStoreError {
    let damage = ranges[number].damage
    return unreadable.contains(number) ? .unreadable(damage) : .damaged(damage)
  }
}

/// Builds a ``DamageMap``.
struct DamageMapBuilder {
  private let segment: Segment
  /// The segment's events have lower offsets.
  private let bound: UInt64
  /// Frames end at or before it.
  private let limit: Int
  /// The header checksum of the segment's last frame; nil if unknown.
  private let endChain: UInt32?
  /// Reads the segment's events from an index file; nil if unknown. Called only if the last frame proves nothing.
  private let listed: () -> ListedEvents?

  private var pieces: [DamageMap.Piece] = []
  private var ranges: [DamagedRange] = []
  private var next: UInt64
  private var timestamp: UInt64 = 0
  private var unreadable: Set<Int> = []
  /// The damage found since the last event that counts.
  private var pending: LogStoreError?
  /// A sound frame has events that are the next segment's.
  private var isPastEnd = false
  private var finder: SalvageSearch

  /// - Parameter bound: the end offset of the segment, or of its durable part.
  /// - Parameter endChain: of a finished segment; see ``SegmentSet/endChain(of:)``.
  /// - Parameter listed: the same; see ``SegmentSet/ownListedEvents(of:)``.
  init(_ segment: Segment, bound: UInt64, limit: Int, endChain: UInt32?, listed: @escaping () -> ListedEvents?) {
    self.listed = listed
    self.segment = segment
    self.bound = bound
    self.limit = min(limit, segment.bytes.count)
    self.endChain = endChain
    next = segment.baseOffset
    finder = SalvageSearch(segment, bound: bound)
  }

  mutating func make() -> DamageMap {
    pending = segment.fileError
    let last = readFrames()
    if isForeign(last) {
      // The frames are sound by themselves, but the next segment was not written after them: this is another history of the
      // log, and nothing tells where the two part.
      (pieces, ranges, unreadable, pending) = ([], [], [], nil)
      next = segment.baseOffset
      note(0, "its frames are not those that the next segment follows")
    }
    if next < bound {
      if pieces.count >= DamageMap.pieceLimit {
        note(limit, "more parts of the segment are damaged than can be listed")
      }
      if pending == nil { note(limit, "the file ends before offset \(bound), with which the segment ends") }
      skip(to: bound, at: limit)
    } else if pending != nil {
      skip(to: next, at: limit)
    }
    return DamageMap(
      segment: segment, limit: limit, pieces: pieces, ranges: ranges, unreadable: unreadable, endOffset: bound,
      lastFrame: last.flatMap { $0.chain == endChain ? $0 : nil })
  }

  /// Whether the frames are another history's. Damage may have hit the end of this one's, so another last frame alone proves it
  /// only where nothing else is damaged, or where no event is missing.
  private func isForeign(_ last: DamageMap.LastFrame?) -> Bool {
    guard let endChain, last?.chain != endChain else { return false }
    if isPastEnd || last != nil && (next >= bound || ranges.isEmpty && pending == nil) { return true }
    return listed()?.contradict(segment) ?? false
  }

  /// Returns the last frame, if nothing behind it is damaged.
  private mutating func readFrames() -> DamageMap.LastFrame? {
    var chain: UInt32? = segment.hasOwnHeader ? segment.header.chain : nil
    var position = SegmentHeader.byteCount
    // Behind damage: no frame whose records are searched for begins before this position.
    var hole: Int?
    while position <= limit - FrameHeader.byteCount, pieces.count < DamageMap.pieceLimit {
      if position % 8 == 0, let header = finder.header(at: position), position + header.byteCount <= limit,
        header.firstOffset >= next
      {
        if let known = chain, header.chain != known {
          // The frame belongs to another history of the log, or the frame before it does. Nothing tells which of the two.
          note(position + FrameField.chain, "the frame does not follow on from the frame before it")
          return nil
        }
        take(header, at: position)
        chain = header.checksum
        position += header.byteCount
        hole = nil
        continue
      }
      if next >= bound, segment.bytes.part(position, limit - position).isZero { break }
      chain = nil
      if let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed),
        header.endOffset > bound
      {
        isPastEnd = true
      }
      note(position, reason(at: position))
      guard let found = finder.search(from: position, frameFrom: hole ?? position, next: next), found.position < limit
      else { return nil }
      if found.isFrame {
        position = found.position
      } else {
        (position, hole) = takeRecords(at: found.position)
      }
    }
    return chain.map { DamageMap.LastFrame(end: position, chain: $0) }
  }

  private func reason(at position: Int) -> String {
    let head = segment.bytes.part(position, min(FrameHeader.byteCount, segment.bytes.count - position))
    return head.isZero ? "zeros where a frame should begin" : "no frame header that matches its checksum and position"
  }

  private mutating func note(_ position: Int, _ reason: String) {
    // Reports that the disk could not read the frame, if so.
    if pending == nil { pending = segment.damage(Fault(position: position, reason: reason)) }
  }

  /// Continues with an event. The damage found before it becomes one range, whether events are missing there or not.
  private mutating func skip(to offset: UInt64, at position: Int) {
    if pending == nil, offset > next { note(position, "offsets \(next)..<\(offset) are not there") }
    guard let error = pending, let damage = error.finding else { return }
    pending = nil
    if case .damaged = error {} else { unreadable.insert(ranges.count) }
    ranges.append(DamagedRange(offsets: next..<offset, damage: damage))
    guard offset > next else { return }
    let start = pieces.last?.bytes.upperBound ?? SegmentHeader.byteCount
    pieces.append(
      DamageMap.Piece(
        offsets: next..<offset, bytes: start..<max(start, position), content: .missing(ranges.count - 1)))
    next = offset
  }

  private mutating func take(_ header: FrameHeader, at position: Int) {
    let expected = FrameExpectation(
      position: position, offset: header.firstOffset, chain: header.chain, timestamp: header.timestamp)
    timestamp = max(timestamp, header.timestamp)
    do throws(Fault) {
      _ = try segment.checkFrame(expected) { _ in }
    } catch {
      // The records say where the damage is; sound ones before it are not behind damage.
      if !takeRecords(of: header, at: position) { note(error.position, error.reason) }
      return
    }
    let end = position + header.byteCount
    guard header.eventCount > 0 else {
      // A frame with cursors only does not tell what is missing before it.
      if pending == nil, let last = pieces.last, case .frames = last.content, last.bytes.upperBound == position {
        pieces[pieces.count - 1].bytes = last.bytes.lowerBound..<end
      }
      return
    }
    skip(to: header.firstOffset, at: position)
    if let last = pieces.last, case .frames = last.content, last.bytes.upperBound == position,
      end - last.bytes.lowerBound <= DamageMap.pieceByteCount
    {
      pieces[pieces.count - 1].bytes = last.bytes.lowerBound..<end
      pieces[pieces.count - 1].offsets = last.offsets.lowerBound..<header.endOffset
    } else {
      pieces.append(
        DamageMap.Piece(offsets: header.firstOffset..<header.endOffset, bytes: position..<end, content: .frames))
    }
    next = header.endOffset
  }

  /// Takes the sound records of a damaged frame whose header is sound. Returns whether it has noted a damaged one.
  private mutating func takeRecords(of header: FrameHeader, at start: Int) -> Bool {
    let end = start + header.byteCount
    var position = start + FrameHeader.byteCount
    var hasNoted = false
    while position < end {
      if let record = finder.record(at: position, before: end, frame: start) {
        take(record)
        position = record.end
        continue
      }
      if end - position < 8 { break }
      note(position, "no record that matches its checksum and position")
      hasNoted = true
      position += 1
      while position < end, !finder.isRecord(at: position, before: end, frame: start) { position += 1 }
    }
    return hasNoted
  }

  /// Takes consecutive sound records of a frame whose header is damaged. Returns where to continue.
  private mutating func takeRecords(at start: Int) -> (position: Int, frame: Int?) {
    guard let first = finder.record(at: start, before: limit, frame: nil) else { return (start + 1, nil) }
    var position = start
    while let record = finder.record(at: position, before: limit, frame: first.framePosition) {
      take(record)
      position = record.end
    }
    let padded = position.roundedUp(to: 8)
    guard padded <= limit, segment.bytes.part(position, padded - position).isZero else {
      return (position, first.framePosition)
    }
    return (padded, first.framePosition)
  }

  private mutating func take(_ record: Record) {
    guard record.kind == .event, pieces.count < DamageMap.pieceLimit else { return }
    let offset = segment.baseOffset + UInt64(record.relativeOffset)
    guard offset >= next, offset < bound else { return }
    skip(to: offset, at: record.position)
    if let last = pieces.last, case .records(let count, let time) = last.content,
      last.bytes.upperBound == record.position, time == timestamp
    {
      pieces[pieces.count - 1].bytes = last.bytes.lowerBound..<record.end
      pieces[pieces.count - 1].offsets = last.offsets.lowerBound..<offset + 1
      pieces[pieces.count - 1].content = .records(count: count + 1, timestamp: time)
    } else {
      pieces.append(
        DamageMap.Piece(
          offsets: offset..<offset + 1, bytes: record.position..<record.end,
          content: .records(count: 1, timestamp: timestamp)))
    }
    next = offset + 1
  }
}
