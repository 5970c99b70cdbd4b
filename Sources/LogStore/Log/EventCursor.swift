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
/// The loop ends, without an error, when its task is cancelled or the reader is closed: see *How reading ends* at ``LogReader``.
///
/// An event is borrowed from the cursor until the next call. Nothing is allocated and nothing reference-counted for an
/// event: keep it so; a test counts. Every byte is checked before it is handed out. For one task at a time; any number
/// of cursors may read at once, and none waits for the writer. A cursor keeps the segment that it is in mapped, and one
/// at a time.
///
/// Damage is thrown, unless the cursor was made to pass over it. Then ``next()`` gives nil once for it, ``takePassed()`` tells
/// what was left out, and ``next()`` goes on with the sound event behind.
public struct EventCursor: ~Copyable, Sendable {
  private let commitPoint: CommitPoint
  @usableFromInline var scan = FrameReader()
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
  private let passesOver: Bool
  /// What the disk can't read is passed over only if that lasts.
  var waitsForDisk = true
  /// The map of the damaged segment that it is in.
  private var map: DamageMap?
  private var passed: [DamagedRange] = []
  /// Where a map was found to be out of date last.
  private var faultOffset: UInt64?
  private var pace: ReadPace
  /// Events that may be given before the next look whether reading ends.
  private var eventsToLook: UInt32 = 0
  /// Why ``next()`` gave nil before the end of what is durable: `closed` or `cancelled`.
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

  /// The offset of the event that ``next()`` gives next.
  @inlinable public var offset: UInt64 { nextOffset }

  /// The next event; nil at the end of what is durable at the time of the call, when the task is cancelled or the reader is
  /// closed, and where damage was passed over, until ``takePassed()`` was called. Where it has come to is ``offset``.
  ///
  /// Bytes of an event that was given can become unreadable while they are read, and are zeros then: the next call throws,
  /// and the one after it gives that event again, so whoever has to be certain before he acts on an event calls ``check()``.
  ///
  /// - Throws: ``LogStoreError/damaged(_:)``, also when called again, unless damage is passed over;
  ///   ``LogStoreError/unreadable(_:)``, when called again only if the disk still can't read it, and not any more if damage is
  ///   passed over and that lasts;
  ///   ``LogStoreError/inputOutput(operation:path:code:)`` if a segment can't be opened.
  @inlinable
  @inline(__always)
  @_lifetime(&self)
  public mutating func next() throws(LogStoreError) -> EventView? {
    while true {
      if let record = scan.nextEvent() {
        nextOffset &+= 1
        let event = EventView(
          record, baseOffset: baseOffset, storeIDFirst: storeIDFirst, timestampMicroseconds: scan.timestamp)
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
    if scan.isUncertain { try lookAtFaults() }
  }

  /// Waits until ``next()`` has an event: true at once if it has. False when the task is cancelled or the reader is closed,
  /// also if there are more events. Costs nothing while it waits.
  public nonisolated(nonsending) func waitForMore() async throws(LogStoreError) -> Bool {
    try await commitPoint.wait(
      for: commitPoint.segments.gaps.gap(at: nextOffset)?.upperBound ?? nextOffset, endsWithTask: pace.endsWithTask)
  }

  /// Throws `closed` or `cancelled` if that is why ``next()`` gave nil: what was read until then must not look whole.
  @inlinable
  func checkEnding() throws(LogStoreError) {
    if let ending { throw ending }
  }

  /// The damaged places that were passed over since this was last called, in order; a place without an event, too, is told
  /// when its segment is entered. Their offsets are not told again by this cursor.
  public mutating func takePassed() -> [DamagedRange] {
    if passed.isEmpty { return [] }
    defer { passed = [] }
    return passed
  }

  /// Checks more of the log, until there is an event to give. False at the durable end, and when reading ends.
  @usableFromInline
  mutating func readOn() throws(LogStoreError) -> Bool {
    try check()
    var rounds = 0
    while true {
      // Also at the end of a segment or the log, and where there are runs without events.
      if eventsToLook == 0 || nextOffset >= end || rounds > 1, try !look() { return false }
      rounds += 1
      if scan.release(&eventsToLook) { return true }
      if nextOffset >= end {
        if try !goOn() { return false }
        // Records of a damaged frame were checked one by one.
        if scan.release(&eventsToLook) { return true }
      }
      do throws(Fault) {
        try scan.readRun(from: nextOffset, to: end)
      } catch {
        // Proof: `goOn` has begun a segment.
        let segment = scan.segment!
        let failure = segment.damage(error)
        if case .unreadable = failure { letGo() }
        try passOver(segment.baseOffset, failure)
      }
    }
  }

  /// False if reading ends.
  private mutating func look() throws(LogStoreError) -> Bool {
    if let found = pace.ending(of: commitPoint) {
      ending = found
      eventsToLook = 0
      // A reader that was closed since its follower has found damage says so.
      if found == .closed { try commitPoint.checkFailure() }
      return false
    }
    if ending != nil { ending = nil }
    pace.noteTime()
    eventsToLook = pace.stride
    return true
  }

  @usableFromInline
  mutating func lookAtFaults() throws(LogStoreError) {
    do throws(LogStoreError) {
      try scan.checkFaults()
    } catch {
      // The event that was given last may have been zeros, and is to be given again.
      nextOffset = max(nextOffset, firstOffset + 1) - 1
      letGo()
      throw error
    }
  }

  /// Begins with its segment again at the next call, mapped again if the disk can read it by then.
  private mutating func letGo() {
    scan.reset()
    end = 0
  }

  /// Looks how far the log is durable by now, and where the next event is. False if it isn't there yet.
  private mutating func goOn() throws(LogStoreError) -> Bool {
    while true {
      let last = commitPoint.end
      // What was passed over is told before the event behind it.
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
    // Everything in a finished segment is durable; in the last one, all before the durable end's position.
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

  /// Whether what a map says may be passed over by now: that somebody else has looked at it is no reason.
  private func mayPass(_ map: DamageMap) -> Bool {
    !map.isOfUnreadable || !waitsForDisk || commitPoint.segments.damageMaps.isPatienceOver(map.segment.baseOffset)
  }

  /// After a fault: has what is sound of the segment looked for, so that ``goOn()`` goes on there. Throws the fault unless
  /// damage is passed over and was found.
  private mutating func passOver(_ base: UInt64, _ error: LogStoreError) throws(LogStoreError) {
    // Twice at the same place: another map says what the first one said, so going on would never end.
    guard passesOver, error.isOfTheFile, faultOffset != nextOffset else { throw error }
    if case .unreadable = error, waitsForDisk, !commitPoint.segments.damageMaps.isPatienceOver(base) { throw error }
    // If there is a map, what it calls sound has gone bad since, or the log has grown.
    let known = commitPoint.segments.damageMaps[base]
    let isOutOfDate = known.map { $0 === map || nextOffset >= $0.endOffset } ?? false
    if isOutOfDate { faultOffset = nextOffset }
    let found = try commitPoint.segments.damageMap(
      of: base, upTo: commitPoint.end, insteadOf: isOutOfDate ? known : nil)
    guard let found, nextOffset < found.endOffset else { throw error }
    end = nextOffset
    map = nil
  }

  /// Goes to the next event of a damaged segment. False if there is none before the next place to look at.
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
