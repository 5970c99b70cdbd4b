// Frames and records: what of a segment is delivered, and the gaps between.

extension SalvageScan {
  mutating func take(frame header: FrameHeader, at position: Int) throws(LogStoreError) {
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
    // What a segment's first frame says about the gap before it belongs to that gap.
    if !isSnapshot, header.firstOffset > next { try skip(to: header.firstOffset, before: nil) }
    if let fault {
      note(fault.position, fault.reason)
      let found = soundRecords
      try takeRecords(of: header, at: position)
      if soundRecords - found == header.recordCount { taken = [] }
      // The missing events at the frame's end are lost here, not behind it.
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

  /// Saves the sound records of a frame with a sound header and a fault elsewhere.
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

  /// Saves consecutive sound records of a frame with a damaged header. Returns where to continue.
  mutating func takeRecords(at start: Int) throws(LogStoreError) -> (position: Int, frame: Int?) {
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

  /// Adds a record to the run, which is one frame of the new store: a frame that was over the limit becomes several.
  private mutating func append(_ record: Record) throws(LogStoreError) {
    guard let full = run else { return }
    if !full.isSnapshot, runByteCount + record.byteCount > Limits.frameBytes - FrameHeader.byteCount - 8 {
      var rest = full
      rest.records = []
      rest.isWholeFrame = false
      try flush()
      run = rest
      runByteCount = 0
    }
    if full.records.isEmpty { runByteCount = 0 }
    runByteCount += record.byteCount
    run?.records.append(record)
  }

  private mutating func take(_ record: Record) throws(LogStoreError) {
    guard let segment, !isStopped else { return }
    soundRecords += 1
    switch record.kind {
    case .event: break
    case .cursor, .cursorReset:
      try append(record)
      return
    case .lostStream:
      do throws(Fault) {
        pendingStreams.append(try LostStream(record, in: segment))
      } catch {
        note(error.position, error.reason, isLoss: false)
      }
      soundRuns += 1
      return
    }
    let content = record.end - record.metadataPosition
    guard content <= Limits.eventBytes else {
      note(
        record.position + RecordField.byteCount,
        "metadata and payload of \(content) bytes; the limit is \(Limits.eventBytes)")
      return
    }
    let offset = segment.baseOffset + UInt64(record.relativeOffset)
    guard offset < bound else {
      note(
        record.position + RecordField.relativeOffset,
        "the event at offset \(offset) is not before \(bound), where the segment ends")
      return
    }
    // The event is before the start of the scan. Or it is a second one with this offset, which can't be.
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
    try append(record)
    next = offset + 1
    lastSaved = (offset, record.position)
    if let last = taken.last, last.upperBound == offset {
      taken[taken.count - 1] = last.lowerBound..<next
    } else {
      taken.append(offset..<next)
    }
  }

  mutating func flush() throws(LogStoreError) {
    guard let full = run else { return }
    run = nil
    guard !full.records.isEmpty || full.isSnapshot, !isStopped else { return }
    soundRuns += 1
    if full.records.contains(where: { $0.kind == .event }) { try deliverGap() }
    if isStopped { return }
    if try !visit(.run(full)) { isStopped = true }
    try checkReadable(full.segment)
  }

  /// Throws if a page of the segment became unreadable after the segment was loaded: delivered bytes may have been zeros,
  /// and skipped ones may be sound. A second scan reads around the page.
  func checkReadable(_ segment: Segment) throws(LogStoreError) {
    try segment.checkReadable(0..<segment.bytes.count, since: faults)
  }

  /// Delivers the gap up to an offset.
  mutating func skip(to offset: UInt64, before record: Record?) throws(LogStoreError) {
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
      // Two gaps with nothing saved between them are one.
      before.offsets = before.offsets.lowerBound..<offset
      before.damage = before.damage ?? found.damage
      before.events += found.events
      before.streams += found.streams
      gap = before
    } else {
      try deliverGap()
      gap = found
    }
  }

  mutating func deliverGap() throws(LogStoreError) {
    guard let full = gap, !isStopped else { return }
    gap = nil
    if try !visit(.gap(full)) { isStopped = true }
  }
}
