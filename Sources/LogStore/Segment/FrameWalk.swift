import CChecksum

/// A reader's way through the frames of one segment: checked in runs, handed out record by record.
///
/// Not for two threads at once. Sendable though it holds pointers: they lead into the mapping of ``segment``, which it
/// keeps and which is only read, and a walk can't be copied, so whoever has it is the only one who moves it.
@usableFromInline
struct FrameWalk: ~Copyable, @unchecked Sendable {
  /// What is checked at once: small enough that it is still in the first-level cache when it is handed out, large
  /// enough that the call doesn't count.
  static let runByteCount: UInt64 = 8 << 10

  /// nil before the first segment.
  private(set) var segment: Segment?
  private var walk = cframe_walk()

  /// Of the run that was checked last: the next record, and how many are left. While one is left, ``segment`` holds the
  /// memory that it is in; before the first run it is an address that is never read, as none is left.
  @usableFromInline var record = UnsafeRawPointer(bitPattern: 8).unsafelyUnwrapped
  @usableFromInline var recordsLeft: UInt32 = 0

  init() {}

  /// Microseconds since 1970 of the frame that the run is in.
  @usableFromInline private(set) var timestamp: UInt64 = 0

  /// The next event of the run; nil when the run is used up. No call, no check, no reference counting.
  @inlinable
  @inline(__always)
  mutating func nextEvent() -> SoundRecord? {
    while recordsLeft > 0 {
      recordsLeft -= 1
      let record = SoundRecord(checked: record)
      self.record += record.byteCount
      if record.isEvent { return record }
    }
    return nil
  }

  /// Goes to a segment: to its first frame, or to the frame at a position, which must hold the event at `offset` or end
  /// before it.
  mutating func begin(_ segment: Segment, at position: Int, limit: Int, offset: UInt64) throws(Fault) {
    recordsLeft = 0
    self.segment = nil
    walk = cframe_walk(segment.bytes, at: position, limit: limit, place: segment.place)
    if position > SegmentHeader.byteCount { try enter(segment, at: position, offset: offset) }
    self.segment = segment
  }

  private mutating func enter(_ segment: Segment, at position: Int, offset: UInt64) throws(Fault) {
    try walk.enter()
    let header = FrameHeader(trusted: segment.bytes, at: position)
    guard header.firstOffset <= offset, header.endOffset >= offset else {
      throw Fault(
        position: position + 8, reason: "the frame begins with offset \(header.firstOffset), expected \(offset)")
    }
  }

  /// Lets the walk go on to where the segment is durable now.
  mutating func extend(to limit: Int) {
    walk.limit = UInt64(limit)
  }

  /// Checks the next run. It may hold no event: a frame may have cursors alone.
  ///
  /// - Parameter offset: events before it are left out.
  /// - Parameter end: no event of this segment has it or a greater one.
  mutating func readRun(from offset: UInt64, to end: UInt64) throws(Fault) {
    guard let segment, let start = segment.bytes.baseAddress else { return }
    try walk.advance(by: Self.runByteCount)
    guard segment.baseOffset + walk.relative_offset <= end else {
      throw Fault(
        position: Int(walk.run_position), reason: "events behind offset \(end), with which the segment should end")
    }
    // Proof: the run was just found to lie within the segment's bytes.
    record = start + Int(walk.run_position)
    recordsLeft = walk.run_records
    timestamp = walk.timestamp
    while recordsLeft > 0 {
      let first = SoundRecord(checked: record)
      if segment.baseOffset + UInt64(first.relativeOffset) >= offset { break }
      record += first.byteCount
      recordsLeft -= 1
    }
  }
}

extension cframe_walk {
  /// Between frames, before the one at `position`, which begins with the segment's first event if it is the first.
  init(_ bytes: UnsafeRawBufferPointer, at position: Int, limit: Int, place: Place) {
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
    case CFRAME_WRONG_PADDING: reason = "bytes behind the frame's last record that are not padding"
    default: reason = "the frame's body checksum does not match its records"
    }
    throw Fault(position: Int(fault_position), reason: reason)
  }
}
