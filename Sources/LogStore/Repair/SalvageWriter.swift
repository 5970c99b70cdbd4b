/// Makes a store of what was salvaged: the same segments where nothing is lost, and a new one behind each gap. Offsets,
/// versions, ids, times and cursors stay; checksums and chain values are made anew, since they cover places.
struct SalvageWriter: ~Copyable {
  /// A segment that is being written.
  private struct Piece {
    var file: any File
    var header: SegmentHeader
    var checksumSeed: ChecksumSeed
    /// Of the segment that its events come from.
    var sourceBase: UInt64
    var position = SegmentHeader.byteCount
    var chain: UInt32
  }

  private let directory: String
  private let disk: any Disk
  private let store: StoreHeader
  private var piece: Piece?
  private var buffer = FrameBuffer()
  /// The offset that comes next.
  private(set) var next: UInt64 = 0
  private(set) var segmentCount = 0
  private(set) var byteCount: UInt64 = 0
  private(set) var cursors: Checkpoints = [:]
  private var timestamp: UInt64 = 0
  /// Bytes of the file that was read last.
  private var fileByteCount = UInt64(StoreOptions().segmentBytes)

  // Of the segment before.
  private var previousBase = SegmentHeader.noPrevious
  private var chain: UInt32 = 0
  // Of the gap before the next.
  private var gapStart: UInt64?
  private var streams: [LostStream] = []

  init(_ directory: String, store: StoreHeader, disk: any Disk) {
    self.directory = directory
    self.store = store
    self.disk = disk
  }

  mutating func add(_ run: SalvagedRun) throws(LogStoreError) {
    let base = run.segment.baseOffset
    if let piece, piece.sourceBase != base { try finishPiece(fileByteCount: fileByteCount) }
    fileByteCount = run.fileByteCount
    timestamp = max(timestamp, run.timestamp)
    if run.isSnapshot {
      // The state of all cursors, which begins the next segment anyway.
      if run.isWholeFrame { cursors = [:] }
      for record in run.records where record.kind == .cursor {
        let checkpoint = record.version == Checkpoints.deleted ? nil : record.version
        cursors[Array(record.name(in: run.segment.bytes))] = checkpoint
      }
      return
    }
    if run.records.contains(where: { $0.kind == .event }), piece == nil { try beginPiece(sourceBase: base) }
    guard let piece else {
      for record in run.records { cursors.apply(record, in: run.segment.bytes) }
      return
    }
    try write(run, to: piece)
  }

  mutating func add(_ gap: SalvagedGap) throws(LogStoreError) {
    // A store's first segment begins with offset 0, whatever is left of it.
    if piece == nil, previousBase == SegmentHeader.noPrevious { try beginPiece(sourceBase: 0) }
    try finishPiece(fileByteCount: 0)
    if gapStart == nil { gapStart = gap.offsets.lowerBound }
    streams += gap.streams
    var last: [UInt64: UInt64] = [:]
    for event in gap.events { last[event.key] = max(last[event.key] ?? 0, event.version) }
    streams += last.map { LostStream(key: $0.key, lastVersion: $0.value) }.sorted { $0.key < $1.key }
    next = gap.offsets.upperBound
  }

  /// Makes the last segment whole, and the small files. Gives back where the log ends.
  mutating func finish() throws(LogStoreError) -> CleanEnd {
    if piece == nil { try beginPiece(sourceBase: next) }
    guard let last = piece else { preconditionFailure("a segment was just begun") }
    let end = CleanEnd(
      storeID: store.storeID, endOffset: next, baseOffset: last.header.baseOffset,
      endPosition: UInt64(last.position), chain: last.chain)
    let whole = try finishPiece(fileByteCount: fileByteCount)
    // As a writer expects to find it: the space is there, and is zero.
    try last.file.writeZeros(from: last.position, to: Int(whole))
    try last.file.sync()
    try disk.replace(join(directory, FileName.clean), with: end.encoded())
    // Last, since it makes the directory a store.
    try disk.replace(join(directory, FileName.store), with: store.encoded())
    return end
  }

  // MARK: - Segments

  private mutating func beginPiece(sourceBase: UInt64) throws(LogStoreError) {
    let file = try disk.open(join(directory, FileName.segment(next)), .create)
    let header = SegmentHeader(
      storeID: store.storeID, baseOffset: next, previousBaseOffset: previousBase, fileByteCount: 0,
      createdMicroseconds: disk.now(), chain: chain, gapStart: gapStart)
    var begun = Piece(
      file: file, header: header, checksumSeed: ChecksumSeed(storeID: store.storeID, baseOffset: next),
      sourceBase: sourceBase,
      chain: chain)
    var body = RunningChecksum()
    var count = 0
    for (name, checkpoint) in cursors.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
      add(EncodedAppend.cursorRecord(name: name), version: checkpoint, relativeOffset: 0, to: begun, &body)
      count += 1
    }
    for stream in streams {
      add(stream.encoded(), version: stream.lastVersion, relativeOffset: 0, to: begun, &body)
      count += 1
    }
    try writeFrame(
      to: &begun, firstOffset: next, timestamp: timestamp, eventCount: 0, recordCount: count, body, isSnapshot: true)
    gapStart = nil
    streams = []
    piece = begun
    segmentCount += 1
  }

  /// - Parameter fileByteCount: of the file, if its frames don't need more.
  @discardableResult
  private mutating func finishPiece(fileByteCount: UInt64) throws(LogStoreError) -> UInt64 {
    guard var done = piece else { return 0 }
    done.header.fileByteCount = max(
      fileByteCount / UInt64(SegmentHeader.byteCount) * UInt64(SegmentHeader.byteCount),
      UInt64(done.position.roundedUp(to: SegmentHeader.byteCount)))
    try done.file.write(done.header.encoded())
    try done.file.resize(to: done.header.fileByteCount)
    try done.file.sync()
    byteCount += UInt64(done.position)
    previousBase = done.header.baseOffset
    chain = done.chain
    piece = nil
    return done.header.fileByteCount
  }

  // MARK: - Frames

  private mutating func write(_ run: SalvagedRun, to target: Piece) throws(LogStoreError) {
    var target = target
    let first = next
    let base = target.header.baseOffset
    var body = RunningChecksum()
    for record in run.records {
      let bytes = run.segment.bytes.part(record.position, record.byteCount)
      add(bytes, version: record.version, relativeOffset: UInt32(next - base), to: target, &body)
      if record.kind == .event { next += 1 } else { cursors.apply(record, in: run.segment.bytes) }
    }
    try writeFrame(
      to: &target, firstOffset: first, timestamp: run.timestamp, eventCount: Int(next - first),
      recordCount: run.records.count, body, isSnapshot: false)
    piece = target
  }

  private mutating func add(
    _ record: [UInt8], version: UInt64, relativeOffset: UInt32, to target: Piece, _ body: inout RunningChecksum
  ) {
    // No pointer into an array may leave its closure; the copy does.
    let start = record.withUnsafeBytes { buffer.append($0) }
    assign(start, record.count, version: version, relativeOffset: relativeOffset, to: target, &body)
  }

  private mutating func add(
    _ record: UnsafeRawBufferPointer, version: UInt64, relativeOffset: UInt32, to target: Piece,
    _ body: inout RunningChecksum
  ) {
    let start = buffer.append(record)
    assign(start, record.count, version: version, relativeOffset: relativeOffset, to: target, &body)
  }

  private mutating func assign(
    _ start: Int, _ count: Int, version: UInt64, relativeOffset: UInt32, to target: Piece, _ body: inout RunningChecksum
  ) {
    let copy = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start..<start + count])
    Record.setAssignedFields(
      copy, at: target.position + start, framePosition: target.position, version: version,
      relativeOffset: relativeOffset)
    target.checksumSeed.finish(copy, count: 1, at: target.position + start, body: &body)
  }

  private mutating func writeFrame(
    to target: inout Piece, firstOffset: UInt64, timestamp: UInt64, eventCount: Int, recordCount: Int,
    _ body: RunningChecksum, isSnapshot: Bool
  ) throws(LogStoreError) {
    var body = body
    body.add(UnsafeRawBufferPointer(buffer.pad(to: 8)))
    // All of the store is on disk before it gets its name.
    var header = FrameHeader(
      firstOffset: firstOffset, timestamp: timestamp, eventCount: eventCount, recordCount: recordCount,
      syncedPosition: target.position, chain: target.chain, bodyChecksum: body.value, isSnapshot: isSnapshot)
    header.encode(into: buffer.bytes, at: target.position, checksumSeed: target.checksumSeed)
    target.chain = header.checksum
    try target.file.write(UnsafeRawBufferPointer(buffer.bytes), at: UInt64(target.position))
    target.position += buffer.count
    buffer.reset()
  }
}
