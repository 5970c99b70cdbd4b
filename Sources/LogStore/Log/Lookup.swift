// Finding events by stream, id and offset over all segments.

extension SegmentSet {
  /// A stream's last durable version; 0 if there is none. Looks at each segment's filter from the newest on.
  func lastVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    for base in bases.reversed() {
      let found = try withIndex(base) { index, segment throws(LogStoreError) in
        try index.lastVersion(of: stream, in: segment)
      }
      if let found { return found }
    }
    return 0
  }

  /// As ``lastVersion(of:)`` over finished segments only: for the writer, which knows the open one.
  func lastSealedVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    for base in bases.dropLast().reversed() {
      let found = try withIndex(base) { index, segment throws(LogStoreError) in
        try index.lastVersion(of: stream, in: segment)
      }
      if let found { return found }
    }
    return 0
  }

  /// Visits a stream's records in order of version, at most `limit`, each checked to be what it was looked for.
  func forEachRecord(
    of stream: StreamKey, from version: UInt64, limit: Int, _ visit: (Record, FrameHeader, Segment) -> Void
  ) throws(LogStoreError) {
    guard limit > 0 else { return }
    // Newest first: which segments have events of the stream that are asked for?
    var parts: [(segment: Segment, records: [Record])] = []
    for base in bases.reversed() {
      let part = try withIndex(base) { index, segment throws(LogStoreError) -> (Segment, [Record], UInt64)? in
        guard let run = try index.run(of: stream, from: version, limit: limit, in: segment) else { return nil }
        return (segment, try Self.records(of: run, stream, index: index, segment: segment), run.firstVersionInSegment)
      }
      guard let (segment, records, firstVersion) = part else { continue }
      if !records.isEmpty { parts.append((segment, records)) }
      if firstVersion <= version { break }
    }
    var left = limit
    var expected = max(version, 1)
    for (segment, records) in parts.reversed() {
      for record in records.prefix(left) {
        guard record.version == expected else {
          throw segment.damage(
            Fault(
              position: record.position,
              reason: "the stream goes on with version \(record.version) here, expected \(expected)"))
        }
        guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, place: segment.place) else {
          throw segment.damage(
            Fault(position: record.framePosition, reason: "no frame header that matches its checksum and place"))
        }
        visit(record, header, segment)
        expected += 1
      }
      left -= min(left, records.count)
      if left == 0 { return }
    }
  }

  /// The records that a run leads to. An index is only believed as far as they say the same.
  private static func records(
    of run: StreamRun, _ stream: StreamKey, index: any SegmentIndex, segment: Segment
  ) throws(LogStoreError) -> [Record] {
    var records: [Record] = []
    records.reserveCapacity(run.positions.count)
    for (ordinal, position) in run.positions.enumerated() {
      guard
        let record = Record(in: segment.bytes, at: Int(position), limit: segment.bytes.count, place: segment.place),
        record.kind == .event, record.version == run.firstVersion + UInt64(ordinal),
        stream.matches(record, in: segment.bytes)
      else {
        let fault = Fault(position: Int(position), reason: "no record that matches its checksum, place and stream")
        throw (index as? SealedIndex)?.damage(fault) ?? segment.damage(fault)
      }
      records.append(record)
    }
    return records
  }

  /// The place of the event with this stored id in this stream; nil if there is none.
  func find(id: EventID, stream: StreamKey) throws(LogStoreError) -> (record: Record, segment: Segment)? {
    for base in bases.reversed() {
      let found = try withIndex(base) { index, segment throws(LogStoreError) -> Record? in
        for position in try index.candidates(for: id) {
          guard
            let record = Record(in: segment.bytes, at: Int(position), limit: segment.bytes.count, place: segment.place)
          else {
            let fault = Fault(position: Int(position), reason: "no record that matches its checksum and place")
            throw (index as? SealedIndex)?.damage(fault) ?? segment.damage(fault)
          }
          if record.hasID, record.id(in: segment.bytes, place: segment.place) == id,
            stream.matches(record, in: segment.bytes)
          {
            return record
          }
        }
        return nil
      }
      if let found { return (found, try segment(base)) }
    }
    return nil
  }

  /// The position of the frame that holds an offset of this segment.
  ///
  /// - Parameter end: positions from here on are not to be read.
  func framePosition(holding offset: UInt64, in segment: Segment, end: Int) throws(LogStoreError) -> Int {
    try withIndex(segment.baseOffset) { index, segment throws(LogStoreError) in
      var position = try index.framePosition(atOrBefore: UInt32(clamping: offset - segment.baseOffset))
      while position < end {
        guard let header = FrameHeader(in: segment.bytes, at: position, place: segment.place) else {
          let fault = Fault(position: position, reason: "no frame header that matches its checksum and place")
          throw (index as? SealedIndex)?.damage(fault) ?? segment.damage(fault)
        }
        if header.firstOffset <= offset, offset < header.endOffset { return position }
        guard header.firstOffset <= offset else {
          let fault = Fault(
            position: position, reason: "the frame begins with offset \(header.firstOffset), looking for \(offset)")
          throw (index as? SealedIndex)?.damage(fault) ?? segment.damage(fault)
        }
        position += header.byteCount
      }
      throw segment.damage(Fault(position: position, reason: "no frame with offset \(offset)"))
    }
  }
}
