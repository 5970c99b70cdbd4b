// Records at addresses, checked to be what the index says they are.

extension IndexQuery {
  /// The event at an address, whatever its stream.
  func event(at address: RecordAddress, _ source: Snapshot.Source) throws(IndexFailure) -> (Segment, Record) {
    let segment = try segment(address.ordinal)
    guard
      let record = Record(
        in: segment.bytes, at: address.position, limit: segment.bytes.count, checksumSeed: segment.checksumSeed),
      record.kind == .event
    else { throw blame(source, address, segment, "no event that matches its checksum and position") }
    return (segment, record)
  }

  /// The stream's event at an address.
  func record(
    at address: RecordAddress, _ source: Snapshot.Source, of stream: StreamKey
  ) throws(IndexFailure) -> (Segment, Record) {
    let (segment, record) = try event(at: address, source)
    guard stream.matches(record, in: segment.bytes) else {
      throw try otherStream(at: address, source, segment, record, key: IndexKey.stream(hash: stream.hash))
    }
    return (segment, record)
  }

  /// The failure that another stream's event is at an address.
  private func otherStream(
    at address: RecordAddress, _ source: Snapshot.Source, _ segment: Segment, _ record: Record, key: UInt64
  ) throws(IndexFailure) -> IndexFailure {
    if IndexKey.stream(hash: streamHash(record.name(in: segment.bytes))) == key, !isCareful { return .sharedKey }
    return blame(source, address, segment, "another stream's event")
  }

  /// The addresses of a stream's events in a file, in order, found by checking each, since other streams share its key.
  func addressesOneByOne(
    of stream: StreamKey, in file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> [(address: RecordAddress, version: UInt64)] {
    let key = IndexKey.stream(hash: stream.hash)
    var found: [(address: RecordAddress, version: UInt64)] = []
    for listed in try blaming(file, { () throws(Fault) in try file.addresses(.streams, key) }).sorted() {
      let address = try recordAddress(listed, file, source)
      let (segment, record) = try event(at: address, source)
      if stream.matches(record, in: segment.bytes) {
        found.append((address, record.version))
      } else if IndexKey.stream(hash: streamHash(record.name(in: segment.bytes))) != key {
        throw blame(source, address, segment, "another stream's event")
      }
    }
    return found
  }

  /// The header of a record's frame.
  @inline(__always)
  func header(of record: Record, in segment: Segment) throws(IndexFailure) -> FrameHeader {
    guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, checksumSeed: segment.checksumSeed)
    else {
      throw .log(
        segment.damage(
          Fault(position: record.framePosition, reason: "no frame header that matches its checksum and position")))
    }
    return header
  }

  /// The time of a record's append. Where readers pass over damage, the frame's header need not be sound.
  @inline(__always)
  func timestamp(of record: Record, in segment: Segment) throws(IndexFailure) -> UInt64 {
    guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, checksumSeed: segment.checksumSeed)
    else {
      if let guessed = set.guessedTimestamp(of: record, in: segment) { return guessed }
      return try header(of: record, in: segment).timestamp
    }
    return header.timestamp
  }

  /// Puts a stream that was read from version 1 to its end into the cache: the events in segments that have their index file.
  /// Does nothing for a stream that lost events in a gap.
  ///
  /// - Parameter runs: all of the stream behind `known`.
  func cacheStream(
    _ runs: borrowing Runs, behind known: StreamCache.Entry?, of stream: StreamKey, in cache: StreamCache
  ) throws(IndexFailure) {
    // The open segment grows, and the table of one that waits for its index file tells only its durable part.
    let sealed = snapshot.sealed
    if let known, known.coveredEnd >= sealed.end { return }
    let faults = faultCount()
    var records = known?.records ?? PackedRecords()
    for part in runs.parts.reversed() where part.source >= sealed.firstSource {
      for number in part.first..<part.end {
        let (segment, record) = try record(at: runs.addresses[number], snapshot.sources[part.source], of: stream)
        guard record.version == UInt64(records.count) + 1,
          let header = FrameHeader(in: segment.bytes, at: record.framePosition, checksumSeed: segment.checksumSeed)
        else { return }
        if number == part.first { records.reserve(part.end - part.first, like: record) }
        records.add(
          record, in: segment.bytes, baseOffset: segment.baseOffset,
          timestamp: header.timestamp)
      }
    }
    // The copy gets a checksum of its own, so it must not be a copy of zeros.
    if records.count > 0, faultCount() == faults {
      cache.insert(StreamCache.Entry(records: records, coveredEnd: sealed.end), of: stream)
    }
  }

  /// Throws if a record, or its frame's header, may have become zeros while it was read.
  ///
  /// - Parameter faults: the process's fault count before the read.
  @inline(__always)
  func checkUnchanged(_ record: Record, in segment: Segment, since faults: UInt64) throws(IndexFailure) {
    if faultCount() != faults { try checkReadable(record, in: segment) }
  }

  private func checkReadable(_ record: Record, in segment: Segment) throws(IndexFailure) {
    do throws(LogStoreError) {
      try segment.checkReadable(record.framePosition..<record.framePosition + FrameHeader.byteCount, since: 0)
      try segment.checkReadable(record.position..<record.end, since: 0)
    } catch {
      throw .log(error)
    }
  }

  /// Throws if the query can't decide whether a segment that is indexed in memory has the stream: a long name is compared
  /// with the record in the segment, which may have become zeros.
  func checkNames(of stream: StreamKey) throws(IndexFailure) {
    guard stream.name.count > SegmentTable.copiedNameByteCountMax else { return }
    for index in [snapshot.open] + snapshot.unsealed {
      let segment = index.segment
      guard segment.mapping.faultCount > 0 else { continue }
      if let position = segment.mapping.unreadablePosition(in: 0..<segment.bytes.count) {
        throw .log(segment.unreadable(at: position))
      }
    }
  }
}
