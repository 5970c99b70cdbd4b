// Finding events by stream, id and offset over all segments.

extension SegmentSet {
  /// A stream's last durable version; 0 if there is none. Looks at one filter line for each index file, and into the newest
  /// file that has the stream.
  ///
  /// Of a stream that lost its last events in a gap, the last that is known to have been.
  func lastVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    let found = try lookUp { (look: borrowing Look) throws(IndexFailure) in
      if let version = look.snapshot.open.lastVersion(of: stream, in: look.snapshot.open.segment) { return version }
      return try look.lastSealedVersion(of: stream)
    }
    return max(found, gaps.lastVersion(of: stream))
  }

  /// As ``lastVersion(of:)`` over finished segments only: for the writer, which knows the open one.
  func lastSealedVersion(of stream: StreamKey) throws(LogStoreError) -> UInt64 {
    let found = try lookUp { (look: borrowing Look) throws(IndexFailure) in try look.lastSealedVersion(of: stream) }
    return max(found, gaps.lastVersion(of: stream))
  }

  /// Visits a stream's records in order of version, at most `limit`, each checked to be what it was looked for.
  ///
  /// Allocates two arrays, whatever the number of events and files.
  ///
  /// - Parameter skipsMissing: goes on behind versions that are lost in a gap; otherwise they are an error.
  func forEachRecord(
    of stream: StreamKey, from version: UInt64, limit: Int, skipsMissing: Bool = true,
    _ visit: (Record, FrameHeader, Segment) -> Void
  ) throws(LogStoreError) {
    var expected = max(version, 1)
    var left = limit
    var lastOffset: UInt64 = 0
    try lookUp { (look: borrowing Look) throws(IndexFailure) in
      // Again from where it stopped, if an index was found out on the way.
      guard left > 0 else { return }
      let runs = try look.runs(of: stream, from: expected, limit: left)
      look.prefetch(runs, limit: left)
      for part in runs.parts.reversed() {
        let source = look.snapshot.sources[part.source]
        for number in part.first..<min(part.end, part.first + left) {
          let (segment, record) = try look.record(at: runs.places[number], source, of: stream)
          if record.version != expected {
            guard record.version > expected,
              gaps.areBetween(lastOffset, segment.baseOffset + UInt64(record.relativeOffset))
            else {
              throw look.blame(
                source, runs.places[number], segment, "version \(record.version) of the stream, expected \(expected)")
            }
            guard skipsMissing else { throw .log(incomplete(stream, expected...record.version - 1)) }
            expected = record.version
          }
          guard let header = FrameHeader(in: segment.bytes, at: record.framePosition, place: segment.place) else {
            throw .log(
              segment.damage(
                Fault(position: record.framePosition, reason: "no frame header that matches its checksum and place")))
          }
          visit(record, header, segment)
          lastOffset = segment.baseOffset + UInt64(record.relativeOffset)
          expected += 1
          left -= 1
        }
        if left == 0 { return }
      }
    }
    if left > 0, !skipsMissing, gaps.lastVersion(of: stream) >= expected {
      throw incomplete(stream, expected...gaps.lastVersion(of: stream))
    }
  }

  private func incomplete(_ stream: StreamKey, _ missing: ClosedRange<UInt64>) -> LogStoreError {
    .streamIncomplete(stream: String(decoding: stream.name, as: UTF8.self), missing: missing)
  }

  /// The place of the event with this stored id in this stream; nil if there is none.
  func find(id: EventID, stream: StreamKey) throws(LogStoreError) -> (record: Record, segment: Segment)? {
    try lookUp { (look: borrowing Look) throws(IndexFailure) in try look.find(id: id, stream: stream) }
  }

  /// The position of the frame that holds an offset of this segment.
  ///
  /// - Parameter end: positions from here on are not to be read.
  func framePosition(holding offset: UInt64, in segment: Segment, end: Int) throws(LogStoreError) -> Int {
    try lookUp { (look: borrowing Look) throws(IndexFailure) in
      guard let ordinal = look.snapshot.ordinal(of: segment.baseOffset) else {
        throw .log(segment.damage(Fault(position: 0, reason: "the segment is not one of the store's")))
      }
      let source = look.snapshot.source(of: ordinal)
      var position = try look.framePosition(atOrBefore: offset, source, ordinal)
      let listed = position
      guard listed < end else {
        throw look.blame(
          source, ordinal, segment,
          Fault(position: listed, reason: "no frame can be there, the frames end at byte \(end)"))
      }
      while position < end {
        guard let header = FrameHeader(in: segment.bytes, at: position, place: segment.place) else {
          let fault = Fault(position: position, reason: "no frame header that matches its checksum and place")
          // The frame behind a sound one is the log's own.
          if position != listed { throw .log(segment.damage(fault)) }
          throw look.blame(source, ordinal, segment, fault)
        }
        if header.firstOffset <= offset, offset < header.endOffset { return position }
        guard header.firstOffset <= offset else {
          throw look.blame(
            source, ordinal, segment,
            Fault(
              position: position, reason: "the frame begins with offset \(header.firstOffset), looking for \(offset)"))
        }
        position += header.byteCount
      }
      throw .log(segment.damage(Fault(position: position, reason: "no frame with offset \(offset)")))
    }
  }

  /// How many streams there are: those that begin in a segment, over all segments.
  func streamCount() throws(LogStoreError) -> UInt64 {
    try lookUp { (look: borrowing Look) throws(IndexFailure) in
      var count: UInt64 = 0
      for source in look.snapshot.sources {
        switch source.kind {
        case .open: count += look.snapshot.open.newStreamCount(in: look.snapshot.open.segment)
        case .unsealed:
          let index = look.snapshot.unsealed[source.index]
          count += index.newStreamCount(in: index.segment)
        case .file, .missing: count += try look.file(source).header.newStreamCount
        }
      }
      return count
    }
  }

  /// Does what `body` does with the store as it is now, and again without an index that was found damaged or led astray: the
  /// log is the truth.
  @inline(__always)
  private func lookUp<Value>(
    _ body: (borrowing Look) throws(IndexFailure) -> Value
  ) throws(LogStoreError) -> Value {
    var isCareful = false
    while true {
      let look = Look(set: self, snapshot: try current(), isCareful: isCareful)
      do throws(IndexFailure) {
        return try body(look)
      } catch {
        switch error {
        case .log(let error): throw error
        // Ends: each time there is one file less, and those that the writer adds were made of a sound log.
        case .index(let file, let fault, let segment): try distrust(file, fault, segment: segment)
        case .sharedKey: isCareful = true
        case .stopped: preconditionFailure("a look-up is not given up")
        }
      }
    }
  }
}

/// A look-up in one snapshot.
private struct Look: ~Copyable {
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

  func file(_ source: Snapshot.Source) throws(IndexFailure) -> SealedIndex {
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
    _ file: SealedIndex, _ body: () throws(Fault) -> Value
  ) throws(IndexFailure) -> Value {
    do throws(Fault) {
      return try body()
    } catch {
      throw .index(file, error, segment: nil)
    }
  }

  /// An address of a file as a place.
  private func place(
    _ address: UInt64, _ file: SealedIndex, _ source: Snapshot.Source
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
    of stream: StreamKey, in file: SealedIndex, _ source: Snapshot.Source
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

  // MARK: - Streams

  func lastSealedVersion(of stream: StreamKey) throws(IndexFailure) -> UInt64 {
    let key = IndexKey.stream(hash: stream.hash)
    let candidates = try snapshot.candidates(.streams, key)
    for source in snapshot.sources {
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
    return 0
  }

  private func lastVersion(
    of stream: StreamKey, in file: SealedIndex, _ source: Snapshot.Source
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
  func runs(of stream: StreamKey, from version: UInt64, limit: Int) throws(IndexFailure) -> Runs {
    let key = IndexKey.stream(hash: stream.hash)
    let candidates = try snapshot.candidates(.streams, key)
    var runs = Runs()
    for (number, source) in snapshot.sources.enumerated() {
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
    of stream: StreamKey, from version: UInt64, limit: Int, _ file: SealedIndex, _ source: Snapshot.Source,
    to places: inout ContiguousArray<UInt64>
  ) throws(IndexFailure) -> UInt64? {
    if isCareful {
      let found = try placesOneByOne(of: stream, in: file, source)
      places.append(contentsOf: found.lazy.filter { $0.version >= version }.prefix(limit).map(\.place))
      return found.first?.version
    }
    let first = places.count
    let claim: SealedIndex.RunClaim?
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

  func find(id: EventID, stream: StreamKey) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let key = IndexKey.eventID(id)
    let candidates = try snapshot.candidates(.eventIDs, key)
    for source in snapshot.sources {
      switch source.kind {
      case .open, .unsealed:
        let index = source.kind == .open ? snapshot.open : snapshot.unsealed[source.index]
        for position in index.candidates(for: id) {
          let place = UInt64(source.ordinal) << 32 | UInt64(position)
          if let found = try self.event(at: place, source, id, stream, key: nil) { return found }
        }
      case .file, .missing:
        if source.kind == .file, try !snapshot.isCandidate(source.index, candidates, .eventIDs, key) { continue }
        let file = try file(source)
        for address in try blaming(file, { () throws(Fault) in try file.addresses(.eventIDs, key) }) {
          let place = try place(address, file, source)
          if let found = try self.event(at: place, source, id, stream, key: key) { return found }
        }
      }
    }
    return nil
  }

  /// The event at a place if it has this id and is of this stream.
  private func event(
    at place: UInt64, _ source: Snapshot.Source, _ id: EventID, _ stream: StreamKey, key: UInt64?
  ) throws(IndexFailure) -> (record: Record, segment: Segment)? {
    let (segment, record) = try event(at: place, source)
    let found = record.id(in: segment.bytes, place: segment.place)
    if let key, !record.hasID || IndexKey.eventID(found) != key {
      throw blame(source, place, segment, "an event with another id")
    }
    guard record.hasID, found == id, stream.matches(record, in: segment.bytes) else { return nil }
    return (record, segment)
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
