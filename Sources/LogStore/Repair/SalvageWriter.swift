/// Writes a store from what was salvaged: the same segments where nothing is lost, and a new one behind each gap. Offsets,
/// versions, ids, times and cursors stay. Checksums and chain values are computed again, since they cover positions.
struct SalvageWriter: ~Copyable {
  /// A segment that is being written.
  private struct Piece {
    var file: any File
    var header: SegmentHeader
    var checksumSeed: ChecksumSeed
    /// The base offset of the segment that its events come from.
    var sourceBase: UInt64
    var position = SegmentHeader.byteCount
    var chain: UInt32
  }

  private let directory: String
  private let disk: any Disk
  private let store: StoreHeader
  private var piece: Piece?
  private var frame = FrameBuilder()
  /// The next offset to write.
  private(set) var next: UInt64 = 0
  private(set) var segmentCount = 0
  private(set) var byteCount: UInt64 = 0
  private(set) var cursors: Checkpoints = [:]
  private var timestamp: UInt64 = 0
  /// The size of the last file that was read.
  private var fileByteCount = UInt64(StoreOptions().segmentBytes)

  // About the previous segment.
  private var previousBase = SegmentHeader.noPrevious
  private var chain: UInt32 = 0
  // About the gap before the next segment.
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
      // The checkpoints of all cursors. The next segment begins with them anyway.
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

  /// Completes the last segment, and writes the small files. Returns where the log ends.
  mutating func finish() throws(LogStoreError) -> CleanEnd {
    if piece == nil { try beginPiece(sourceBase: next) }
    guard let last = piece else { preconditionFailure("a segment was just begun") }
    let end = CleanEnd(
      storeID: store.storeID, endOffset: next, baseOffset: last.header.baseOffset,
      endPosition: UInt64(last.position), chain: last.chain)
    let whole = try finishPiece(fileByteCount: fileByteCount)
    // As a writer expects it: the space is allocated and zero.
    try last.file.writeZeros(from: last.position, to: Int(whole))
    try last.file.sync()
    try disk.replace(join(directory, FileName.clean), with: end.encoded())
    // Last, since this file makes the directory a store.
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
    for (name, checkpoint) in cursors.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
      frame.add(
        EncodedAppend.cursorRecord(name: name), version: checkpoint, at: begun.position, begun.checksumSeed)
    }
    for stream in streams {
      frame.add(stream.encoded(), version: stream.lastVersion, at: begun.position, begun.checksumSeed)
    }
    try writeFrame(to: &begun, firstOffset: next, timestamp: timestamp, isSnapshot: true)
    gapStart = nil
    streams = []
    piece = begun
    segmentCount += 1
  }

  /// - Parameter fileByteCount: the size of the file, if its frames don't need more.
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
    for record in run.records {
      frame.add(
        run.segment.bytes.part(record.position, record.byteCount), version: record.version,
        relativeOffset: UInt32(next - base), at: target.position, target.checksumSeed)
      if record.kind == .event { next += 1 } else { cursors.apply(record, in: run.segment.bytes) }
    }
    frame.eventCount = Int(next - first)
    try writeFrame(to: &target, firstOffset: first, timestamp: run.timestamp, isSnapshot: false)
    piece = target
  }

  private mutating func writeFrame(
    to target: inout Piece, firstOffset: UInt64, timestamp: UInt64, isSnapshot: Bool
  ) throws(LogStoreError) {
    // Any synced position is true: the whole store is on disk before it gets its name.
    let header = frame.finish(
      at: target.position, target.checksumSeed, firstOffset: firstOffset, timestamp: timestamp,
      syncedPosition: target.position, chain: target.chain, isSnapshot: isSnapshot)
    target.chain = header.checksum
    try target.file.write(UnsafeRawBufferPointer(frame.bytes), at: UInt64(target.position))
    target.position += frame.byteCount
    frame.reset()
  }
}
