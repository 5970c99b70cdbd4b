/// The end of the log, as its one writer knows it. Builds frames, writes and syncs them, and begins new segments. Used by
/// one thread only.
struct LogWriter: ~Copyable {
  /// Unsynced bytes after which the disk is asked to start writing.
  private static let writebackByteCount = 1 << 20
  /// Longer than a fast disk takes to write a group's frame. A slow disk loses no more than this.
  private static let pollMicroseconds: UInt32 = 50
  private static let segmentAttempts = 3

  private let disk: any Disk
  private let directory: String
  private let segments: SegmentSet
  private let preallocator: SegmentPreallocator
  private let sealer: SegmentSealer

  private(set) var index: ActiveIndex
  /// The index of the previous segment, if this writer wrote it. Most streams that continue had an event there.
  private(set) var previousIndex: ActiveIndex?
  private var file: any File
  /// Where the next frame goes and what it continues. Includes what is written but not synced.
  private(set) var next: FrameExpectation
  /// Everything before this position of the segment is known to be on disk.
  private(set) var syncedPosition: Int
  /// Everything before this position is synced, or the disk was asked to write it.
  private var writebackPosition: Int
  /// From this position on, the next segment needs preparation.
  private var preparedPosition = 0
  /// Frames of the open segment that were written to be synced at once, and their bytes.
  private var syncedFrames = (count: 0, byteCount: 0)
  /// The checkpoints as written, durable or not.
  private(set) var cursors: Checkpoints

  /// The frame being built.
  private var frame = FrameBuilder()

  init(
    disk: any Disk, directory: String, segments: SegmentSet, file: any File, end: FrameExpectation,
    cursors: Checkpoints, preallocator: SegmentPreallocator, sealer: SegmentSealer
  ) {
    self.disk = disk
    self.directory = directory
    self.segments = segments
    self.preallocator = preallocator
    self.sealer = sealer
    self.file = file
    self.cursors = cursors
    index = segments.open
    next = end
    syncedPosition = end.position
    writebackPosition = end.position
  }

  var durableEnd: DurableEnd {
    DurableEnd(offset: next.offset, baseOffset: index.segment.baseOffset, position: next.position)
  }
  /// The timestamp of the last frame that was written.
  var lastTimestamp: UInt64 { next.timestamp }
  var isSynced: Bool { syncedPosition == next.position }
  /// Microseconds.
  var now: UInt64 { disk.now() }
  /// The offset that the next event gets. Counts the events of the frame being built.
  var nextOffset: UInt64 { next.offset + UInt64(frame.eventCount) }
  var isFrameEmpty: Bool { frame.isEmpty }
  var frameByteCount: Int { frame.byteCount }

  /// Whether `byteCount` more bytes of records fit into this segment, together with the frame being built.
  func fits(_ byteCount: Int) -> Bool {
    (frame.byteCount + byteCount).roundedUp(to: 8) <= Int(index.segment.header.fileByteCount) - next.position
  }

  /// Whether a stream has events in this segment, written or not, or in the previous segment if its index is in memory.
  func holds(_ hash: UInt64, _ name: UnsafeRawBufferPointer) -> Bool {
    let names = names
    return index.state.withLock { $0.find(hash, name, names) != nil }
      || previousIndex?.lastVersion(hash: hash, name: name) != nil
  }

  /// Throws if the names of an append's streams can't be compared with those in the segments that are indexed in memory: a
  /// long name is compared in the mapped file, and the disk can't read it there.
  func checkNames(of append: EncodedAppend) throws(LogStoreError) {
    guard append.streams.contains(where: { $0.nameLength > SegmentTable.copiedNameByteCountMax }) else { return }
    for segment in [index.segment, previousIndex?.segment] {
      guard let segment, let position = segment.mapping.unreadablePosition(in: 0..<segment.bytes.count) else {
        continue
      }
      throw segment.unreadable(at: position)
    }
  }

  /// Reads the unreadable pages of the segments that are indexed in memory again.
  func healNames() {
    // Pages that stay unreadable are reported where they are needed.
    _ = index.segment.mapping.heal()
    _ = previousIndex?.segment.mapping.heal()
  }

  // MARK: - Building a frame

  /// Where the names of the open segment's records are, including the frame being built. Valid until the next change.
  var names: RecordNames {
    RecordNames(mapped: index.segment.bytes, frame: UnsafeRawBufferPointer(frame.bytes), at: next.position)
  }

  /// Whether an event that is not durable yet may have this id. It is in the frame being built, or in one written before.
  func mayAwait(_ id: EventID) -> Bool {
    let key = IndexKey.hash(id)
    return index.state.withLock { table in
      var found = false
      table.forEachOrdinal(withIDKey: key) { found = found || $0 >= table.durableCount }
      return found
    }
  }

  /// Adds an append's events at the versions assigned to them, and adds them to the index, where readers don't see them
  /// before they are durable.
  ///
  /// - Parameter streams: what is known of the append's streams.
  mutating func add(events append: EncodedAppend, versions: [UInt64], _ streams: inout [StreamTail]) {
    let segment = index.segment
    let start = append.bytes.withUnsafeBytes {
      frame.append($0.part(append.eventsStart, append.eventsByteCount))
    }
    let records = frame.bytes
    let framePosition = next.position
    let firstOffset = UInt32(nextOffset - segment.baseOffset)
    // The index comes last: readers wait for its lock.
    var position = start
    for event in 0..<append.eventCount {
      let byteCount = Record.byteCount(in: UnsafeRawBufferPointer(records), at: position)
      Record.setAssignedFields(
        UnsafeMutableRawBufferPointer(rebasing: records[position..<position + byteCount]),
        at: framePosition + position, framePosition: framePosition, version: versions[event],
        relativeOffset: firstOffset + UInt32(event))
      position += byteCount
    }
    frame.finishRecords(from: start, count: append.eventCount, at: framePosition, segment.checksumSeed)
    frame.eventCount += append.eventCount
    append.bytes.withUnsafeBytes { encoded in
      index.state.withLock { table in
        var position = start
        for event in 0..<append.eventCount {
          let stream = append.stream(of: event)
          let source = position - start + append.eventsStart
          table.add(
            position: UInt32(framePosition + position), to: &streams[stream].head, hash: append.streams[stream].hash,
            name: encoded.part(append.streams[stream].namePosition, append.streams[stream].nameLength),
            version: versions[event],
            idKey: append.hasIDs ? Record.storedID(in: encoded, at: source).map(IndexKey.hash) : nil)
          position += Record.byteCount(in: encoded, at: source)
        }
      }
    }
  }

  /// Adds a cursor's record if it moves the cursor or deletes it.
  mutating func add(cursor record: UnsafeRawBufferPointer, name: [UInt8], checkpoint: UInt64, isReset: Bool) {
    let known = cursors[name]
    if known == nil, checkpoint == Checkpoints.deleted { return }
    if !isReset, let present = known, present >= checkpoint { return }
    cursors[name] = checkpoint == Checkpoints.deleted ? nil : checkpoint
    // A new cursor is a reset: a program that doesn't know deletions reads a deleted checkpoint as one that is ahead of
    // everything.
    frame.add(
      record, version: checkpoint, relativeOffset: UInt32(nextOffset - index.segment.baseOffset), at: next.position,
      index.segment.checksumSeed, makesReset: known == nil)
  }

  /// Writes the frame that was built, if there is one. ``sync()`` makes it durable.
  mutating func writeFrame() throws(LogStoreError) {
    guard !frame.isEmpty else { return }
    let position = next.position
    let timestamp = max(disk.now(), next.timestamp)
    let header = frame.finish(
      at: position, index.segment.checksumSeed, firstOffset: next.offset, timestamp: timestamp,
      syncedPosition: syncedPosition, chain: next.chain, isSnapshot: false)
    try file.write(UnsafeRawBufferPointer(frame.bytes), at: UInt64(position))
    // The mapping shows what was written, since both are the page cache. It is not touched here: a mapped page costs more
    // to sync.
    index.state.withLock { ActiveIndex.addFrame(header, at: position, to: &$0, in: index.segment) }
    next.advance(past: header)
    frame.reset()
  }

  /// Throws if the segment's file was removed or replaced. Makes two system calls. A file that was truncated is not noticed
  /// here: the lost events are refused when they are read.
  func checkFile() throws(LogStoreError) {
    do throws(LogStoreError) {
      try file.checkPath(index.segment.path)
    } catch {
      // The file may be gone together with its directory; then the error names the directory.
      try disk.checkLock()
      throw error
    }
  }

  /// Keeps the next segment's file ready in time, and starts the write-back of what is not synced. Called after each
  /// group, when most of its callers have their responses.
  ///
  /// - Parameter frameByteCount: the bytes of the frame that was just written and synced; 0 without one.
  mutating func prepareAhead(syncedFrameByteCount frameByteCount: Int) {
    let position = next.position
    if frameByteCount > 0 {
      syncedFrames.count += 1
      syncedFrames.byteCount += frameByteCount
    }
    if position - writebackPosition >= Self.writebackByteCount {
      preallocator.startWriteback(of: file, at: writebackPosition, byteCount: position - writebackPosition)
      writebackPosition = position
    }
    guard position >= preparedPosition else { return }
    preparedPosition = position + max(Int(index.segment.header.fileByteCount) / 128, SegmentHeader.byteCount)
    let average = syncedFrames.byteCount / max(syncedFrames.count, 1)
    var unit = SegmentPreallocator.Zeros.smallest
    while unit < average, unit < SegmentPreallocator.Zeros.largest { unit *= 2 }
    // Slightly faster than this segment fills, so that the next one is ready before this one is full.
    preallocator.prepare(SegmentPreallocator.Zeros(byteCount: syncedFrames.byteCount / 4 * 5, unitByteCount: unit))
  }

  /// Asks the disk to start writing what ``sync(isBegun:)`` waits for, which leaves time for other work meanwhile. Only
  /// that sync makes it certain: a failure is ignored here and shows there.
  func beginSync() {
    if !isSynced { file.startWriteback(at: UInt64(syncedPosition), byteCount: UInt64(next.position - syncedPosition)) }
  }

  /// - Parameter isBegun: ``beginSync()`` was called a moment ago, so the rest of the write is polled for instead of slept
  ///   for.
  mutating func sync(isBegun: Bool = false) throws(LogStoreError) {
    if isSynced { return }
    if isBegun {
      file.pollWriteback(
        at: UInt64(syncedPosition), byteCount: UInt64(next.position - syncedPosition),
        microseconds: Self.pollMicroseconds)
    }
    try file.sync()
    syncedPosition = next.position
    writebackPosition = next.position
  }

  // MARK: - Segments

  /// Begins the next segment. The frame being built must be empty and everything before it synced, so that the existence of
  /// the new segment proves that the old one is complete.
  ///
  /// - Parameter needed: bytes of the records that follow.
  /// - Throws: `unchanged` if nothing of the log was touched: the writer may go on.
  mutating func beginSegment(for needed: Int) throws(BeginFailure) {
    precondition(isFrameEmpty && isSynced)
    // Somebody may remove or replace the prepared file at any moment, but hardly this often.
    for _ in 0..<Self.segmentAttempts where try tryToBeginSegment(for: needed) { return }
    throw .unchanged(
      .segmentLost(
        file: preallocator.path,
        reason: "the next segment was removed or replaced before it had its name, again and again"))
  }

  /// Returns false, and has changed nothing of the log, if the prepared file was removed or replaced meanwhile.
  private mutating func tryToBeginSegment(for needed: Int) throws(BeginFailure) -> Bool {
    let old = index.segment
    // A segment without events would have the same name as its successor. It holds nothing that the successor's snapshot
    // doesn't hold, so the successor replaces it and follows the segment before it.
    let replaces = next.offset == old.baseOffset
    buildSnapshot(base: next.offset, replaced: replaces ? old : nil)
    let preallocated = try takePreallocated(for: needed)
    let header = SegmentHeader(
      storeID: segments.storeID, baseOffset: next.offset,
      previousBaseOffset: replaces ? old.header.previousBaseOffset : old.baseOffset,
      fileByteCount: UInt64(preallocated.byteCount), createdMicroseconds: disk.now(),
      chain: replaces ? old.header.chain : next.chain, gapStart: replaces ? old.header.gapStart : nil)
    let opened: (index: ActiveIndex, oldEnd: FrameExpectation)
    do throws(LogStoreError) {
      opened = try finishSegment(header, preallocated)
    } catch .segmentLost(preallocator.path, _) {
      frame.reset()
      return false
    } catch {
      throw .broken(error)
    }
    if !replaces {
      sealer.seal(index, end: opened.oldEnd)
      previousIndex = index
    }
    file = preallocated.file
    index = opened.index
    return true
  }

  private mutating func takePreallocated(
    for needed: Int
  ) throws(BeginFailure) -> SegmentPreallocator.Preallocated {
    do throws(LogStoreError) {
      return try preallocator.take(
        atLeast: SegmentHeader.byteCount + frame.byteCount.roundedUp(to: 8)
          + (FrameHeader.byteCount + needed).roundedUp(to: 8))
    } catch {
      frame.reset()
      // The directory may be gone, and this writer with it.
      do throws(LogStoreError) { try checkFile() } catch { throw .broken(error) }
      throw .unchanged(error)
    }
  }

  private mutating func buildSnapshot(base: UInt64, replaced: Segment?) {
    frame.reset()
    let checksumSeed = ChecksumSeed(storeID: segments.storeID, baseOffset: base)
    for (name, checkpoint) in cursors.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
      frame.add(
        EncodedAppend.cursorRecord(name: name), version: checkpoint, at: SegmentHeader.byteCount, checksumSeed)
    }
    guard let replaced, replaced.header.gapStart != nil else { return }
    // What is known of the gap before the segment is kept.
    for stream in replaced.lostStreams {
      frame.add(stream.encoded(), version: stream.lastVersion, at: SegmentHeader.byteCount, checksumSeed)
    }
  }

  private mutating func finishSegment(
    _ header: SegmentHeader, _ preallocated: SegmentPreallocator.Preallocated
  ) throws(LogStoreError) -> (index: ActiveIndex, oldEnd: FrameExpectation) {
    // The old file is checked less often afterwards.
    try checkFile()
    let oldEnd = next
    let snapshot = frame.finish(
      at: SegmentHeader.byteCount, ChecksumSeed(storeID: header.storeID, baseOffset: header.baseOffset),
      firstOffset: next.offset, timestamp: max(disk.now(), next.timestamp), syncedPosition: SegmentHeader.byteCount,
      chain: header.chain, isSnapshot: true)
    try preallocated.file.write(header.encoded())
    try preallocated.file.write(UnsafeRawBufferPointer(frame.bytes), at: UInt64(SegmentHeader.byteCount))
    try preallocated.file.sync()
    let path = join(directory, FileName.segment(header.baseOffset))
    try preallocated.file.checkPath(preallocator.path)
    try disk.rename(preallocator.path, to: path)
    try disk.syncDirectory(directory)
    frame.reset()
    let segment = try Segment.open(
      path, baseOffset: header.baseOffset, storeID: header.storeID, disk: disk)
    next = segment.start
    next.timestamp = oldEnd.timestamp
    next.advance(past: snapshot)
    syncedPosition = next.position
    writebackPosition = next.position
    preparedPosition = 0
    syncedFrames = (0, 0)
    let index = ActiveIndex(segment)
    segments.append(index)
    return (index, oldEnd)
  }
}

/// What the writer knows of one stream of an append.
struct StreamTail {
  /// The stream's last version; 0 if it is new.
  var version: UInt64
  /// The stream's index in the open segment's table; nil if it has no events there.
  var head: Int?
}

/// Why a new segment could not be begun.
enum BeginFailure: Error {
  /// Nothing of the log was touched.
  case unchanged(LogStoreError)
  /// It isn't known how much of the log was changed.
  case broken(LogStoreError)
}
