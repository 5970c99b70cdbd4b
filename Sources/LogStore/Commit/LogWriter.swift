/// The end of the log as its one writer knows it: builds frames, writes and syncs them, and begins new segments.
/// Not for more than one thread.
struct LogWriter: ~Copyable {
  /// Unsynced bytes that the disk is asked to begin with.
  private static let writebackByteCount = 1 << 20
  /// More than a fast disk takes to write a group's frame; a slow one loses no more than this by it.
  private static let pollMicroseconds: UInt32 = 50

  private let disk: any Disk
  private let directory: String
  private let segments: SegmentSet
  private let preallocator: SegmentPreallocator
  private let sealer: SegmentSealer

  private(set) var index: ActiveIndex
  /// That of the segment before, if this writer has written it: most streams that go on were there a moment ago.
  private(set) var previousIndex: ActiveIndex?
  private var file: any File
  /// Where the next frame goes and what it continues; includes what is written but not synced.
  private(set) var next: FrameExpectation
  /// Everything before it in this segment is known to be on disk.
  private(set) var syncedPosition: Int
  /// What lies before it was synced, or asked to be written to disk.
  private var writebackPosition: Int
  /// From here on there is something to do for the next segment.
  private var preparedPosition = 0
  /// Frames of the open segment that were written to be synced at once, and their bytes.
  private var syncedFrames = (count: 0, byteCount: 0)
  /// As written.
  private(set) var cursors: Checkpoints

  /// The frame being built: header space, then records.
  private var buffer: FrameBuffer
  private var bodyChecksum = RunningChecksum()
  private var eventCount = 0
  private var recordCount = 0

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
    buffer = FrameBuffer()
  }

  var durableEnd: DurableEnd {
    DurableEnd(offset: next.offset, baseOffset: index.segment.baseOffset, position: next.position)
  }
  /// Of the last frame that was written.
  var lastTimestamp: UInt64 { next.timestamp }
  var isSynced: Bool { syncedPosition == next.position }
  /// Microseconds.
  var now: UInt64 { disk.now() }
  /// The offset that the next event gets, those of the frame being built counted.
  var nextOffset: UInt64 { next.offset + UInt64(eventCount) }
  var isFrameEmpty: Bool { recordCount == 0 }
  var frameByteCount: Int { buffer.count }

  /// Whether so many more bytes of records fit into this segment with the frame being built.
  func fits(_ byteCount: Int) -> Bool {
    (buffer.count + byteCount).roundedUp(to: 8) <= Int(index.segment.header.fileByteCount) - next.position
  }

  /// Whether a stream has events in this segment, written or not, or in the one before if that is in memory.
  func holds(_ hash: UInt64, _ name: UnsafeRawBufferPointer) -> Bool {
    let names = names
    return index.state.withLock { $0.find(hash, name, names) != nil }
      || previousIndex?.lastVersion(hash: hash, name: name) != nil
  }

  /// Throws if it can't be told whether an append's streams have events in the segments that are indexed in memory: a long
  /// name is compared where it stands, and that can't be read.
  func checkNames(of append: EncodedAppend) throws(LogStoreError) {
    guard append.streams.contains(where: { $0.nameLength > SegmentTable.copiedNameByteCountMax }) else { return }
    for segment in [index.segment, previousIndex?.segment] {
      guard let segment, let position = segment.mapping.unreadablePosition(in: 0..<segment.bytes.count) else {
        continue
      }
      throw segment.unreadable(at: position)
    }
  }

  /// Reads again what could not be read of the segments that are indexed in memory, now and then.
  func healNames() {
    // What is left is met where it is needed.
    _ = index.segment.mapping.heal()
    _ = previousIndex?.segment.mapping.heal()
  }

  // MARK: - Building a frame

  /// Where the names of the open segment's records are, those of the frame being built too; good until the next change.
  var names: RecordNames {
    RecordNames(mapped: index.segment.bytes, frame: UnsafeRawBufferPointer(buffer.bytes), at: next.position)
  }

  /// Whether an event that is not durable yet, in the frame being built or written before, may have this id.
  func mayAwait(_ id: EventID) -> Bool {
    let key = IndexKey.hash(id)
    return index.state.withLock { table in
      var found = false
      table.forEachOrdinal(withIDKey: key) { found = found || $0 >= table.durableCount }
      return found
    }
  }

  /// Adds an append's events at the versions given to them, and notes them in the index, where readers don't see them
  /// before they are durable.
  ///
  /// - Parameter streams: what is known of the append's streams.
  mutating func add(events append: EncodedAppend, versions: [UInt64], _ streams: inout [StreamTail]) {
    let segment = index.segment
    let start = append.bytes.withUnsafeBytes {
      buffer.append($0.part(append.eventsStart, append.eventsByteCount))
    }
    let records = buffer.bytes
    let framePosition = next.position
    let firstOffset = UInt32(nextOffset - segment.baseOffset)
    // Everything but the index first: readers wait for that.
    var position = start
    for event in 0..<append.eventCount {
      let byteCount = Record.byteCount(in: UnsafeRawBufferPointer(records), at: position)
      Record.setAssignedFields(
        UnsafeMutableRawBufferPointer(rebasing: records[position..<position + byteCount]),
        at: framePosition + position, framePosition: framePosition, version: versions[event],
        relativeOffset: firstOffset + UInt32(event))
      position += byteCount
    }
    segment.checksumSeed.finish(
      UnsafeMutableRawBufferPointer(rebasing: records[start...]), count: append.eventCount, at: framePosition + start,
      body: &bodyChecksum)
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
    eventCount += append.eventCount
    recordCount += append.eventCount
  }

  /// Adds a cursor's record, if it moves the cursor or deletes it.
  mutating func add(cursor record: UnsafeRawBufferPointer, name: [UInt8], checkpoint: UInt64, isReset: Bool) {
    let known = cursors[name]
    if known == nil, checkpoint == Checkpoints.deleted { return }
    if !isReset, let present = known, present >= checkpoint { return }
    cursors[name] = checkpoint == Checkpoints.deleted ? nil : checkpoint
    let start = buffer.append(record)
    let copy = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start..<start + record.count])
    // A program that knows of no deletion takes the name for one that stands behind everything.
    if known == nil { Record.makeReset(copy) }
    Record.setAssignedFields(
      copy, at: next.position + start, framePosition: next.position, version: checkpoint,
      relativeOffset: UInt32(nextOffset - index.segment.baseOffset))
    index.segment.checksumSeed.finish(copy, count: 1, at: next.position + start, body: &bodyChecksum)
    recordCount += 1
  }

  /// Writes the frame that was built, if there is one. Durable after ``sync()``.
  mutating func writeFrame() throws(LogStoreError) {
    guard recordCount > 0 else { return }
    let position = next.position
    let timestamp = max(disk.now(), next.timestamp)
    let frame = finishFrame(
      checksumSeed: index.segment.checksumSeed, position: position, timestamp: timestamp, chain: next.chain,
      syncedPosition: syncedPosition, isSnapshot: false)
    try file.write(UnsafeRawBufferPointer(buffer.bytes), at: UInt64(position))
    // The mapping shows what was written, since both are the page cache; but it is not touched here: a page that is
    // mapped costs more to sync.
    index.state.withLock { ActiveIndex.addFrame(frame, at: position, to: &$0, in: index.segment) }
    next.advance(past: frame)
    reset()
  }

  /// Throws if the segment's file was removed or replaced. Makes two system calls. Does not look for a file that was cut: the
  /// events that it lost are refused when they are read.
  func checkFile() throws(LogStoreError) {
    do throws(LogStoreError) {
      try file.checkPath(index.segment.path)
    } catch {
      // It may have gone with its directory, which is then what to name.
      try disk.checkLock()
      throw error
    }
  }

  /// Sees to it that the next segment's file is ready in time, and that what is not synced is under way to the disk.
  /// To be called when nobody waits.
  ///
  /// - Parameter frameByteCount: the bytes of a frame that was written and synced just now; 0 without one.
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
    // A little faster than this segment is filled, so that the next one is done before this one is full.
    preallocator.prepare(SegmentPreallocator.Zeros(byteCount: syncedFrames.byteCount / 4 * 5, unitByteCount: unit))
  }

  private mutating func finishFrame(
    checksumSeed: ChecksumSeed, position: Int, timestamp: UInt64, chain: UInt32, syncedPosition: Int, isSnapshot: Bool
  ) -> FrameHeader {
    let padding = buffer.pad(to: 8)
    bodyChecksum.add(UnsafeRawBufferPointer(padding))
    var header = FrameHeader(
      firstOffset: next.offset, timestamp: timestamp, eventCount: eventCount, recordCount: recordCount,
      syncedPosition: syncedPosition, chain: chain, bodyChecksum: bodyChecksum.value, isSnapshot: isSnapshot)
    header.encode(into: buffer.bytes, at: position, checksumSeed: checksumSeed)
    return header
  }

  private mutating func reset() {
    buffer.reset()
    bodyChecksum = RunningChecksum()
    eventCount = 0
    recordCount = 0
  }

  /// Has the disk begin with what ``sync(isBegun:)`` will wait for, so that there is time for something else meanwhile. To
  /// be made certain by that sync alone: a failure here says nothing, and shows there.
  func beginSync() {
    if !isSynced { file.startWriteback(at: UInt64(syncedPosition), byteCount: UInt64(next.position - syncedPosition)) }
  }

  /// - Parameter isBegun: ``beginSync()`` was called a moment ago; what is left of the write is then waited for awake.
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

  /// Begins the next segment. The frame being built must be empty, and everything before synced, so that the new
  /// segment's being there proves that the old one is whole.
  ///
  /// - Parameter needed: bytes of the records that are to follow.
  /// An error in `unchanged` came before anything of the log was touched: the writer may go on.
  mutating func beginSegment(for needed: Int) throws(BeginFailure) {
    precondition(isFrameEmpty && isSynced)
    let old = index.segment
    // A segment without an event would have its successor's name. It holds nothing that the successor's snapshot doesn't,
    // so it is replaced by it, in its place behind the segment before.
    let replaces = next.offset == old.baseOffset
    buildSnapshot(base: next.offset, replaced: replaces ? old : nil)
    let frameBytes = buffer.count.roundedUp(to: 8)
    let made: SegmentPreallocator.Made
    do throws(LogStoreError) {
      made = try preallocator.take(
        atLeast: SegmentHeader.byteCount + frameBytes + (FrameHeader.byteCount + needed).roundedUp(to: 8))
    } catch {
      reset()
      throw .unchanged(error)
    }
    let header = SegmentHeader(
      storeID: segments.storeID, baseOffset: next.offset,
      previousBaseOffset: replaces ? old.header.previousBaseOffset : old.baseOffset,
      fileByteCount: UInt64(made.byteCount), createdMicroseconds: disk.now(),
      chain: replaces ? old.header.chain : next.chain, gapStart: replaces ? old.header.gapStart : nil)
    let opened: (index: ActiveIndex, oldEnd: FrameExpectation)
    do throws(LogStoreError) {
      opened = try finishSegment(header, made)
    } catch {
      throw .broken(error)
    }
    if !replaces {
      sealer.seal(index, end: opened.oldEnd)
      previousIndex = index
    }
    file = made.file
    index = opened.index
  }

  private mutating func buildSnapshot(base: UInt64, replaced: Segment?) {
    reset()
    let checksumSeed = ChecksumSeed(storeID: segments.storeID, baseOffset: base)
    for (name, position) in cursors.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
      addToSnapshot(EncodedAppend.cursorRecord(name: name), version: position, checksumSeed)
    }
    guard let replaced, replaced.header.gapStart != nil else { return }
    // What is known of the gap before the segment stays.
    for stream in replaced.lostStreams { addToSnapshot(stream.encoded(), version: stream.lastVersion, checksumSeed) }
  }

  private mutating func addToSnapshot(_ bytes: [UInt8], version: UInt64, _ checksumSeed: ChecksumSeed) {
    let start = bytes.withUnsafeBytes { buffer.append($0) }
    let record = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start...])
    let at = SegmentHeader.byteCount + start
    Record.setAssignedFields(
      record, at: at, framePosition: SegmentHeader.byteCount, version: version, relativeOffset: 0)
    checksumSeed.finish(record, count: 1, at: at, body: &bodyChecksum)
    recordCount += 1
  }

  private mutating func finishSegment(
    _ header: SegmentHeader, _ made: SegmentPreallocator.Made
  ) throws(LogStoreError) -> (index: ActiveIndex, oldEnd: FrameExpectation) {
    // Nobody looks for the old one as often afterwards.
    try checkFile()
    let oldEnd = next
    let frame = finishFrame(
      checksumSeed: ChecksumSeed(storeID: header.storeID, baseOffset: header.baseOffset),
      position: SegmentHeader.byteCount,
      timestamp: max(disk.now(), next.timestamp), chain: header.chain, syncedPosition: SegmentHeader.byteCount,
      isSnapshot: true)
    try made.file.write(header.encoded())
    try made.file.write(UnsafeRawBufferPointer(buffer.bytes), at: UInt64(SegmentHeader.byteCount))
    try made.file.sync()
    let path = join(directory, FileName.segment(header.baseOffset))
    try disk.rename(preallocator.path, to: path)
    try disk.syncDirectory(directory)
    reset()
    let segment = try Segment.open(
      path, baseOffset: header.baseOffset, storeID: header.storeID, disk: disk)
    next = segment.start
    next.timestamp = oldEnd.timestamp
    next.advance(past: frame)
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
  /// Its last version; 0 if it is new.
  var version: UInt64
  /// Where it is in the open segment's table, if it has events there.
  var head: Int?
}

/// Why a new segment could not be begun.
enum BeginFailure: Error {
  /// Nothing of the log was touched.
  case unchanged(LogStoreError)
  /// It isn't known how far it got.
  case broken(LogStoreError)
}

/// Memory for one frame, kept from one to the next. The first bytes are left for the header.
struct FrameBuffer: ~Copyable {
  /// What is kept between frames; a larger frame's memory is given back.
  static let keptByteCount = 8 << 20

  private var memory: UnsafeMutableRawBufferPointer
  private(set) var count = FrameHeader.byteCount

  init() {
    memory = .allocate(byteCount: 64 << 10, alignment: 4096)
  }

  deinit {
    memory.deallocate()
  }

  var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(rebasing: memory[..<count]) }

  /// Returns where in the buffer the copy begins.
  mutating func append(_ bytes: UnsafeRawBufferPointer) -> Int {
    reserve(bytes.count + 8)
    let start = count
    UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + bytes.count]).copyMemory(from: bytes)
    count += bytes.count
    return start
  }

  /// Adds zeros up to a multiple of `unit`, at most 8; returns them.
  mutating func pad(to unit: Int) -> UnsafeMutableRawBufferPointer {
    let padded = count.roundedUp(to: unit)
    reserve(padded - count)
    let padding = UnsafeMutableRawBufferPointer(rebasing: memory[count..<padded])
    for index in padding.indices { padding[index] = 0 }
    count = padded
    return padding
  }

  mutating func reset() {
    count = FrameHeader.byteCount
    if memory.count > Self.keptByteCount {
      memory.deallocate()
      memory = .allocate(byteCount: 64 << 10, alignment: 4096)
    }
  }

  private mutating func reserve(_ more: Int) {
    guard count + more > memory.count else { return }
    let larger = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(memory.count * 2, (count + more).roundedUp(to: 4096)), alignment: 4096)
    larger.copyMemory(from: UnsafeRawBufferPointer(bytes))
    memory.deallocate()
    memory = larger
  }
}
