/// Scans everything that is sound in a store, in order: frame by frame where frames are sound, and record by record
/// elsewhere, since each record has a checksum of its own that covers its position.
///
/// What it delivers is continuous: offsets ascend, with gaps between, and within a segment the versions of a stream
/// increase one by one unless there is a gap.
struct SalvageScan {
  enum Item {
    case run(SalvagedRun)
    case gap(SalvagedGap)
  }

  let source: SalvageSource
  var lost: LostEvents
  /// Returns false to stop.
  let visit: (Item) throws(LogStoreError) -> Bool
  let progress: Progress?

  var findings: [Damage]
  var knownFindings: Set<Damage>
  /// An unfinished write behind the end of the log: no damage.
  var tornTail: Damage?
  /// Events at the damaged end of the log are lost, and nothing tells how many.
  var isEndUnknown = false
  /// Sound frames, or runs of sound records in damaged frames.
  var soundRuns = 0
  var soundRecords = 0
  /// Bytes of the records of `run`.
  var runByteCount = 0
  var isStopped = false
  /// The next offset to deliver.
  var next: UInt64
  /// Saved events from frames that may have lost others.
  var partial: [Range<UInt64>] = []
  var clean: CleanEnd?
  var isClosed: Bool
  /// All offsets below it were assigned, as far as anything tells.
  var reach: UInt64
  var timestamp: UInt64 = 0
  /// Every event so far was saved, so the first event of a new stream has version 1.
  var isWhole: Bool

  // The current segment.
  var segment: Segment?
  var unreadable: [SalvageSource.UnreadableRange] = []
  /// The mapping's fault count before the scan of the segment.
  var faults: UInt64 = 0
  var part: SalvageSource.Part?
  /// Events of this segment have lower offsets.
  var bound = UInt64.max
  /// `isFinished`: there is, or was, a segment behind this one. `isBeforeNext`: the successor's file is there.
  var isFinished = false
  var isBeforeNext = false
  /// Frames from here on are not known to be durable.
  var durablePosition = Int.max
  var table = SegmentTable()
  var run: SalvagedRun?
  /// Offsets of the events that were taken of the frame.
  var taken: [Range<UInt64>] = []
  var finder: SalvageSearch?

  /// Not delivered yet, since it may grow.
  var gap: SalvagedGap?
  // What belongs to the next gap.
  var pendingDamage: Damage?
  var pendingStreams: [LostStream] = []
  var lastSaved: (offset: UInt64, position: Int)?

  /// - Parameter start: events before this offset are left out, and segments that end before it are not read.
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
    // Offsets that are known to have existed behind everything that was found.
    if reach > next { try skip(to: reach, before: nil) }
    try deliverGap()
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
    // The loss is reported when the scan comes to it.
    for range in unreadable { note(range.damage, isLoss: false) }
    checkLength(part, segment)
    var position = SegmentHeader.byteCount
    // nil where it can't be known.
    var chain = part.header?.chain
    // Behind damage: the earliest position where the frame of the next records may begin.
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
        // What the writer published is a lower bound: it is never synced.
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

  /// The offset at which the last part ends, according to the clean mark.
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
    // The missing events stood in unreadable pages before this position, and the end is here.
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
      // Nothing was in flight, so every byte that is not zero was acknowledged.
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

  /// Unreadable pages behind the last saved event may hold events.
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

  mutating func note(_ damage: Damage, isLoss: Bool = true) {
    if isLoss, pendingDamage == nil { pendingDamage = damage }
    if knownFindings.insert(Damage(file: damage.file, position: damage.position, reason: "")).inserted {
      findings.append(damage)
    }
  }

  mutating func note(_ position: Int, _ reason: String, isLoss: Bool = true) {
    guard let segment else { return }
    // An unsound place that the disk can't read in part is unreadable, not damaged.
    let extent = unreadable.isEmpty ? position..<position : segment.extent(at: position)
    let overlapped = unreadable.first { $0.range.overlaps(extent) }
    note(
      overlapped?.damage ?? Damage(file: segment.path, position: UInt64(position), reason: reason), isLoss: isLoss)
  }
}
