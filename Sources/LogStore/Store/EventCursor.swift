/// A place in the log from which events are taken one by one: ``next()`` gives the next durable event, or nil at the end
/// of what is durable, and goes on from there when there is more. The same calls catch up and tail:
///
/// ```swift
/// var cursor = try store.reader.cursor(from: 0)
/// repeat {
///   while let event = try cursor.next() { print(event.offset, event.payload.byteCount) }
/// } while try await cursor.waitForMore()
/// ```
///
/// An event is borrowed from the cursor until the next call. Nothing is allocated and nothing reference-counted for an
/// event: keep it so; a test counts. Every byte is checked before it is handed out. For one task at a time; any number
/// of cursors may read at once, and none waits for the writer. A cursor keeps the segment that it is in mapped, and one
/// at a time.
public struct EventCursor: ~Copyable, Sendable {
  private let durable: Durable
  @usableFromInline var walk = FrameWalk()
  @usableFromInline var nextOffset: UInt64
  /// The gap that was passed last: offsets whose events a repair could not save. ``next()`` goes on with the event behind
  /// it.
  public private(set) var lastGap: Range<UInt64>?
  /// Events from here on are not known to be durable, or in another segment than the one that the walk is in.
  private var end: UInt64 = 0
  @usableFromInline var baseOffset: UInt64 = 0
  /// No event before it is given.
  private var firstOffset: UInt64
  @usableFromInline let storeIDFirst: UInt64

  @usableFromInline
  init(_ durable: Durable, from offset: UInt64) {
    self.durable = durable
    nextOffset = offset
    firstOffset = offset
    storeIDFirst = durable.segments.storeID.first
  }

  /// The offset of the event that ``next()`` gives next.
  @inlinable public var offset: UInt64 { nextOffset }

  /// The next event; nil at the end of what is durable at the time of the call.
  ///
  /// Bytes of an event that was given can become unreadable while they are read, and are zeros then: the next call throws,
  /// and the one after it gives that event again, so whoever has to be certain before he acts on an event calls ``check()``.
  ///
  /// - Throws: ``LogStoreError/damaged(_:)``, also when called again; ``LogStoreError/unreadable(_:)``, when called again
  ///   only if the disk still can't read it; ``LogStoreError/closed``;
  ///   ``LogStoreError/inputOutput(operation:path:code:)`` if a segment can't be opened.
  @inlinable
  @inline(__always)
  @_lifetime(&self)
  public mutating func next() throws(LogStoreError) -> EventView? {
    while true {
      if let record = walk.nextEvent() {
        nextOffset &+= 1
        let event = EventView(
          record, baseOffset: baseOffset, storeIDFirst: storeIDFirst, timestampMicroseconds: walk.timestamp)
        // Proof: the record lies in the segment that the walk holds, and the walk lets go of it, if at all, in a later
        // call, which can't be made while this one's event is in use.
        return _overrideLifetime(event, mutating: &self)
      }
      if try !readOn() { return nil }
    }
  }

  /// Throws ``LogStoreError/unreadable(_:)`` if bytes of the event that was given last could not be read while they were
  /// read, so that they may be zeros. One number is compared if not.
  @inlinable
  @inline(__always)
  public mutating func check() throws(LogStoreError) {
    if walk.isUncertain { try lookAtFaults() }
  }

  /// Waits until ``next()`` has an event: true at once if it has. False when the task is cancelled or the reader is
  /// closed. Costs nothing while it waits.
  public nonisolated(nonsending) func waitForMore() async throws(LogStoreError) -> Bool {
    try await durable.wait(for: durable.segments.gaps.gap(at: nextOffset)?.upperBound ?? nextOffset)
  }

  /// Checks more of the log, until there is an event to give. False at the durable end.
  @usableFromInline
  mutating func readOn() throws(LogStoreError) -> Bool {
    try lookAtFaults()
    if walk.recordsLeft > 0 { return true }
    while true {
      if nextOffset >= end, try !goOn() { return false }
      do throws(Fault) {
        try walk.readRun(from: nextOffset, to: end)
      } catch {
        // Proof: `goOn` has begun a segment.
        let failure = walk.segment!.damage(error)
        if case .unreadable = failure { letGo() }
        throw failure
      }
      if walk.recordsLeft > 0 { return true }
    }
  }

  @usableFromInline
  mutating func lookAtFaults() throws(LogStoreError) {
    do throws(LogStoreError) {
      try walk.lookAtFaults()
    } catch {
      // The event that was given last may have been zeros, and is to be given again.
      nextOffset = max(nextOffset, firstOffset + 1) - 1
      letGo()
      throw error
    }
  }

  /// Begins with its segment again at the next call, mapped again if the disk can read it by then.
  private mutating func letGo() {
    walk.letGo()
    end = 0
  }

  /// Looks how far the log is durable by now, and where the next event is. False if it isn't there yet.
  private mutating func goOn() throws(LogStoreError) -> Bool {
    let last = try durable.checkedEnd()
    guard nextOffset < last.offset else { return false }
    let segments = durable.segments
    if !segments.gaps.isEmpty, let gap = segments.gaps.gap(at: nextOffset) {
      lastGap = gap
      nextOffset = gap.upperBound
      firstOffset = gap.upperBound
      guard nextOffset < last.offset else { return false }
    }
    let base = segments.baseOffset(holding: nextOffset)
    let segment = try segments.segmentToScan(base)
    let isLast = base == last.baseOffset
    // Everything in a finished segment is durable; in the last one, all before the durable end's position.
    let limit = isLast ? last.position : segment.bytes.count
    guard limit <= segment.bytes.count else {
      throw segment.damage(
        Fault(position: segment.bytes.count, reason: "the file ends before byte \(limit), which was durable"))
    }
    if walk.segment === segment {
      walk.extend(to: limit)
    } else {
      let position =
        nextOffset == base
        ? SegmentHeader.byteCount : try segments.framePosition(holding: nextOffset, in: segment, end: limit)
      do throws(Fault) {
        try walk.begin(segment, at: position, limit: limit, offset: nextOffset)
      } catch {
        throw segment.damage(error)
      }
    }
    baseOffset = base
    end = isLast ? last.offset : segments.endOffset(of: base) ?? last.offset
    return true
  }
}
