// Indexes built in memory, for finished segments without a sound index file.

extension SegmentSet {
  /// The index of a finished segment without a sound index file, built in memory from the segment.
  func builtIndex(_ segment: Segment, rebuilding: Bool = false) throws(LogStoreError) -> IndexFile {
    if !rebuilding, let known = state.withLock({ $0.built.value(segment.baseOffset) }) { return known }
    // Throws the known damage instead of reading the segment again: every query may come here.
    if let error = damageMaps[segment.baseOffset]?.worst { throw error }
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
      try scanned.checkReadable(0..<end.position, since: faults.scanned)
      try segment.checkReadable(0..<end.position, since: faults.own)
      state.withLock { $0.built.insert(built) }
      return built
    } catch let error as LogStoreError {
      throw error
    } catch {
      // The build reads and writes only memory, so no other error is possible.
      preconditionFailure("an index that was just made is not sound: \(error)")
    }
  }

  /// Reads all of a finished segment and indexes its events.
  ///
  /// - Returns: as the end's offset the base offset of the next segment, even if there is a gap before it.
  func readThrough(_ segment: Segment) throws(LogStoreError) -> (index: ActiveIndex, end: FrameExpectation) {
    guard let successor = successor(of: segment.baseOffset) else {
      preconditionFailure("the last segment's index is the open one")
    }
    if let error = segment.fileError { throw error }
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    let next = try self.segment(successor)
    guard next.hasOwnHeader else {
      // The next segment's header, and with it the end of this segment, is lost. The frames must reach the next segment's
      // base offset.
      let fault = scan.go(to: .firstInvalid, in: segment, adding: index)
      if scan.next.offset != successor, let fault { throw segment.damage(fault) }
      return (index, scan.next)
    }
    let end = RecoveryScan.End.successor(endOffset: next.header.previousEndOffset, chain: next.header.chain)
    if let fault = scan.go(to: end, in: segment, adding: index) { throw segment.damage(fault) }
    scan.next.offset = successor
    return (index, scan.next)
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
