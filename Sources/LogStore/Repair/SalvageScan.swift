/// Walks over all that is sound of a store, in order: frame by frame where frames are sound, and record by record where
/// they are not, since each record has a checksum of its own that covers its place.
///
/// What it hands out continues: offsets ascend, with gaps between, and the versions of a stream within a segment go on one
/// by one unless there is a gap.
struct SalvageScan {
  enum Item {
    case run(SalvagedRun)
    case gap(SalvagedGap)
  }

  private let source: SalvageSource
  private var lost: LostEvents
  /// Returns false to stop.
  private let visit: (Item) throws(LogStoreError) -> Bool
  private let progress: Progress?

  private(set) var findings: [Damage]
  private var knownFindings: Set<Damage>
  /// An unfinished write behind the end of the log: no damage.
  private(set) var tornTail: Damage?
  /// Events that the damaged end of the log held are lost, and nothing tells how many.
  private(set) var isEndUnknown = false
  /// Frames, or records of damaged ones, that were found sound.
  private(set) var soundRuns = 0
  private var soundRecords = 0
  private(set) var isStopped = false
  /// The offset that comes next.
  private(set) var next: UInt64
  /// Saved events of frames that may have lost others.
  private(set) var partial: [Range<UInt64>] = []
  private var clean: CleanEnd?
  private var isClosed: Bool
  /// Offsets below it were given, as far as anything tells.
  private var reach: UInt64
  private var timestamp: UInt64 = 0
  /// Every event so far was taken: a stream that was not met yet begins with version 1.
  private var isWhole: Bool

  // Of the segment that it is in.
  private var segment: Segment?
  private var unreadable: [SalvageSource.UnreadableRange] = []
  /// Of its mapping, before it was walked over.
  private var faults: UInt64 = 0
  private var part: SalvageSource.Part?
  /// Events of this segment have lower offsets.
  private var bound = UInt64.max
  /// There is, or was, a segment behind it; and it is the successor that is there.
  private var isFinished = false
  private var isBeforeNext = false
  /// Frames from here on are not known to be durable.
  private var durablePosition = Int.max
  private var table = SegmentTable()
  private var run: SalvagedRun?
  /// Offsets of the events that were taken of the frame.
  private var taken: [Range<UInt64>] = []
  private var finder: SalvageSearch?

  /// Not handed out yet, since it may grow.
  private var gap: SalvagedGap?
  // Of the gap to come.
  private var pendingDamage: Damage?
  private var pendingStreams: [LostStream] = []
  private var lastSaved: (offset: UInt64, position: Int)?

  /// - Parameter start: events before it are left out, and segments that end before it not read.
  init(
    _ source: SalvageSource, from start: UInt64 = 0, progress: Progress? = nil,
    visit: @escaping (Item) throws(LogStoreError) -> Bool
  ) {
    self.source = source
    self.visit = visit
    self.progress = progress
    lost = LostEvents(source.indexes)
    findings = source.findings
    knownFindings = Set(findings.map { Damage(file: $0.file, position: $0.position, reason: "") })
    clean = source.clean
    isClosed = source.wasClosed
    reach = source.endOffsetAtLeast
    next = start
    isWhole = start == 0
  }

  mutating func go() throws(LogStoreError) {
    let total = source.parts.reduce(0) { $0 + $1.fileByteCount }
    var done: UInt64 = 0
    for (number, part) in source.parts.enumerated() {
      let successor = number + 1 < source.parts.count ? source.parts[number + 1] : nil
      if let successor, successor.previousEndOffset <= next, next > 0, successor.baseOffset <= next { continue }
      try go(through: part, successor: successor)
      if isStopped { return }
      done += part.fileByteCount
      progress?(done, total)
    }
    // What is known to have been behind all that was found.
    if reach > next { try skip(to: reach, before: nil) }
    try handOutGap()
  }

  // MARK: - One segment

  private mutating func go(
    through part: SalvageSource.Part, successor: SalvageSource.Part?
  ) throws(LogStoreError) {
    let (segment, unreadable) = try source.load(part)
    faults = segment.mapping.faultCount
    self.segment = segment
    self.part = part
    table = SegmentTable()
    lastSaved = nil
    let known = source.knownBases
    let following = known.partitionPoint { $0 > part.baseOffset }
    isFinished = following < known.count
    isBeforeNext = isFinished && known[following] == successor?.baseOffset
    bound =
      !isFinished
      ? endBound(part, segment) : isBeforeNext ? successor?.previousEndOffset ?? known[following] : known[following]
    finder = SalvageSearch(segment, bound: bound)
    self.unreadable = unreadable
    // What is lost there is said where the walk comes to it.
    for range in unreadable { note(range.damage, isLoss: false) }
    checkLength(part, segment)
    var position = SegmentHeader.byteCount
    // nil where it can't be known.
    var chain = part.header?.chain
    // Behind damage: where the frame may begin whose records are looked for.
    var hole: Int?
    while !isStopped, position < durablePosition {
      if position % 8 == 0, let header = finder?.header(at: position) {
        if let known = chain, header.chain != known {
          note(position + FrameField.chain, "the frame does not follow on from the frame before it")
        }
        try take(frame: header, at: position)
        chain = header.checksum
        position += header.byteCount
        hole = nil
        continue
      }
      if isEnd(position, chain, part, successor) { break }
      chain = nil
      note(position, reason(at: position))
      guard let found = finder?.search(from: position, frameFrom: hole ?? position, next: next) else {
        // What the writer told others is a least: it is never synced.
        if !isFinished, clean == nil, reach <= next || !unreadable.isEmpty { isEndUnknown = true }
        break
      }
      if found.isFrame {
        position = found.position
      } else {
        (position, hole) = try takeRecords(at: found.position)
      }
    }
    try flush()
    try checkReadable(segment)
    self.segment = nil
  }

  /// Where the last part ends, by the record of a clean end.
  private mutating func endBound(_ part: SalvageSource.Part, _ segment: Segment) -> UInt64 {
    durablePosition = .max
    if let end = source.durableEnd, end.baseOffset == part.baseOffset {
      durablePosition = end.position
      return max(end.offset, part.baseOffset)
    }
    guard let end = clean, end.baseOffset == part.baseOffset else { return .max }
    if let header = FrameHeader(
      in: segment.bytes, at: Int(clamping: end.endPosition), checksumSeed: segment.checksumSeed),
      header.chain == end.chain, header.firstOffset == end.endOffset
    {
      findings.append(
        Damage(
          file: join(source.directory, FileName.clean), position: UInt64(CleanEnd.Field.endPosition),
          reason: "the log goes on behind the end at which this says that it was closed"))
      clean = nil
      isClosed = false
      return .max
    }
    return max(end.endOffset, part.baseOffset)
  }

  private mutating func checkLength(_ part: SalvageSource.Part, _ segment: Segment) {
    guard let header = part.header else { return }
    if part.fileByteCount > header.fileByteCount {
      note(
        Int(header.fileByteCount), "the file should end here, it goes on to \(part.fileByteCount) bytes",
        isLoss: false)
    } else if part.fileByteCount < header.fileByteCount, isFinished || isClosed {
      note(Int(part.fileByteCount), "the file ends here, its header says after \(header.fileByteCount) bytes")
    }
  }

  private func reason(at position: Int) -> String {
    guard let segment else { return "" }
    if position >= segment.bytes.count { return "the file ends where a frame should begin" }
    let head = segment.bytes.part(position, min(FrameHeader.byteCount, segment.bytes.count - position))
    return head.isZero ? "zeros where a frame should begin" : "no frame header that matches its checksum and position"
  }

  /// Whether the segment, or the log, ends at a position where there is no frame.
  private mutating func isEnd(
    _ position: Int, _ chain: UInt32?, _ part: SalvageSource.Part, _ successor: SalvageSource.Part?
  ) -> Bool {
    guard let segment else { return true }
    let rest = segment.bytes.part(min(position, segment.bytes.count), max(segment.bytes.count - position, 0))
    let isAllThere = next >= bound
    // What is missing stood in pages before that the disk can't read, and here is the end.
    let isLostBefore = unreadable.contains { $0.damage == pendingDamage } && rest.isZero
    if isFinished {
      guard isAllThere else { return isLostBefore }
      if isBeforeNext, let end = successor?.header?.chain, let chain, end != chain {
        note(position, "frames with cursors are missing: \(reason(at: position))")
      } else {
        noteRest(segment, behind: position)
      }
      return true
    }
    if source.durableEnd != nil { return false }
    if let clean, clean.baseOffset == part.baseOffset {
      guard isAllThere, UInt64(position) >= clean.endPosition else { return isLostBefore }
      noteRest(segment, behind: position)
      return true
    }
    if isClosed || position == SegmentHeader.byteCount || reach > next {
      // Nothing was in flight: what is not zero was acknowledged.
      guard rest.isZero, position > SegmentHeader.byteCount, reach <= next || isLostBefore else { return false }
      noteUnknownEnd(position, isLostBefore)
      return true
    }
    if segment.proofThatSynced(position) != nil { return false }
    noteUnknownEnd(position, isLostBefore)
    let behind = rest.countWithoutTrailingZeros
    let missing = Int(segment.header.fileByteCount) - segment.bytes.count
    if behind > 0 || missing > 0 {
      tornTail = Damage(
        file: segment.path, position: UInt64(position), reason: "an unfinished write ends the log here")
    }
    return true
  }

  /// What the disk can't read behind the last event that was saved may be events.
  private mutating func noteUnknownEnd(_ position: Int, _ isLostBefore: Bool) {
    let isBehind = unreadable.last.map { $0.range.upperBound > position } ?? false
    if isBehind || isLostBefore { isEndUnknown = true }
  }

  private mutating func noteRest(_ segment: Segment, behind position: Int) {
    guard position < segment.bytes.count else { return }
    if let other = segment.bytes.part(position, segment.bytes.count - position).firstNonZero {
      note(position + other, "a byte that is not zero behind the last frame", isLoss: false)
    }
  }

  // MARK: - Findings

  private mutating func note(_ damage: Damage, isLoss: Bool = true) {
    if isLoss, pendingDamage == nil { pendingDamage = damage }
    if knownFindings.insert(Damage(file: damage.file, position: damage.position, reason: "")).inserted {
      findings.append(damage)
    }
  }

  private mutating func note(_ position: Int, _ reason: String, isLoss: Bool = true) {
    guard let segment else { return }
    // What is not sound since the disk can't read a part of it is not damaged.
    let extent = unreadable.isEmpty ? position..<position : segment.extent(at: position)
    let overlapped = unreadable.first { $0.range.overlaps(extent) }
    note(
      overlapped?.damage ?? Damage(file: segment.path, position: UInt64(position), reason: reason), isLoss: isLoss)
  }

  // MARK: - Frames and records

  private mutating func take(frame header: FrameHeader, at position: Int) throws(LogStoreError) {
    guard let segment else { return }
    var records: [Record] = []
    var fault: Fault?
    do throws(Fault) {
      let expected = FrameExpectation(
        position: position, offset: header.firstOffset, chain: header.chain, timestamp: header.timestamp)
      _ = try segment.checkFrame(expected) { records.append($0) }
    } catch {
      fault = error
    }
    timestamp = max(timestamp, header.timestamp)
    reach = max(reach, header.endOffset)
    let isSnapshot = header.isSnapshot && position == SegmentHeader.byteCount
    begin(segment, hasOwnTimestamp: true, isWhole: fault == nil, isSnapshot: isSnapshot)
    // What a segment's first frame tells of the gap before it goes with the gap.
    if !isSnapshot, header.firstOffset > next { try skip(to: header.firstOffset, before: nil) }
    if let fault {
      note(fault.position, fault.reason)
      let found = soundRecords
      try takeRecords(of: header, at: position)
      if soundRecords - found == header.recordCount { taken = [] }
      // Events that the frame should end with are lost here, and not behind it.
      if header.endOffset > next { try skip(to: header.endOffset, before: nil) }
    } else {
      for record in records { try take(record) }
      taken = []
    }
    if isSnapshot, header.firstOffset > next { try skip(to: header.firstOffset, before: nil) }
    try flush()
    partial += taken
    taken = []
  }

  private mutating func begin(_ segment: Segment, hasOwnTimestamp: Bool, isWhole: Bool, isSnapshot: Bool) {
    run = SalvagedRun(
      segment: segment, timestamp: timestamp, hasOwnTimestamp: hasOwnTimestamp, isSnapshot: isSnapshot,
      isWholeFrame: isWhole, fileByteCount: segment.header.fileByteCount)
  }

  /// The sound records of a frame whose header is sound, but not all else.
  private mutating func takeRecords(of header: FrameHeader, at start: Int) throws(LogStoreError) {
    guard let segment else { return }
    let end = min(start + header.byteCount, segment.bytes.count)
    var position = start + FrameHeader.byteCount
    while position < end {
      if let record = finder?.record(at: position, before: end, frame: start) {
        try take(record)
        position = record.end
        continue
      }
      if end - position < 8, segment.bytes.part(position, end - position).isZero { return }
      note(position, "no record that matches its checksum and position")
      position += 1
      while position < end, finder?.isRecord(at: position, before: end, frame: start) == false { position += 1 }
    }
  }

  /// Sound records one after the other of a frame whose header is not. Gives back where to go on.
  private mutating func takeRecords(at start: Int) throws(LogStoreError) -> (position: Int, frame: Int?) {
    guard let segment, let first = finder?.record(at: start, before: segment.bytes.count, frame: nil) else {
      return (start + 1, nil)
    }
    begin(segment, hasOwnTimestamp: false, isWhole: false, isSnapshot: false)
    var position = start
    while let record = finder?.record(at: position, before: segment.bytes.count, frame: first.framePosition) {
      try take(record)
      position = record.end
    }
    try flush()
    partial += taken
    taken = []
    let padded = position.roundedUp(to: 8)
    guard padded <= segment.bytes.count, segment.bytes.part(position, padded - position).isZero else {
      return (position, first.framePosition)
    }
    return (padded, first.framePosition)
  }

  private mutating func take(_ record: Record) throws(LogStoreError) {
    guard let segment, !isStopped else { return }
    soundRecords += 1
    switch record.kind {
    case .event: break
    case .cursor, .cursorReset:
      run?.records.append(record)
      return
    case .lostStream:
      if let stream = try? LostStream(record, in: segment) { pendingStreams.append(stream) }
      soundRuns += 1
      return
    }
    let offset = segment.baseOffset + UInt64(record.relativeOffset)
    guard offset < bound else {
      note(
        record.position + RecordField.relativeOffset,
        "the event at offset \(offset) is not before \(bound), where the segment ends")
      return
    }
    // Before where the walk began; or a second one, which can't be.
    guard offset >= next else { return }
    if offset > next { try skip(to: offset, before: record) }
    let hash = streamHash(record.name(in: segment.bytes))
    let names = RecordNames(mapped: segment.bytes)
    var stream = table.find(hash, record.name(in: segment.bytes), names)
    let expected = stream.map { table.heads[$0].lastVersion &+ 1 } ?? (isWhole && segment.baseOffset == 0 ? 1 : nil)
    if let expected, record.version != expected {
      note(record.position + RecordField.version, "the event's version does not continue its stream")
      return
    }
    table.add(
      position: UInt32(record.position), to: &stream, hash: hash, name: record.name(in: segment.bytes),
      version: record.version, idKey: nil)
    run?.records.append(record)
    next = offset + 1
    lastSaved = (offset, record.position)
    if let last = taken.last, last.upperBound == offset {
      taken[taken.count - 1] = last.lowerBound..<next
    } else {
      taken.append(offset..<next)
    }
  }

  private mutating func flush() throws(LogStoreError) {
    guard let full = run else { return }
    run = nil
    guard !full.records.isEmpty || full.isSnapshot, !isStopped else { return }
    soundRuns += 1
    if full.records.contains(where: { $0.kind == .event }) { try handOutGap() }
    if isStopped { return }
    if try !visit(.run(full)) { isStopped = true }
    try checkReadable(full.segment)
  }

  /// Throws if something of the segment could not be read any more since it was loaded: what was handed out may have been
  /// zeros, and what was missed may be there. Loaded again it is read around.
  private func checkReadable(_ segment: Segment) throws(LogStoreError) {
    try segment.checkReadable(0..<segment.bytes.count, since: faults)
  }

  /// Hands out the gap up to an offset.
  private mutating func skip(to offset: UInt64, before record: Record?) throws(LogStoreError) {
    var rest = run
    rest?.records = []
    rest?.isSnapshot = false
    try flush()
    run = rest
    if isStopped { return }
    isWhole = false
    var saved: [(offset: UInt64, position: Int)] = []
    if let lastSaved { saved.append(lastSaved) }
    if let record { saved.append((offset, record.position)) }
    let range = next..<offset
    let known = part?.header?.gap == range
    let missing = findings.first { $0.file == join(source.directory, FileName.segment(range.lowerBound)) }
    let found = SalvagedGap(
      offsets: range, damage: known ? nil : pendingDamage ?? missing ?? findings.last,
      events: known ? [] : lost.events(in: range, saved: saved), streams: pendingStreams)
    pendingDamage = nil
    pendingStreams = []
    table = SegmentTable()
    next = offset
    if var before = gap, before.offsets.upperBound == range.lowerBound {
      // With nothing saved between, it is one.
      before.offsets = before.offsets.lowerBound..<offset
      before.damage = before.damage ?? found.damage
      before.events += found.events
      before.streams += found.streams
      gap = before
    } else {
      try handOutGap()
      gap = found
    }
  }

  private mutating func handOutGap() throws(LogStoreError) {
    guard let full = gap, !isStopped else { return }
    gap = nil
    if try !visit(.gap(full)) { isStopped = true }
  }
}
