// Checks that a finished segment is the one that the segment after it continues.

/// The header checksum of a finished segment's last frame, as far as something else than the segment tells it.
enum EndChain {
  case known(UInt32)
  /// What would tell it is damaged or gone.
  case lost
  /// The disk can't read what would tell it. It may become readable again.
  case unreadable(LogStoreError)

  var value: UInt32? { if case .known(let chain) = self { chain } else { nil } }
}

extension SegmentSet {
  /// The header of a segment, without mapping the segment.
  func header(of baseOffset: UInt64) throws(LogStoreError) -> SegmentHeader {
    let snapshot = present
    if let ordinal = snapshot.ordinal(of: baseOffset), let known = snapshot.slot(ordinal).mapped {
      if !known.hasOwnHeader, let error = known.fileError { throw error }
      return known.header
    }
    let file = try disk.open(join(directory, FileName.segment(baseOffset)), .read)
    return try Segment.readHeader(of: file, baseOffset: baseOffset, storeID: storeID)
  }

  /// The header checksum of the last frame before a segment, by the segment's header or, where that is lost, by its first frame,
  /// which has it too.
  ///
  /// - Throws: what is no fault of the file, such as too few descriptors: then nothing is known.
  func chain(before baseOffset: UInt64) throws(LogStoreError) -> EndChain {
    var unreadable: LogStoreError?
    do throws(LogStoreError) {
      return .known(try header(of: baseOffset).chain)
    } catch {
      // Readers of that segment report what is wrong with it.
      guard error.isOfTheFile else { throw error }
      switch error {
      case .unreadable: unreadable = error
      case .inputOutput(_, _, let code) where isUnreadable(code): unreadable = error
      default: break
      }
    }
    let path = join(directory, FileName.segment(baseOffset))
    let segment = try Segment.openDamaged(path, baseOffset: baseOffset, storeID: storeID, disk: disk)
    if let first = FrameHeader(in: segment.bytes, at: SegmentHeader.byteCount, checksumSeed: segment.checksumSeed),
      first.isSnapshot
    {
      return .known(first.chain)
    }
    // The disk may have become well after the header was asked for, and may have failed after that.
    if unreadable == nil, case .unreadable? = segment.fileError { unreadable = segment.fileError }
    do throws(LogStoreError) {
      try segment.checkReadable(0..<SegmentHeader.byteCount + FrameHeader.byteCount, since: 0)
    } catch {
      unreadable = unreadable ?? error
    }
    return unreadable.map { .unreadable($0) } ?? .lost
  }

  /// The header checksum of a finished segment's last frame, by the segment after it or, where that is lost, by an index file.
  /// Where nothing tells it, the file may be another history's.
  func endChain(of baseOffset: UInt64) throws(LogStoreError) -> EndChain {
    guard let next = successor(of: baseOffset) else { return .lost }
    let chain = try chain(before: next)
    if chain.value == nil, let indexed = indexed(baseOffset)?.segment.chain { return .known(indexed) }
    return chain
  }

  /// What the known index files say of a finished segment.
  private func indexed(_ baseOffset: UInt64) -> (file: IndexFile, number: Int, segment: IndexedSegment)? {
    // Lists no directory: this is called while locks are held.
    for file in present.files {
      let segments = file.header.segments
      if let number = segments.firstIndex(where: { $0.baseOffset == baseOffset }) {
        return (file, number, segments[number])
      }
    }
    return nil
  }

  /// The events of a finished segment by an index file that was built from the history's own file; nil if there is none.
  ///
  /// - Parameter endChain: the segment's; see ``endChain(of:)``.
  func ownListedEvents(of baseOffset: UInt64, endChain: UInt32?) -> ListedEvents? {
    guard let (file, number, segment) = indexed(baseOffset), segment.chain == endChain else { return nil }
    return ListedEvents(file, segment: number)
  }

  /// Refuses a finished segment that the segment after it does not continue, before anything of it is served. The frames of
  /// a segment from a copy of the store that was written to separately are sound by themselves.
  ///
  /// With an index it reads only the last frames; without one, the headers of all frames.
  func checkEnd(of segment: Segment) throws(LogStoreError) {
    guard let offset = endOffset(of: segment.baseOffset), let chain = try endChain(of: segment.baseOffset).value else {
      return
    }
    // Uses the index files that are known already: a reindex opens segments before it lists any index file.
    if let position = lastListedFrame(of: segment, before: offset, in: present),
      segment.ending(from: position, at: offset, chain: chain) == .expected
    {
      return
    }
    // Bytes that can't be read may look like an end. Their reader reports that.
    guard case .other(let fault) = segment.ending(from: SegmentHeader.byteCount, at: offset, chain: chain),
      !segment.mayHaveBeenUnreadable(0..<segment.bytes.count)
    else { return }
    throw segment.damage(fault)
  }

  /// The position of the last frame of a finished segment that an index lists.
  private func lastListedFrame(of segment: Segment, before end: UInt64, in snapshot: Snapshot) -> Int? {
    guard end > segment.baseOffset, let ordinal = snapshot.ordinal(of: segment.baseOffset) else { return nil }
    let source = snapshot.source(of: ordinal)
    switch source.kind {
    case .open, .missing: return nil
    case .unsealed:
      return snapshot.unsealed[source.index].framePosition(atOrBefore: UInt32(clamping: end - 1 - segment.baseOffset))
    case .file:
      let file = snapshot.files[source.index]
      return try? file.framePosition(atOrBefore: end - 1, segment: ordinal - source.ordinal)
    }
  }
}
