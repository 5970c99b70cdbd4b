import CChecksum
import CLinux

/// Reads the frames of one segment: checks them in runs and hands out record by record.
///
/// Not thread-safe. Sendable although it holds pointers: they lead into the mapping of ``segment``, which the reader keeps
/// alive and which is only read; and a reader can't be copied, so only its owner moves it.
@usableFromInline
struct FrameReader: ~Copyable, @unchecked Sendable {
  /// Bytes checked at once: few enough that they are still in the first-level cache when they are handed out, and enough
  /// that the cost of the call doesn't matter.
  static let runByteCount: UInt64 = 8 << 10

  /// nil before the first segment.
  private(set) var segment: Segment?
  private var reader = cframe_reader()

  /// The next record of the current run, and the number of records that may be handed out. While there is one, ``segment``
  /// holds its memory. Before the first run the address is never read, since no record is left.
  @usableFromInline var record = UnsafeRawPointer(bitPattern: 8).unsafelyUnwrapped
  @usableFromInline var recordsLeft: UInt32 = 0
  /// Records of the run that ``release(_:)`` has not let out yet.
  private(set) var recordsHeld: UInt32 = 0

  init() {}

  /// The process's fault count when the run was checked. With another count, what is read of the run may not be what was
  /// checked.
  @usableFromInline private(set) var faults: UInt64 = 0
  /// The fault count of the segment's mapping at that time. A page that was zeros by then was checked as zeros, and its
  /// checksum held.
  private var ownFaults: UInt64 = 0
  /// The region of the segment's mapping, which lives as long as ``segment`` is held; nil for memory.
  private var region: FaultRegion?

  /// The timestamp of the run's frame, in microseconds since 1970.
  @usableFromInline private(set) var timestamp: UInt64 = 0

  /// The next event of the run. Returns nil when no record may be handed out (``release(_:)``), or when the run has to be
  /// checked before reading goes on (``checkFaults()``). No call, no checksum, no reference counting. It compares one
  /// number, since a page that the disk can't read becomes zeros while it is read.
  @inlinable
  @inline(__always)
  mutating func nextEvent() -> SoundRecord? {
    while recordsLeft > 0 {
      let record = SoundRecord(checked: record)
      let isEvent = record.isEvent
      // The comparison comes after the read and before the use: a length that is not the record's leads out of the memory.
      guard clinux_fault_count() == faults else { return nil }
      recordsLeft -= 1
      self.record += record.byteCount
      if isEvent { return record }
    }
    return nil
  }

  /// Lets up to `count` more records of the run be handed out, and subtracts them from `count`. Returns false if there is
  /// none.
  mutating func release(_ count: inout UInt32) -> Bool {
    let released = min(count, recordsHeld)
    recordsLeft += released
    recordsHeld -= released
    count -= released
    return recordsLeft > 0
  }

  /// Whether something could not be read since the run was checked, in this mapping or another.
  @inlinable
  @inline(__always)
  var isUncertain: Bool { clinux_fault_count() != faults }

  /// Moves to a segment: to its first frame, or to the frame at a position, which must hold the event at `offset` or end
  /// before it.
  mutating func begin(_ segment: Segment, at position: Int, limit: Int, offset: UInt64) throws(Fault) {
    reset()
    region = segment.mapping.region
    reader = cframe_reader(segment.bytes, at: position, limit: limit, checksumSeed: segment.checksumSeed)
    if position > SegmentHeader.byteCount {
      try enter(segment, at: position, offset: offset)
    } else {
      reader.chain = segment.header.chain
      reader.has_chain = 1
    }
    self.segment = segment
  }

  /// Moves to records of a damaged frame, and checks each. Returns false if one of them has changed.
  ///
  /// - Parameter offset: events before it are skipped.
  mutating func begin(
    _ segment: Segment, records count: UInt32, in bytes: Range<Int>, timestamp: UInt64, from offset: UInt64
  )
    -> Bool
  {
    reset()
    region = segment.mapping.region
    noteFaults()
    guard let start = segment.bytes.baseAddress else { return false }
    var position = bytes.lowerBound
    var first = position
    var left: UInt32 = 0
    for _ in 0..<count {
      guard
        let record = Record(
          in: segment.bytes, at: position, limit: bytes.upperBound, checksumSeed: segment.checksumSeed)
      else { return false }
      if left == 0, segment.baseOffset + UInt64(record.relativeOffset) < offset {
        first = record.end
      } else {
        left += 1
      }
      position = record.end
    }
    // The reader looks for no frame behind the records.
    reader = cframe_reader(
      segment.bytes, at: bytes.upperBound, limit: bytes.upperBound, checksumSeed: segment.checksumSeed)
    // The run is these records: the bytes before them may be unreadable.
    reader.run_position = UInt64(bytes.lowerBound)
    // Proof: all records were just found to lie within the segment's bytes.
    record = start + first
    recordsHeld = left
    self.timestamp = timestamp
    self.segment = segment
    return true
  }

  private mutating func enter(_ segment: Segment, at position: Int, offset: UInt64) throws(Fault) {
    try reader.enter()
    let header = FrameHeader(trusted: segment.bytes, at: position)
    guard header.firstOffset <= offset, header.endOffset >= offset else {
      throw Fault(
        position: position + FrameField.firstOffset,
        reason: "the frame begins with offset \(header.firstOffset), expected \(offset)")
    }
  }

  /// Checks that the run, both the records handed out and those left, is still what was checked. If not, throws, and moves
  /// in front of the first segment.
  @usableFromInline
  mutating func checkFaults() throws(LogStoreError) {
    let count = faultCount()
    if count == faults { return }
    guard let segment else {
      faults = count
      return
    }
    // From the run's start on. The run may be in two frames, but none of its records is unchecked.
    let run = Int(reader.run_position)..<max(Int(reader.position), Int(reader.run_position))
    guard segment.mayHaveBeenUnreadable(run, since: ownFaults) else {
      faults = count
      return
    }
    reset()
    try segment.checkReadable(run, since: .max)
    throw segment.unreadable(at: run.lowerBound)
  }

  /// Moves in front of the first segment.
  mutating func reset() {
    recordsLeft = 0
    recordsHeld = 0
    segment = nil
    region = nil
  }

  /// Notes the fault counts before a run is checked. Does not touch the segment itself: counting a reference to it would
  /// cost as much as an event.
  private mutating func noteFaults() {
    faults = faultCount()
    // Read second: a fault between the two reads leaves the run uncertain, and its page is zeros when the run is checked.
    ownFaults = region.map { clinux_region_fault_count($0.pointer) } ?? 0
  }

  /// Lets the reader read on to the segment's new durable end.
  mutating func extend(to limit: Int) {
    reader.limit = UInt64(limit)
  }

  /// Checks the next run after the last one is used up. ``release(_:)`` lets its records out. The run may hold no event: a
  /// frame may have cursors only.
  ///
  /// - Parameter offset: events before it are skipped.
  /// - Parameter end: every event of this segment has a lower offset.
  mutating func readRun(from offset: UInt64, to end: UInt64) throws(Fault) {
    guard segment != nil, let start = reader.bytes.map({ UnsafeRawPointer($0) }) else { return }
    let before = reader
    while true {
      noteFaults()
      try reader.advance(by: Self.runByteCount)
      if !isUncertain || !mayHaveBeenUnreadable() {
        guard reader.base_offset + reader.relative_offset <= end else {
          throw Fault(
            position: Int(reader.run_position), reason: "events behind offset \(end), with which the segment should end"
          )
        }
        // Proof: the run was just found to lie within the segment's bytes.
        record = start + Int(reader.run_position)
        recordsLeft = 0
        recordsHeld = reader.run_records
        timestamp = reader.timestamp
        if skip(before: offset) { return }
      }
      // Checks again, since a page may have become zeros during the check. The next check finds it unsound, or readable
      // again.
      reader = before
    }
  }

  /// Skips the run's events before an offset. Returns false if a page of the run may have become zeros meanwhile.
  private mutating func skip(before offset: UInt64) -> Bool {
    while recordsHeld > 0 {
      let first = SoundRecord(checked: record)
      let isBefore = reader.base_offset + UInt64(first.relativeOffset) < offset
      let byteCount = first.byteCount
      // The comparison comes after the read and before the use.
      if isUncertain {
        let count = faultCount()
        if mayHaveBeenUnreadable() { return false }
        // The fault was in another mapping.
        faults = count
      }
      guard isBefore else { return true }
      record += byteCount
      recordsHeld -= 1
    }
    return true
  }

  /// Whether a page of the run could not be read since its check began.
  @inline(never)
  private func mayHaveBeenUnreadable() -> Bool {
    segment?.mayHaveBeenUnreadable(Int(reader.run_position)..<Int(reader.position), since: ownFaults) ?? false
  }
}

extension cframe_reader {
  /// A reader between frames, before the frame at `position`. If that is the segment's first frame, it begins with the
  /// segment's first event.
  init(_ bytes: UnsafeRawBufferPointer, at position: Int, limit: Int, checksumSeed: ChecksumSeed) {
    self.init()
    self.bytes = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    // The reader never touches a byte that isn't mapped, whatever the caller asks for.
    self.limit = UInt64(min(limit, bytes.count))
    self.position = UInt64(position)
    base_offset = checksumSeed.baseOffset
    self.checksum_seed = checksumSeed.register
  }

  /// Checks the header of the next frame and enters the frame.
  mutating func enter() throws(Fault) {
    let fault = cframe_enter(&self)
    try throwFault(fault)
  }

  /// Checks all of the frame that the reader is in.
  mutating func checkFrame() throws(Fault) {
    let fault = cframe_check(&self, .max)
    try throwFault(fault)
  }

  /// Checks the next run of the frame, or of the next frame.
  mutating func advance(by byteCount: UInt64) throws(Fault) {
    let fault = cframe_advance(&self, byteCount)
    try throwFault(fault)
  }

  /// Throws a fault with its description.
  private func throwFault(_ fault: cframe_fault) throws(Fault) {
    let reason: String
    switch fault {
    case CFRAME_SOUND: return
    case CFRAME_NO_HEADER: reason = "no frame header that matches its checksum and position"
    case CFRAME_NO_RECORD: reason = "no record that matches its checksum and position"
    case CFRAME_OTHER_FRAME: reason = "the record belongs to another frame"
    case CFRAME_WRONG_OFFSET: reason = "the offset does not continue the one before it"
    case CFRAME_WRONG_COUNT: reason = "another number of events than the frame should have"
    case CFRAME_WRONG_CHAIN: reason = "the frame does not follow on from the frame before it"
    case CFRAME_WRONG_PADDING: reason = "bytes behind the frame's last record that are not padding"
    default: reason = "the frame's body checksum does not match its records"
    }
    throw Fault(position: Int(fault_position), reason: reason)
  }
}
