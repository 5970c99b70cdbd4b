/// Reads a store: what is durable, only that, and without waiting for the writer. A ``LogStore`` has one for its own
/// process; ``open(_:)`` makes one beside another process's writer, or beside none.
///
/// May be used from any thread and task. Reads go to mapped memory, so they don't wait for anything but a page that has
/// to come from the disk. Damage that a read meets is thrown, with file and byte, and never served.
public final class LogReader: Sendable {
  /// Events of a stream that are looked up at once.
  private static let streamPage = 1024

  let durable: Durable
  let follower: Follower?
  /// What was found when the store was opened.
  public let recovery: RecoveryReport

  init(durable: Durable, follower: Follower?, recovery: RecoveryReport) {
    self.durable = durable
    self.follower = follower
    self.recovery = recovery
  }

  deinit {
    follower?.stop()
  }

  /// The offset after the last durable event: what the next one will get. 0 for an empty log.
  public var endOffset: UInt64 { durable.end.offset }

  /// Visits events in order from an offset to the durable end as it is now, or until `body` returns false. Returns the
  /// offset to go on with. From behind the end it visits nothing.
  ///
  /// Every byte is checked on the way. No allocation and no reference counting per event: keep it so.
  @discardableResult
  public func forEach(
    from offset: UInt64, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try durable.check()
    let end = durable.end
    var next = offset
    while next < end.offset {
      let base = durable.segments.baseOffset(holding: next)
      let segment = try durable.segments.segment(base)
      // Everything in a finished segment is durable; in the last one, all before the durable end's position.
      let limit = base == end.baseOffset ? end.position : segment.bytes.count
      guard limit <= segment.bytes.count else {
        throw segment.damage(
          Fault(position: segment.bytes.count, reason: "the file ends before byte \(limit), which was durable"))
      }
      let segmentEnd = base == end.baseOffset ? end.offset : durable.segments.successor(of: base) ?? end.offset
      let start = try durable.segments.framePosition(holding: next, in: segment, end: limit)
      let goesOn = try visit(segment, from: start, next: &next, to: min(segmentEnd, end.offset), limit: limit, body)
      if !goesOn { return next }
    }
    return next
  }

  /// Visits a segment's events from the frame at `position` on, those before `next` left out.
  private func visit(
    _ segment: Segment, from position: Int, next: inout UInt64, to endOffset: UInt64, limit: Int,
    _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> Bool {
    let bytes = segment.bytes
    let place = segment.place
    var position = position
    while next < endOffset {
      guard let header = FrameHeader(in: bytes, at: position, place: place), position + header.byteCount <= limit else {
        throw segment.damage(
          Fault(position: position, reason: "no frame header that matches its checksum and place"))
      }
      guard header.firstOffset <= next, header.endOffset >= next else {
        throw segment.damage(
          Fault(position: position + 8, reason: "the frame begins with offset \(header.firstOffset), expected \(next)"))
      }
      let frameEnd = position + header.byteCount
      var recordPosition = position + FrameHeader.byteCount
      var offset = header.firstOffset
      var bodyChecksum = RunningChecksum()
      for _ in 0..<header.recordCount {
        guard let record = Record(in: bytes, at: recordPosition, limit: frameEnd, place: place),
          UInt64(record.relativeOffset) == offset &- place.baseOffset
        else {
          throw segment.damage(
            Fault(position: recordPosition, reason: "no record that matches its checksum and place"))
        }
        bodyChecksum.add(record.checksum)
        recordPosition = record.end
        guard record.kind == .event else { continue }
        offset &+= 1
        if offset <= next { continue }
        next = offset
        let view = EventView(record, in: bytes, place: place, timestampMicroseconds: header.timestamp)
        if !body(view) { return false }
      }
      bodyChecksum.add(bytes.part(recordPosition, frameEnd - recordPosition))
      guard offset == header.endOffset, bodyChecksum.value == header.bodyChecksum else {
        throw segment.damage(
          Fault(position: position + 40, reason: "the frame's body checksum does not match its records"))
      }
      position = frameEnd
    }
    return true
  }

  /// Copies of at most `limit` events from an offset on; empty at the end of the log.
  public func events(from offset: UInt64, limit: Int) throws(LogStoreError) -> [Event] {
    guard limit > 0 else { return [] }
    var events: [Event] = []
    try forEach(from: offset) { event in
      events.append(event.copy())
      return events.count < limit
    }
    return events
  }

  /// Copies of a stream's events in order, from a version on; empty if there are none.
  ///
  /// Looks at each segment's filter from the newest back to the one where the version is.
  public func stream(
    _ id: String, from version: UInt64 = 1, limit: Int = .max
  ) throws(LogStoreError) -> [Event] {
    var events: [Event] = []
    try forEach(inStream: id, from: version, limit: limit) { events.append($0.copy()) }
    return events
  }

  /// As ``stream(_:from:limit:)`` with borrowed events.
  public func forEach(
    inStream id: String, from version: UInt64 = 1, limit: Int = .max, _ body: (borrowing EventView) -> Void
  ) throws(LogStoreError) {
    try durable.check()
    let stream = StreamKey(Array(id.utf8))
    var next = max(version, 1)
    var left = limit
    // In pages, so that memory doesn't grow with the stream.
    while left > 0 {
      let page = min(left, Self.streamPage)
      var count = 0
      try durable.segments.forEachRecord(of: stream, from: next, limit: page) { record, header, segment in
        body(EventView(record, in: segment.bytes, place: segment.place, timestampMicroseconds: header.timestamp))
        count += 1
      }
      if count < page { return }
      next += UInt64(count)
      left -= count
    }
  }

  /// A stream's last version; 0 if there is no such stream.
  public func streamVersion(_ id: String) throws(LogStoreError) -> UInt64 {
    try durable.check()
    return try durable.segments.lastVersion(of: StreamKey(Array(id.utf8)))
  }

  /// The place of a cursor: the offset that its consumer reads next; nil if it was never committed.
  public func cursor(_ name: String) throws(LogStoreError) -> UInt64? {
    try durable.check()
    return durable.cursors[Array(name.utf8)]
  }

  /// All cursors, by name.
  public func cursors() throws(LogStoreError) -> [(name: String, place: UInt64)] {
    try durable.check()
    return durable.cursors
      .map { (name: String(decoding: $0.key, as: UTF8.self), place: $0.value) }
      .sorted { $0.name < $1.name }
  }

  /// Waits until the event at an offset is durable: true at once if it is. False when the task is cancelled or the
  /// reader is closed. Costs nothing while it waits.
  public func waitForEvents(at offset: UInt64) async throws(LogStoreError) -> Bool {
    try await durable.wait(for: offset)
  }

  /// Ends this reader and whoever waits in it. The reader of a ``LogStore`` is closed with its store.
  public func close() {
    follower?.stop()
    durable.close()
  }
}

/// What opening a store found and did.
public struct RecoveryReport: Sendable, CustomStringConvertible {
  /// The store was closed cleanly, or is new, or its writer is alive.
  public var wasClosedCleanly: Bool
  /// An unfinished write behind the end of the log. A writer has cut it off; a reader has left it as it is.
  public var tornTail: Damage?
  /// The offset after the last event that was found.
  public var endOffset: UInt64

  public var description: String {
    guard let tornTail else {
      return wasClosedCleanly
        ? "the log ends with offset \(endOffset)"
        : "the store was not closed; nothing is missing, the log ends with offset \(endOffset)"
    }
    return "\(tornTail.file) @\(tornTail.position): \(tornTail.reason); nothing acknowledged is missing by what the log"
      + " shows, it ends with offset \(endOffset)"
  }
}

extension LogReader {
  /// Opens a store for reading, beside its writer or without one. Changes nothing, but for one case: after a writer
  /// died, the last bytes that it wrote are written again, the same, and synced, before they are served as durable.
  ///
  /// Blocks for as long as the last segment takes to be read.
  public static func open(_ directory: String) throws(LogStoreError) -> LogReader {
    let (follower, durable, recovery) = try Follower.open(directory, disk: RealDisk())
    return LogReader(durable: durable, follower: follower, recovery: recovery)
  }
}
