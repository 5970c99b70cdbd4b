// One look into one snapshot: where things are claimed to be, and whether they are there.

/// A look-up in one snapshot.
struct IndexQuery: ~Copyable {
  let set: SegmentSet
  let snapshot: Snapshot
  /// Streams share a key: every address of it is looked at.
  let isCareful: Bool

  /// A part of a stream that lies in one source.
  struct Part {
    /// Number in the snapshot.
    var source: Int
    /// In ``Runs/places``.
    var first: Int
    var end: Int
  }

  struct Runs {
    /// Newest first.
    var parts = ContiguousArray<Part>()
    /// The segment's ordinal << 32 | position.
    var places = ContiguousArray<UInt64>()
  }

  func file(_ source: Snapshot.Source) throws(IndexFailure) -> IndexFile {
    if source.kind == .file { return snapshot.files[source.index] }
    let segment = try segment(source.ordinal)
    do throws(LogStoreError) {
      return try set.builtIndex(segment)
    } catch {
      throw .log(error)
    }
  }

  @inline(__always)
  func segment(_ ordinal: Int) throws(IndexFailure) -> Segment {
    do throws(LogStoreError) {
      return try set.segment(ordinal, in: snapshot)
    } catch {
      throw .log(error)
    }
  }

  /// The failure that a record, or a frame, is not what an index says. An index made here from the segment can't be
  /// wrong, so then the log is.
  func blame(_ source: Snapshot.Source, _ ordinal: Int, _ segment: Segment, _ fault: Fault) -> IndexFailure {
    guard source.kind == .file else { return .log(segment.damage(fault)) }
    return .index(
      snapshot.files[source.index],
      Fault(
        position: 0,
        reason:
          "the index leads to byte \(fault.position) of the segment of offset \(segment.baseOffset): \(fault.reason)"),
      segment: ordinal - source.ordinal)
  }

  func blame(_ source: Snapshot.Source, _ place: UInt64, _ segment: Segment, _ reason: String) -> IndexFailure {
    blame(source, Int(place >> 32), segment, Fault(position: Int(place & 0xFFFF_FFFF), reason: reason))
  }

  private func blaming<Value>(
    _ file: IndexFile, _ body: () throws(Fault) -> Value
  ) throws(IndexFailure) -> Value {
    do throws(Fault) {
      return try body()
    } catch {
      throw .index(file, error, segment: nil)
    }
  }

  /// An address of a file as a place.
  private func place(
    _ address: UInt64, _ file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> UInt64 {
    let (number, position) = try blaming(file) { () throws(Fault) in try file.split(address) }
    return UInt64(source.ordinal + number) << 32 | UInt64(position)
  }

  /// Has the memory of the first records, and of their frames' headers, fetched all at once: they lie far apart, and to
  /// wait for one after the other is most of what a load costs.
  func prefetch(_ runs: borrowing Runs, limit: Int) {
    for isHeader in [false, true] {
      var left = min(limit, Self.prefetched)
      for part in runs.parts.reversed() {
        for number in part.first..<min(part.end, part.first + left) {
          let place = runs.places[number]
          left -= 1
          // What is not mapped yet, or not there, is met when it is read.
          let (ordinal, position) = (Int(place >> 32), Int(place & 0xFFFF_FFFF))
          if isHeader {
            snapshot.prefetchHeader(ordinal: ordinal, ofRecordAt: position)
          } else {
            snapshot.prefetchRecord(ordinal: ordinal, at: position)
          }
        }
        if left == 0 { break }
      }
    }
  }

  /// About as many cache lines as a processor fetches at a time.
  private static let prefetched = 16

  // MARK: - Records

  /// The event at a place, whatever its stream.
  private func event(at place: UInt64, _ source: Snapshot.Source) throws(IndexFailure) -> (Segment, Record) {
    let segment = try segment(Int(place >> 32))
    guard
      let record = Record(
        in: segment.bytes, at: Int(place & 0xFFFF_FFFF), limit: segment.bytes.count, place: segment.place),
      record.kind == .event
    else { throw blame(source, place, segment, "no event that matches its checksum and place") }
    return (segment, record)
  }

  /// The stream's event at a place.
  func record(
    at place: UInt64, _ source: Snapshot.Source, of stream: StreamKey
  ) throws(IndexFailure) -> (Segment, Record) {
    let (segment, record) = try event(at: place, source)
    guard stream.matches(record, in: segment.bytes) else {
      throw try otherStream(at: place, source, segment, record, key: IndexKey.stream(hash: stream.hash))
    }
    return (segment, record)
  }

  /// What it means that another stream's event is at a place.
  private func otherStream(
    at place: UInt64, _ source: Snapshot.Source, _ segment: Segment, _ record: Record, key: UInt64
  ) throws(IndexFailure) -> IndexFailure {
    if IndexKey.stream(hash: streamHash(record.name(in: segment.bytes))) == key, !isCareful { return .sharedKey }
    return blame(source, place, segment, "another stream's event")
  }

  /// The places of a stream's events in a file, in order, when others share its key.
  private func placesOneByOne(
    of stream: StreamKey, in file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> [(place: UInt64, version: UInt64)] {
    let key = IndexKey.stream(hash: stream.hash)
    var found: [(place: UInt64, version: UInt64)] = []
    for address in try blaming(file, { () throws(Fault) in try file.addresses(.streams, key) }).sorted() {
      let place = try place(address, file, source)
      let (segment, record) = try event(at: place, source)
      if stream.matches(record, in: segment.bytes) {
        found.append((place, record.version))
      } else if IndexKey.stream(hash: streamHash(record.name(in: segment.bytes))) != key {
        throw blame(source, place, segment, "another stream's event")
      }
    }
    return found
  }

  /// The header of the frame that a record is part of.
  @inline(__always)
  func header(of record: Record, in segment: Segment) throws(IndexFailure) -> FrameHeader {
    guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, place: segment.place) else {
      throw .log(
        segment.damage(
          Fault(position: record.framePosition, reason: "no frame header that matches its checksum and place")))
    }
    return header
  }

  /// When a record was appended. Where damage is passed over, the frame's header need not be sound.
  @inline(__always)
  func timestamp(of record: Record, in segment: Segment) throws(IndexFailure) -> UInt64 {
    guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, place: segment.place) else {
      if let guessed = set.guessedTimestamp(of: record, in: segment) { return guessed }
      return try header(of: record, in: segment).timestamp
    }
    return header.timestamp
  }

  /// Puts a stream that was read from version 1 to its end into the cache: what of it is in segments that have their index
  /// file. Not one that lost events in a gap.
  ///
  /// - Parameter runs: all of the stream behind `known`.
  func keep(
    _ runs: borrowing Runs, behind known: StreamCache.Entry?, of stream: StreamKey, in cache: StreamCache
  ) throws(IndexFailure) {
    // The open segment grows, and of one that waits for its index file just what is durable is told.
    let settled = snapshot.settled
    if let known, known.coveredEnd >= settled.end { return }
    let faults = faultCount()
    var records = known?.records ?? PackedRecords()
    for part in runs.parts.reversed() where part.source >= settled.firstSource {
      for number in part.first..<part.end {
        let (segment, record) = try record(at: runs.places[number], snapshot.sources[part.source], of: stream)
        guard record.version == UInt64(records.count) + 1,
          let header = FrameHeader(in: segment.bytes, at: record.framePosition, place: segment.place)
        else { return }
        if number == part.first { records.reserve(part.end - part.first, like: record) }
        records.add(
          record, in: segment.bytes, baseOffset: segment.baseOffset,
          timestamp: header.timestamp)
      }
    }
    // A copy has a checksum of its own, so it must not be one of zeros.
    if records.count > 0, faultCount() == faults {
      cache.keep(StreamCache.Entry(records: records, coveredEnd: settled.end), of: stream)
    }
  }

  /// Throws if a record, or its frame's header, may have become zeros while it was looked at.
  ///
  /// - Parameter faults: of the process, before it was.
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

  /// Throws if it can't be told whether a segment that is indexed in memory has the stream: a long name is compared where it
  /// stands, which may be zeros.
  func checkNames(of stream: StreamKey) throws(IndexFailure) {
    guard stream.name.count > SegmentTable.keptNameByteCount else { return }
    for index in [snapshot.open] + snapshot.unsealed {
      let segment = index.segment
      guard segment.mapping.faultCount > 0 else { continue }
      if let position = segment.mapping.unreadablePosition(in: 0..<segment.bytes.count) {
        throw .log(segment.unreadable(at: position))
      }
    }
  }

  // MARK: - Streams

  /// - Parameter known: of the stream.
  func lastSealedVersion(of stream: StreamKey, _ known: StreamCache.Entry?) throws(IndexFailure) -> UInt64 {
    try checkNames(of: stream)
    let key = IndexKey.stream(hash: stream.hash)
    let sourceCount = snapshot.sourceCount(behind: known?.coveredEnd ?? 0)
    let candidates = try snapshot.candidates(.streams, key, sourceCount: sourceCount)
    for source in snapshot.sources[..<sourceCount] {
      switch source.kind {
      case .open: continue
      case .unsealed:
        let index = snapshot.unsealed[source.index]
        if let version = index.lastVersion(of: stream, in: index.segment) { return version }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .streams, key) { continue }
        if let version = try lastVersion(of: stream, in: try file(source), source) { return version }
      }
    }
    return UInt64(known?.records.count ?? 0)
  }

  private func lastVersion(
    of stream: StreamKey, in file: IndexFile, _ source: Snapshot.Source
  ) throws(IndexFailure) -> UInt64? {
    if isCareful { return try placesOneByOne(of: stream, in: file, source).last?.version }
    let key = IndexKey.stream(hash: stream.hash)
    guard let claim = try blaming(file, { () throws(Fault) in try file.last(key) }) else { return nil }
    guard claim.isOrdered else { throw .sharedKey }
    let place = try place(claim.address, file, source)
    let (segment, record) = try record(at: place, source, of: stream)
    guard record.version == claim.version else {
      throw blame(source, place, segment, "version \(record.version) of the stream, expected \(claim.version)")
    }
    return record.version
  }

  /// Where a stream's events are from a version on, at most `limit` in each source.
  ///
  /// - Parameter coveredEnd: what lies in segments that begin before it need not be told.
  func runs(
    of stream: StreamKey, from version: UInt64, limit: Int, behind coveredEnd: UInt64 = 0
  ) throws(IndexFailure) -> Runs {
    try checkNames(of: stream)
    let key = IndexKey.stream(hash: stream.hash)
    let sourceCount = snapshot.sourceCount(behind: coveredEnd)
    let candidates = try snapshot.candidates(.streams, key, sourceCount: sourceCount)
    var runs = Runs()
    for number in 0..<sourceCount {
      let source = snapshot.sources[number]
      let first = runs.places.count
      var firstVersion: UInt64?
      switch source.kind {
      case .open, .unsealed:
        let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
        if let run = index.run(of: stream, from: version, limit: limit, in: index.segment) {
          firstVersion = run.firstVersionInSegment
          for position in run.positions { runs.places.append(UInt64(source.ordinal) << 32 | UInt64(position)) }
        }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .streams, key) { continue }
        firstVersion = try addRun(of: stream, from: version, limit: limit, try file(source), source, to: &runs.places)
      }
      if runs.places.count > first {
        runs.parts.append(Part(source: number, first: first, end: runs.places.count))
      }
      if let firstVersion, firstVersion <= version { break }
    }
    return runs
  }

  /// Adds places to `places`; gives back the stream's first version in the file, nil if it has none of its events.
  private func addRun(
    of stream: StreamKey, from version: UInt64, limit: Int, _ file: IndexFile, _ source: Snapshot.Source,
    to places: inout ContiguousArray<UInt64>
  ) throws(IndexFailure) -> UInt64? {
    if isCareful {
      let found = try placesOneByOne(of: stream, in: file, source)
      places.append(contentsOf: found.lazy.filter { $0.version >= version }.prefix(limit).map(\.place))
      return found.first?.version
    }
    let first = places.count
    let claim: IndexFile.RunClaim?
    do throws(Fault) {
      claim = try file.run(IndexKey.stream(hash: stream.hash), from: version, limit: limit, into: &places)
    } catch {
      throw .index(file, error, segment: nil)
    }
    guard let claim else { return nil }
    guard claim.isOrdered else { throw .sharedKey }
    for number in first..<places.count { places[number] = try place(places[number], file, source) }
    if first == places.count {
      // Nothing of it will be read, so that it is the stream's at all has to be seen here.
      return try lastVersion(of: stream, in: file, source) == nil ? nil : claim.firstVersion
    }
    return claim.firstVersion
  }

  // MARK: - Ids and frames

  func mayHold(id: EventID) throws(IndexFailure) -> Bool {
    let key = IndexKey.eventID(id)
    let candidates = try snapshot.candidates(.eventIDs, key)
    for source in snapshot.sources {
      switch source.kind {
      case .open where !snapshot.open.candidates(for: id).isEmpty: return true
      case .unsealed where !snapshot.unsealed[source.index].candidates(for: id).isEmpty: return true
      case .file where try snapshot.isCandidate(source.index, candidates, .eventIDs, key): return true
      case .missing: return true
      case .open, .unsealed, .file: continue
      }
    }
    return false
  }

  func find(
    id: EventID, where isWanted: (Record, Segment) -> Bool
  ) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let key = IndexKey.eventID(id)
    let candidates = try snapshot.candidates(.eventIDs, key)
    var other: (record: Record, segment: Segment)?
    for source in snapshot.sources {
      switch source.kind {
      case .open, .unsealed:
        let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
        for position in index.candidates(for: id) {
          let place = UInt64(source.ordinal) << 32 | UInt64(position)
          guard let found = try self.event(at: place, source, id, key: nil) else { continue }
          if isWanted(found.record, found.segment) { return found }
          other = found
        }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .eventIDs, key) { continue }
        let file = try file(source)
        for address in try blaming(file, { () throws(Fault) in try file.addresses(.eventIDs, key) }) {
          let place = try place(address, file, source)
          guard let found = try self.event(at: place, source, id, key: key) else { continue }
          if isWanted(found.record, found.segment) { return found }
          other = found
        }
      }
    }
    return other
  }

  /// The event at a place if it has this id.
  private func event(
    at place: UInt64, _ source: Snapshot.Source, _ id: EventID, key: UInt64?
  ) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let (segment, record) = try event(at: place, source)
    let found = record.id(in: segment.bytes, place: segment.place)
    if let key, !record.hasID || IndexKey.eventID(found) != key {
      throw blame(source, place, segment, "an event with another id")
    }
    return record.hasID && found == id ? (record, segment) : nil
  }

  /// The position of a frame of the segment at or before an offset, as near as is listed.
  func framePosition(
    atOrBefore offset: UInt64, _ source: Snapshot.Source, _ ordinal: Int
  ) throws(IndexFailure) -> Int {
    switch source.kind {
    case .open, .unsealed:
      let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
      return index.framePosition(atOrBefore: UInt32(clamping: offset - index.segment.baseOffset))
    case .file, .missing:
      let file = try file(source)
      return try blaming(file) { () throws(Fault) in
        try file.framePosition(atOrBefore: offset, segment: ordinal - source.ordinal)
      }
    }
  }
}
