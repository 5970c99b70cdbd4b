/// A read position in the log: ``next()`` returns the next durable event, or nil at the end of what is durable, and
/// continues from there when there is more. The same calls catch up and tail:
///
/// ```swift
/// var cursor = try store.reader.cursor(from: 0)
/// repeat {
///   while let event = try cursor.next() { print(event.offset, event.payload.byteCount) }
/// } while try await cursor.waitForMore()
/// ```
///
/// The loop ends, without an error, when its task is cancelled or the reader is closed: see *How reading ends* at
/// ``LogReader``.
///
/// An event is borrowed from the cursor until the next call. An event costs no allocation and no reference count: keep it
/// so; a test counts. Every byte is checked before it is returned. A cursor is for one task at a time. Any number of
/// cursors may read at once, and none waits for the writer. A cursor keeps its current segment mapped, and only that one.
///
/// Damage is thrown, unless the cursor was created to pass over it. Then ``next()`` returns nil once for it,
/// ``takePassed()`` returns what was left out, and ``next()`` continues with the next sound event.
public struct EventCursor: ~Copyable, Sendable {
  private let commitPoint: CommitPoint
  @usableFromInline var scan = FrameReader()
  @usableFromInline var nextOffset: UInt64
  /// The last gap that was passed: offsets whose events a repair could not save. ``next()`` continues with the event behind
  /// it.
  public private(set) var lastGap: Range<UInt64>?
  /// Events from this offset on are not known to be durable, or lie in another segment than the current one.
  private var end: UInt64 = 0
  @usableFromInline var baseOffset: UInt64 = 0
  /// No event before this offset is returned.
  private var firstOffset: UInt64
  @usableFromInline let storeIDFirst: UInt64
  private let passesOver: Bool
  /// Unreadable bytes are passed over only if they stay unreadable.
  var waitsForDisk = true
  /// The damage map of the current segment, if it is damaged.
  private var map: DamageMap?
  private var passed: [DamagedRange] = []
  /// The offset at which a map was last found to be out of date.
  private var faultOffset: UInt64?
  private var pace: ReadPace
  /// Events that may be returned before the next check whether reading ends.
  private var eventsUntilCheck: UInt32 = 0
  /// Why ``next()`` returned nil before the end of what is durable: `closed` or `cancelled`.
  @usableFromInline private(set) var ending: LogStoreError?

  @usableFromInline
  init(_ commitPoint: CommitPoint, from offset: UInt64, passingOverDamage: Bool = false, endsWithTask: Bool = true) {
    self.commitPoint = commitPoint
    pace = ReadPace(endsWithTask: endsWithTask)
    passesOver = passingOverDamage
    nextOffset = offset
    firstOffset = offset
    storeIDFirst = commitPoint.segments.storeID.first
  }

  /// The offset of the event that ``next()`` returns next.
  @inlinable public var offset: UInt64 { nextOffset }

  /// The next event. Returns nil at the end of what is durable at the time of the call, when the task is cancelled or the
  /// reader is closed, and after damage was passed over, until ``takePassed()`` is called. ``offset`` is where reading
  /// continues.
  ///
  /// The bytes of an event can become unreadable while they are used, and are zeros then. The next call throws, and the
  /// call after it returns that event again. Call ``check()`` to be certain before you act on an event.
  ///
  /// - Throws: ``LogStoreError/damaged(_:)``, on every call, unless damage is passed over;
  ///   ``LogStoreError/unreadable(_:)``, again only if the disk still can't read the bytes, and no longer once they have
  ///   stayed unreadable and damage is passed over; ``LogStoreError/inputOutput(operation:path:code:)`` if a segment can't
  ///   be opened.
  @inlinable
  @inline(__always)
  @_lifetime(&self)
  public mutating func next() throws(LogStoreError) -> EventView? {
    while true {
      if let record = scan.nextEvent() {
        nextOffset &+= 1
        let event = EventView(
          record, baseOffset: baseOffset, storeIDFirst: storeIDFirst, timestampMicroseconds: scan.timestamp)
        // Proof: the record lies in the segment that the scan holds. The scan releases it, if at all, in a later call,
        // which can't be made while this call's event is in use.
        return _overrideLifetime(event, mutating: &self)
      }
      if try !readMore() { return nil }
    }
  }

  /// Throws ``LogStoreError/unreadable(_:)`` if bytes of the last event became unreadable while they were used, so that
  /// they may be zeros. Otherwise it costs the comparison of one number.
  @inlinable
  @inline(__always)
  public mutating func check() throws(LogStoreError) {
    if scan.isUncertain { try checkFaults() }
  }

  /// Waits until ``next()`` has an event; returns true at once if it has one. Returns false when the task is cancelled or
  /// the reader is closed, even if there are more events. Costs nothing while it waits.
  public nonisolated(nonsending) func waitForMore() async throws(LogStoreError) -> Bool {
    try await commitPoint.wait(
      for: commitPoint.segments.gaps.gap(at: nextOffset)?.upperBound ?? nextOffset, endsWithTask: pace.endsWithTask)
  }

  /// Throws `closed` or `cancelled` if that is why ``next()`` returned nil: what was read until then must not look
  /// complete.
  @inlinable
  func checkEnding() throws(LogStoreError) {
    if let ending { throw ending }
  }

  /// The damaged places that were passed over since the last call, in order. A place without events is reported when its
  /// segment is entered. This cursor reports each place once.
  public mutating func takePassed() -> [DamagedRange] {
    if passed.isEmpty { return [] }
    defer { passed = [] }
    return passed
  }

  /// Checks more of the log until there is an event to return. Returns false at the durable end, and when reading ends.
  @usableFromInline
  mutating func readMore() throws(LogStoreError) -> Bool {
    try check()
    var rounds = 0
    while true {
      // Also check at the end of a segment or of the log, and in runs without events.
      if eventsUntilCheck == 0 || nextOffset >= end || rounds > 1, try !checkPace() { return false }
      rounds += 1
      if scan.release(&eventsUntilCheck) { return true }
      if nextOffset >= end {
        if try !advance() { return false }
        // Records of a damaged frame were checked one by one.
        if scan.release(&eventsUntilCheck) { return true }
      }
      do throws(Fault) {
        try scan.readRun(from: nextOffset, to: end)
      } catch {
        // Proof: `advance` has begun a segment.
        let segment = scan.segment!
        let failure = segment.damage(error)
        if case .unreadable = failure { releaseSegment() }
        try passOver(segment.baseOffset, failure)
      }
    }
  }

  /// Checks whether reading ends. Returns false if it does.
  private mutating func checkPace() throws(LogStoreError) -> Bool {
    if let found = pace.ending(of: commitPoint) {
      ending = found
      eventsUntilCheck = 0
      // A reader that was closed because its follower found damage throws that error.
      if found == .closed { try commitPoint.checkFailure() }
      return false
    }
    if ending != nil { ending = nil }
    pace.noteTime()
    eventsUntilCheck = pace.stride
    return true
  }

  @usableFromInline
  mutating func checkFaults() throws(LogStoreError) {
    do throws(LogStoreError) {
      try scan.checkFaults()
    } catch {
      // The last event may have been zeros, so it is returned again.
      nextOffset = max(nextOffset, firstOffset + 1) - 1
      releaseSegment()
      throw error
    }
  }

  /// Releases the segment. The next call maps it again, in case the disk can read it by then.
  private mutating func releaseSegment() {
    scan.reset()
    end = 0
  }

  /// Finds the durable end and the next event. Returns false if the event isn't there yet.
  private mutating func advance() throws(LogStoreError) -> Bool {
    while true {
      let last = commitPoint.end
      // Passed places are reported before the event behind them.
      guard nextOffset < last.offset, passed.isEmpty else { return false }
      let segments = commitPoint.segments
      if !segments.gaps.isEmpty, let gap = segments.gaps.gap(at: nextOffset) {
        lastGap = gap
        nextOffset = gap.upperBound
        firstOffset = gap.upperBound
        continue
      }
      let base = segments.baseOffset(holding: nextOffset)
      if passesOver, let map = segments.damageMaps[base], nextOffset < map.endOffset, mayPass(map) {
        if try enter(map) { return true }
        continue
      }
      do throws(LogStoreError) {
        try enter(base, last)
        return true
      } catch {
        try passOver(base, error)
      }
    }
  }

  /// Goes to the next event in a segment that isn't known to be damaged.
  private mutating func enter(_ base: UInt64, _ last: DurableEnd) throws(LogStoreError) {
    let segments = commitPoint.segments
    let segment = try segments.segmentToScan(base)
    if let error = segment.fileError { throw error }
    let isLast = base == last.baseOffset
    // In a finished segment everything is durable; in the last one, everything before the durable end's position.
    let limit = isLast ? last.position : segment.bytes.count
    guard limit <= segment.bytes.count else {
      throw segment.damage(
        Fault(position: segment.bytes.count, reason: "the file ends before byte \(limit), which was durable"))
    }
    if scan.segment === segment, map == nil {
      scan.extend(to: limit)
    } else {
      let position =
        nextOffset == base
        ? SegmentHeader.byteCount : try segments.framePosition(holding: nextOffset, in: segment, end: limit)
      do throws(Fault) {
        try scan.begin(segment, at: position, limit: limit, offset: nextOffset)
      } catch {
        throw segment.damage(error)
      }
    }
    map = nil
    baseOffset = base
    end = isLast ? last.offset : segments.endOffset(of: base) ?? last.offset
  }

  // MARK: - Passing over damage

  /// Whether the damage in a map may be passed over by now: that another reader has built the map is no reason.
  private func mayPass(_ map: DamageMap) -> Bool {
    !map.isOfUnreadable || !waitsForDisk || commitPoint.segments.damageMaps.isPatienceOver(map.segment.baseOffset)
  }

  /// After a fault: maps what is sound in the segment, so that ``advance()`` continues there. Throws the fault unless damage
  /// is passed over and the map shows it.
  private mutating func passOver(_ base: UInt64, _ error: LogStoreError) throws(LogStoreError) {
    // The second fault at the same offset: another map would say the same, and this would never end.
    guard passesOver, error.isOfTheFile, faultOffset != nextOffset else { throw error }
    if case .unreadable = error, waitsForDisk, !commitPoint.segments.damageMaps.isPatienceOver(base) { throw error }
    // If there is a map, something that it calls sound has gone bad since, or the log has grown.
    let known = commitPoint.segments.damageMaps[base]
    let isOutOfDate = known.map { $0 === map || nextOffset >= $0.endOffset } ?? false
    if isOutOfDate { faultOffset = nextOffset }
    let found = try commitPoint.segments.damageMap(
      of: base, upTo: commitPoint.end, insteadOf: isOutOfDate ? known : nil)
    guard let found, nextOffset < found.endOffset else { throw error }
    end = nextOffset
    map = nil
  }

  /// Goes to the next event of a damaged segment. Returns false if there is none before the next piece of the map.
  private mutating func enter(_ map: DamageMap) throws(LogStoreError) -> Bool {
    if self.map !== map {
      passed += map.ranges.filter { $0.offsets.isEmpty && $0.offsets.lowerBound >= nextOffset }
    }
    self.map = map
    baseOffset = map.segment.baseOffset
    guard let piece = map.piece(holding: nextOffset) else {
      preconditionFailure("a map of a segment has a piece for every offset before its end")
    }
    switch piece.content {
    case .missing(let number):
      passed.append(map.ranges[number])
      nextOffset = piece.offsets.upperBound
      firstOffset = nextOffset
      return false
    case .frames:
      do throws(Fault) {
        try scan.begin(
          map.segment, at: piece.bytes.lowerBound, limit: piece.bytes.upperBound, offset: piece.offsets.lowerBound)
      } catch {
        try passOver(map.segment.baseOffset, map.segment.damage(error))
        return false
      }
    case .records(let count, let timestamp):
      guard
        scan.begin(map.segment, records: count, in: piece.bytes, timestamp: timestamp, from: nextOffset)
      else {
        let fault = Fault(position: piece.bytes.lowerBound, reason: "a record is not what it was a while ago")
        try passOver(map.segment.baseOffset, map.segment.damage(fault))
        return false
      }
    }
    end = piece.offsets.upperBound
    return true
  }
}
