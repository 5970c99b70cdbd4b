import CChecksum
import CLinux

/// A reader's way through the frames of one segment: checked in runs, handed out record by record.
///
/// Not for two threads at once. Sendable though it holds pointers: they lead into the mapping of ``segment``, which it
/// keeps and which is only read, and a walk can't be copied, so whoever has it is the only one who moves it.
@usableFromInline
struct FrameReader: ~Copyable, @unchecked Sendable {
  /// What is checked at once: small enough that it is still in the first-level cache when it is handed out, large
  /// enough that the call doesn't count.
  static let runByteCount: UInt64 = 8 << 10

  /// nil before the first segment.
  private(set) var segment: Segment?
  private var reader = cframe_reader()

  /// Of the run that was checked last: the next record, and how many may be handed out. While one is left, ``segment`` holds
  /// the memory that it is in; before the first run it is an address that is never read, as none is left.
  @usableFromInline var record = UnsafeRawPointer(bitPattern: 8).unsafelyUnwrapped
  @usableFromInline var recordsLeft: UInt32 = 0
  /// Records of the run behind those: ``release(_:)`` lets them be handed out.
  private(set) var recordsHeld: UInt32 = 0

  init() {}

  /// Faults of the process when the run was checked: with another number it is not known any more that what is read of the
  /// run is what was checked.
  @usableFromInline private(set) var faults: UInt64 = 0
  /// Faults of the segment's mapping at that time. A page that was zeros by then was checked as zeros, and its checksum held.
  private var ownFaults: UInt64 = 0
  /// Of the segment's mapping, which lives as long as ``segment`` is held; nil for memory.
  private var region: FaultRegion?

  /// Microseconds since 1970 of the frame that the run is in.
  @usableFromInline private(set) var timestamp: UInt64 = 0

  /// The next event of the run; nil when no record may be handed out (``release(_:)``), or when the run has to be looked at
  /// before it is gone on with (``lookAtFaults()``). No call, no checksum, no reference counting; one number is compared, since a page that the disk
  /// can't read becomes zeros under whoever reads it.
  @inlinable
  @inline(__always)
  mutating func nextEvent() -> SoundRecord? {
    while recordsLeft > 0 {
      let record = SoundRecord(checked: record)
      let isEvent = record.isEvent
      // After what was read, before it is used: a length that is not the record's leads out of the memory.
      guard clinux_fault_count() == faults else { return nil }
      recordsLeft -= 1
      self.record += record.byteCount
      if isEvent { return record }
    }
    return nil
  }

  /// Lets up to `count` more records of the run be handed out, and takes them off it. False if there is none.
  mutating func release(_ count: inout UInt32) -> Bool {
    let released = min(count, recordsHeld)
    recordsLeft += released
    recordsHeld -= released
    count -= released
    return recordsLeft > 0
  }

  /// Something could not be read since the run was checked, here or elsewhere.
  @inlinable
  @inline(__always)
  var isUncertain: Bool { clinux_fault_count() != faults }

  /// Goes to a segment: to its first frame, or to the frame at a position, which must hold the event at `offset` or end
  /// before it.
  mutating func begin(_ segment: Segment, at position: Int, limit: Int, offset: UInt64) throws(Fault) {
    letGo()
    region = segment.mapping.region
    reader = cframe_reader(segment.bytes, at: position, limit: limit, place: segment.place)
    if position > SegmentHeader.byteCount {
      try enter(segment, at: position, offset: offset)
    } else {
      reader.chain = segment.header.chain
      reader.has_chain = 1
    }
    self.segment = segment
  }

  /// Goes to records of a damaged frame, each of which is checked here. False if one of them is not what it was.
  ///
  /// - Parameter offset: events before it are left out.
  mutating func begin(
    _ segment: Segment, records count: UInt32, in bytes: Range<Int>, timestamp: UInt64, from offset: UInt64
  )
    -> Bool
  {
    letGo()
    region = segment.mapping.region
    noteFaults()
    guard let start = segment.bytes.baseAddress else { return false }
    var position = bytes.lowerBound
    var first = position
    var left: UInt32 = 0
    for _ in 0..<count {
      guard
        let record = Record(in: segment.bytes, at: position, limit: bytes.upperBound, place: segment.place)
      else { return false }
      if left == 0, segment.baseOffset + UInt64(record.relativeOffset) < offset {
        first = record.end
      } else {
        left += 1
      }
      position = record.end
    }
    // Behind them no frame is looked for.
    reader = cframe_reader(segment.bytes, at: bytes.upperBound, limit: bytes.upperBound, place: segment.place)
    // The run is these records: what stands before them may be unreadable.
    reader.run_position = UInt64(bytes.lowerBound)
    // Proof: all of them were just found to lie within the segment's bytes.
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
        position: position + 8, reason: "the frame begins with offset \(header.firstOffset), expected \(offset)")
    }
  }

  /// Looks whether what was handed out of the run, and what is left of it, is still what was checked. If not, throws, and is
  /// before the first segment again.
  @usableFromInline
  mutating func lookAtFaults() throws(LogStoreError) {
    let count = faultCount()
    if count == faults { return }
    guard let segment else {
      faults = count
      return
    }
    // From the run on; it may lie in two frames, but for records that were not checked yet.
    let run = Int(reader.run_position)..<max(Int(reader.position), Int(reader.run_position))
    guard segment.mayHaveBeenUnreadable(run, since: ownFaults) else {
      faults = count
      return
    }
    letGo()
    try segment.checkReadable(run, since: .max)
    throw segment.unreadable(at: run.lowerBound)
  }

  /// Goes before the first segment.
  mutating func letGo() {
    recordsLeft = 0
    recordsHeld = 0
    segment = nil
    region = nil
  }

  /// Before a run is checked. The segment itself is not touched: to count a reference to it would cost as much as an event.
  private mutating func noteFaults() {
    faults = faultCount()
    // Taken second: a fault between the two leaves the run uncertain, and its page is zeros when the run is checked.
    ownFaults = region.map { clinux_region_fault_count($0.pointer) } ?? 0
  }

  /// Lets the walk go on to where the segment is durable now.
  mutating func extend(to limit: Int) {
    reader.limit = UInt64(limit)
  }

  /// Checks the next run, when the last one is used up. None of its records may be handed out yet. It may hold no event: a
  /// frame may have cursors alone.
  ///
  /// - Parameter offset: events before it are left out.
  /// - Parameter end: no event of this segment has it or a greater one.
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
        if leaveOut(before: offset) { return }
      }
      // Again, as a page may have become zeros while it was checked: then it is not sound, or it is well again.
      reader = before
    }
  }

  /// Leaves out the run's events before an offset. False if a page of the run may have become zeros meanwhile.
  private mutating func leaveOut(before offset: UInt64) -> Bool {
    while recordsHeld > 0 {
      let first = SoundRecord(checked: record)
      let isBefore = reader.base_offset + UInt64(first.relativeOffset) < offset
      let byteCount = first.byteCount
      // After what was read, before it is used.
      if isUncertain {
        let count = faultCount()
        if mayHaveBeenUnreadable() { return false }
        // It was a page of another mapping.
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
  /// Between frames, before the one at `position`, which begins with the segment's first event if it is the first.
  init(_ bytes: UnsafeRawBufferPointer, at position: Int, limit: Int, place: ChecksumSeed) {
    self.init()
    self.bytes = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    // A walk never looks at a byte that isn't mapped, whatever it is asked for.
    self.limit = UInt64(min(limit, bytes.count))
    self.position = UInt64(position)
    base_offset = place.baseOffset
    self.place = place.register
  }

  /// Checks the header of the next frame and goes into the frame.
  mutating func enter() throws(Fault) {
    let fault = cframe_enter(&self)
    try say(fault)
  }

  /// Checks all of the frame that it is in.
  mutating func checkFrame() throws(Fault) {
    let fault = cframe_check(&self, .max)
    try say(fault)
  }

  /// Checks the next run of the frame, or of the next frame.
  mutating func advance(by byteCount: UInt64) throws(Fault) {
    let fault = cframe_advance(&self, byteCount)
    try say(fault)
  }

  /// Says what a fault is in words.
  private func say(_ fault: cframe_fault) throws(Fault) {
    let reason: String
    switch fault {
    case CFRAME_SOUND: return
    case CFRAME_NO_HEADER: reason = "no frame header that matches its checksum and place"
    case CFRAME_NO_RECORD: reason = "no record that matches its checksum and place"
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
