// Indexes built in memory, for finished segments without a sound index file.

extension SegmentSet {
  /// The index of a finished segment without a sound index file, built in memory from the segment.
  func builtIndex(_ segment: Segment, rebuilding: Bool = false) throws(LogStoreError) -> IndexFile {
    if !rebuilding, let known = state.withLock({ $0.built.value(segment.baseOffset) }) { return known }
    // Throws the known damage instead of reading the segment again: every query may come here.
    if let error = indexObstacle(of: segment.baseOffset) { throw error }
    notifyMissingIndex()
    let scanned = try segmentToScan(segment.baseOffset)
    let faults = (scanned: scanned.mapping.faultCount, own: segment.mapping.faultCount)
    let (index, end) = try readThrough(scanned)
    let input = index.state.withLock { $0.sealingInput() }
    let output = IndexOutput(nil)
    let path = join(directory, FileName.index(segment.baseOffset..<end.offset))
    do {
      _ = try IndexEncoding.encode(input, of: segment, end: end, to: output)
      let built = try IndexFile(
        output.takeMemory(), path: path, storeID: storeID, baseOffset: segment.baseOffset, endOffset: end.offset,
        isBuilt: true)
      // The bytes read for the index may have been zeros instead of the file's.
      let read = segment.start.position..<end.position
      try index.segment.checkReadable(read, since: index.segment === scanned ? faults.scanned : 0)
      try segment.checkReadable(read, since: faults.own)
      state.withLock { $0.built.insert(built) }
      return built
    } catch let error as LogStoreError {
      throw error
    } catch {
      // The build reads and writes only memory, so no other error is possible.
      preconditionFailure("an index that was just made is not sound: \(error)")
    }
  }

  /// The known damage because of which a segment's index can't be made from the segment; nil if nothing is known, or if the
  /// damage has hit no event.
  func indexObstacle(of baseOffset: UInt64) -> LogStoreError? {
    guard let map = damageMaps[baseOffset], !(servesDamaged && map.hasAllEvents) else { return nil }
    return map.worst
  }

  /// Reads all of a finished segment and indexes its events.
  ///
  /// Where damage has hit no event, for example only the segment's header, a store that serves damaged segments makes the
  /// index from the records: otherwise nothing could be said about any stream.
  ///
  /// - Returns: as the end's offset the base offset of the next segment, even if there is a gap before it.
  func readThrough(_ segment: Segment) throws(LogStoreError) -> (index: ActiveIndex, end: FrameExpectation) {
    guard let successor = successor(of: segment.baseOffset) else {
      preconditionFailure("the last segment's index is the open one")
    }
    do throws(LogStoreError) {
      return try readFrames(of: segment, before: successor)
    } catch {
      guard servesDamaged, error.isOfTheFile, let map = try unsharedDamageMap(of: segment.baseOffset, upTo: nil),
        map.hasAllEvents, let found = readRecords(in: map, before: successor)
      else { throw error }
      return found
    }
  }

  private func readFrames(
    of segment: Segment, before successor: UInt64
  ) throws(LogStoreError) -> (index: ActiveIndex, end: FrameExpectation) {
    if let error = segment.fileError { throw error }
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    let chain: UInt32
    switch try endChain(of: segment.baseOffset) {
    case .known(let known): chain = known
    case .unreadable(let error): throw error
    case .lost:
      throw segment.damage(
        Fault(position: 0, reason: "nothing tells where the segment ends, since the next one is lost"))
    }
    let endOffset = endOffset(of: segment.baseOffset) ?? successor
    let end = RecoveryScan.End.successor(endOffset: endOffset, chain: chain)
    if let fault = scan.go(to: end, in: segment, adding: index) { throw segment.damage(fault) }
    scan.next.offset = successor
    return (index, scan.next)
  }

  /// Indexes the events of a damaged segment that has all of them. nil if one has changed since the map was made, or if
  /// their versions don't continue each other.
  private func readRecords(
    in map: DamageMap, before successor: UInt64
  ) -> (index: ActiveIndex, end: FrameExpectation)? {
    guard let last = map.lastFrame else { return nil }
    let segment = map.segment
    let index = ActiveIndex(segment)
    var next = segment.baseOffset
    for piece in map.pieces {
      guard piece.offsets.lowerBound == next, add(piece, of: segment, to: index) else { return nil }
      next = piece.offsets.upperBound
    }
    guard next == map.endOffset else { return nil }
    return (
      index, FrameExpectation(position: last.end, offset: successor, chain: last.chain, timestamp: 0)
    )
  }

  /// Adds the events of a piece, each checked again. Returns false if something in it has changed since the map was made.
  private func add(_ piece: DamageMap.Piece, of segment: Segment, to index: ActiveIndex) -> Bool {
    index.state.withLock { state in
      var position = piece.bytes.lowerBound
      while position < piece.bytes.upperBound {
        switch piece.content {
        case .missing: return false
        case .records:
          guard
            let record = Record(
              in: segment.bytes, at: position, limit: piece.bytes.upperBound, checksumSeed: segment.checksumSeed),
            Self.add(record, of: segment, to: &state)
          else { return false }
          position = record.end
        case .frames:
          guard let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed) else {
            return false
          }
          let expected = FrameExpectation(
            position: position, offset: header.firstOffset, chain: header.chain, timestamp: header.timestamp)
          do throws(Fault) {
            _ = try segment.checkFrame(expected) { record throws(Fault) in
              guard record.kind != .event || Self.add(record, of: segment, to: &state) else {
                throw Fault(position: record.position, reason: "the event's version does not continue its stream")
              }
            }
          } catch {
            return false
          }
          ActiveIndex.addFrame(header, at: position, to: &state, in: segment)
          position += header.byteCount
        }
      }
      return true
    }
  }

  private static func add(_ record: Record, of segment: Segment, to state: inout SegmentTable) -> Bool {
    ActiveIndex.add(record, hash: streamHash(record.name(in: segment.bytes)), to: &state, in: segment)
  }
}

/// Indexes in memory of segments without an index file. Over the limit, the least recently used one is dropped.
struct BuiltIndexes {
  private var entries: [UInt64: (index: IndexFile, lastUse: UInt64)] = [:]
  private var uses: UInt64 = 0
  private var byteCount = 0

  mutating func value(_ baseOffset: UInt64) -> IndexFile? {
    guard let entry = entries[baseOffset] else { return nil }
    uses += 1
    entries[baseOffset] = (entry.index, uses)
    return entry.index
  }

  mutating func insert(_ index: IndexFile) {
    forget(index.baseOffset)
    uses += 1
    entries[index.baseOffset] = (index, uses)
    byteCount += index.bytes.count
    while byteCount > SegmentSet.builtByteCount, entries.count > 1,
      let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse })
    {
      forget(oldest.key)
    }
  }

  mutating func forget(_ baseOffset: UInt64) {
    if let entry = entries.removeValue(forKey: baseOffset) { byteCount -= entry.index.bytes.count }
  }
}
