// Finds events by stream, id and offset in all segments.

extension SegmentSet {
  /// A stream's last durable version; 0 if there is none. Reads one filter line of each index file, and the newest file
  /// that has the stream.
  ///
  /// For a stream that lost its last events in a gap, the last version that is known to have existed.
  func lastVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    let known = cache?.peek(stream)
    let found = try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      try query.checkNames(of: stream)
      if let version = query.snapshot.open.lastVersion(of: stream, in: query.snapshot.open.segment) { return version }
      return try query.lastSealedVersion(of: stream, known)
    }
    return max(found, gaps.lastVersion(of: stream))
  }

  /// As ``lastVersion(of:)`` for finished segments only: for the writer, which knows the open one.
  func lastSealedVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    let known = cache?.peek(stream)
    let found = try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      try query.lastSealedVersion(of: stream, known)
    }
    return max(found, gaps.lastVersion(of: stream))
  }

  /// An event of a stream, in a segment or in the cache. Valid only during the visit.
  struct StreamEvent {
    var record: SoundRecord
    /// The base offset of its segment.
    var baseOffset: UInt64
    /// The timestamp of its frame.
    var timestampMicroseconds: UInt64
  }

  /// Visits a stream's events in order of version, at most `limit`, each checked to be the right one.
  ///
  /// Allocates two arrays, whatever the number of events and files; more when the stream enters the cache.
  ///
  /// - Parameter skipsMissing: if true, versions that are lost in a gap are skipped; otherwise they are an error.
  /// - Parameter visit: an error that it throws ends the visits.
  func forEachEvent(
    of stream: StreamKey, from version: UInt64, limit: Int, skipsMissing: Bool = true,
    _ visit: (StreamEvent) throws(LogStoreError) -> Void
  ) throws(LogStoreError) {
    let (known, isWanted) = cached(stream)
    var expected = max(version, 1)
    var left = limit
    var lastOffset: UInt64 = 0
    var byteCount = known?.records.byteCount ?? 0
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      // After an index file was found wrong, or a page became unreadable, the query continues where it stopped, perhaps in a newer
      // snapshot. Then it has not seen all events behind the known ones.
      guard left > 0 else { return }
      let isWhole = expected <= 1
      let runs = try query.runs(
        of: stream, from: max(expected, UInt64(known?.records.count ?? 0) + 1), limit: left,
        behind: known?.coveredEnd ?? 0)
      query.prefetch(runs, limit: left)
      if let known, expected <= known.records.count {
        try known.records.forEach(
          from: Int(expected) - 1, limit: left
        ) { (record, baseOffset, timestamp) throws(IndexFailure) in
          try Self.visit(
            StreamEvent(record: record, baseOffset: baseOffset, timestampMicroseconds: timestamp), visit)
          expected += 1
          left -= 1
        }
        lastOffset = known.records.lastOffset
        if left == 0 { return }
      }
      for part in runs.parts.reversed() {
        let source = query.snapshot.sources[part.source]
        for number in part.first..<min(part.end, part.first + left) {
          let faults = faultCount()
          let (segment, record) = try query.record(at: runs.addresses[number], source, of: stream)
          if record.version != expected {
            guard record.version > expected,
              gaps.areBetween(lastOffset, segment.baseOffset + UInt64(record.relativeOffset))
            else {
              throw query.blame(
                source, runs.addresses[number], segment, "version \(record.version) of the stream, expected \(expected)"
              )
            }
            guard skipsMissing else { throw .log(incomplete(stream, expected...record.version - 1)) }
            expected = record.version
          }
          let timestamp = try query.timestamp(of: record, in: segment)
          byteCount += record.byteCount
          try Self.visit(
            StreamEvent(
              record: SoundRecord(record, in: segment.bytes), baseOffset: segment.baseOffset,
              timestampMicroseconds: timestamp), visit)
          try query.checkUnchanged(record, in: segment, since: faults)
          lastOffset = segment.baseOffset + UInt64(record.relativeOffset)
          expected += 1
          left -= 1
        }
        if left == 0 { return }
      }
      if let cache, isWhole, isWanted || known != nil, byteCount <= StreamCache.streamByteCount {
        try query.cacheStream(runs, behind: known, of: stream, in: cache)
      }
    }
    if left > 0, !skipsMissing, gaps.lastVersion(of: stream) >= expected {
      throw incomplete(stream, expected...gaps.lastVersion(of: stream))
    }
  }

  @inline(__always)
  private static func visit(
    _ event: StreamEvent, _ visit: (StreamEvent) throws(LogStoreError) -> Void
  ) throws(IndexFailure) {
    do throws(LogStoreError) {
      try visit(event)
    } catch {
      throw .log(error)
    }
  }

  /// The stream's entry in the cache, and whether the stream should enter the cache.
  private func cached(_ stream: StreamKey) -> (known: StreamCache.Entry?, isWanted: Bool) {
    guard let cache else { return (nil, false) }
    switch cache.find(stream) {
    case .unknown: return (nil, false)
    case .wanted: return (nil, true)
    case .known(let entry):
      guard entry.records.isSound else {
        // The memory has changed by itself. The log still has the events.
        cache.forget(stream)
        return (nil, true)
      }
      return (entry, false)
    }
  }

  /// A stream's event with this version, or the next one if that was lost in a gap; nil behind the stream's end.
  func record(of stream: StreamKey, version: UInt64) throws(LogStoreError) -> (record: Record, segment: Segment)? {
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      let runs = try query.runs(of: stream, from: version, limit: 1)
      guard let oldest = runs.parts.last else { return nil }
      let source = query.snapshot.sources[oldest.source]
      let (segment, record) = try query.record(at: runs.addresses[oldest.first], source, of: stream)
      if record.version != version {
        guard record.version > version, gaps.areBetween(0, segment.baseOffset + UInt64(record.relativeOffset)) else {
          throw query.blame(
            source, runs.addresses[oldest.first], segment,
            "version \(record.version) of the stream, expected \(version)")
        }
      }
      _ = try query.header(of: record, in: segment)
      return (record, segment)
    }
  }

  private func incomplete(_ stream: StreamKey, _ missing: ClosedRange<UInt64>) -> LogStoreError {
    .streamIncomplete(stream: String(decoding: stream.name, as: UTF8.self), missing: missing)
  }

  /// The event with this stored id; nil if there is none. Logs of older programs may have several: then one that is wanted,
  /// if there is one.
  func find(
    id: EventID, where isWanted: (Record, Segment) -> Bool
  ) throws(LogStoreError) -> (record: Record, segment: Segment)? {
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in try query.find(id: id, where: isWanted) }
  }

  /// Whether the log may have one of these stored ids. A "no" is certain, and needs only memory and the filters.
  func mayHold(_ ids: some Sequence<EventID>) throws(LogStoreError) -> Bool {
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      for id in ids where try query.mayHold(id: id) { return true }
      return false
    }
  }

  /// The position of the frame that holds an offset of this segment.
  ///
  /// - Parameter end: positions from here on must not be read.
  func framePosition(holding offset: UInt64, in segment: Segment, end: Int) throws(LogStoreError) -> Int {
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      guard let ordinal = query.snapshot.ordinal(of: segment.baseOffset) else {
        throw .log(segment.damage(Fault(position: 0, reason: "the segment is not one of the store's")))
      }
      let source = query.snapshot.source(of: ordinal)
      var position = try query.framePosition(atOrBefore: offset, source, ordinal)
      let listed = position
      guard listed < end else {
        throw query.blame(
          source, ordinal, segment,
          Fault(position: listed, reason: "no frame can be there, the frames end at byte \(end)"))
      }
      while position < end {
        guard let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed) else {
          let fault = Fault(position: position, reason: "no frame header that matches its checksum and position")
          // A frame behind a sound one comes from the log and not from the index.
          if position != listed { throw .log(segment.damage(fault)) }
          throw query.blame(source, ordinal, segment, fault)
        }
        if header.firstOffset <= offset, offset < header.endOffset { return position }
        guard header.firstOffset <= offset else {
          throw query.blame(
            source, ordinal, segment,
            Fault(
              position: position, reason: "the frame begins with offset \(header.firstOffset), looking for \(offset)"))
        }
        position += header.byteCount
      }
      throw .log(segment.damage(Fault(position: position, reason: "no frame with offset \(offset)")))
    }
  }

  /// The number of streams: those that begin in a segment, summed over all segments.
  func streamCount() throws(LogStoreError) -> UInt64 {
    try runQuery { (query: borrowing IndexQuery) throws(IndexFailure) in
      var count: UInt64 = 0
      for source in query.snapshot.sources {
        switch source.kind {
        case .open: count += query.snapshot.open.newStreamCount(in: query.snapshot.open.segment)
        case .unsealed:
          let index = query.snapshot.unsealed[source.index]
          count += index.newStreamCount(in: index.segment)
        case .file, .missing: count += try query.file(source).header.newStreamCount
        }
      }
      return count
    }
  }

  /// Runs a query on the current snapshot. If an index turns out to be damaged or wrong, drops it and runs the query again:
  /// the log is the truth.
  @inline(__always)
  private func runQuery<Value>(
    _ body: (borrowing IndexQuery) throws(IndexFailure) -> Value
  ) throws(LogStoreError) -> Value {
    var isCareful = false
    while true {
      let faults = faultCount()
      if faults != 0 { try remapUnreadable(faults) }
      let query = IndexQuery(set: self, snapshot: try current(), isCareful: isCareful)
      do throws(IndexFailure) {
        let value = try body(query)
        // Runs again if a page somewhere became zeros meanwhile, since the query may have read it. Terminates: each time
        // another page has failed, and the pages of a mapping are left alone for a while.
        if faultCount() == faults { return value }
      } catch {
        switch error {
        case .log(let error): throw error
        // Terminates: each time there is one file less, and the writer builds new ones from a sound log.
        case .index(let file, let fault, let segment): try distrust(file, fault, segment: segment)
        case .sharedKey: isCareful = true
        case .stopped: preconditionFailure("a look-up is not given up")
        }
      }
    }
  }
}
