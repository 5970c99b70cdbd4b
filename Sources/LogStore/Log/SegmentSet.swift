import Glibc
import Synchronization

/// A store's segments in order, with their indexes. Thread-safe.
///
/// Open segments and index files stay mapped. Above ``segmentsMapped``, all segments are dropped, and mapped again when
/// they are needed. A reader keeps its segment alive.
final class SegmentSet: Sendable {
  /// The greatest number of mapped segments. A mapping costs no memory of its own, but the kernel allows a process only
  /// 65,530.
  static let segmentsMapped = 4096
  /// The greatest size of indexes built in memory, for segments without a sound index file.
  static let builtByteCount = 64 << 20
  /// The greatest number of segments mapped a second time, for sequential reading.
  static let segmentsScanned = 64
  /// How often a directory is listed again because its index files disappear while they are opened.
  static let listingAttempts = 16

  struct State {
    var snapshot: Snapshot
    /// Whether the directory was searched for index files since that was last requested.
    var isListed = false
    /// Increases with every change to the index files.
    var generation = 0
    var mappedCount = 0
    /// Oldest first.
    var scanned: [Segment] = []
    /// Segments whose files as a whole are wrong, and the time of the next check.
    var faulty: [(segment: Segment, untilMilliseconds: UInt64)] = []
    var built = BuiltIndexes()
    /// Paths of index files that were wrong.
    var distrusted: Set<String> = []
  }

  let directory: String
  let disk: any Disk
  let storeID: StoreID
  let gaps: Gaps
  /// Whether finished segments are opened in any state, and their sound parts are served.
  let servesDamaged: Bool
  /// Of segments that were found damaged.
  let damageMaps: DamageMaps
  /// nil: no cache.
  let cache: StreamCache?
  let state: Mutex<State>
  /// Called when there is an index file to build. Readers never write one: reading must work on a full disk, and without
  /// the right to write.
  let missing: Mutex<(@Sendable () -> Void)?> = Mutex(nil)
  /// The fault count of the process at which nothing mapped here was left unreadable.
  let wellAt = Atomic<UInt64>(0)
  /// Milliseconds of the monotonic clock until which unreadable pages are left alone.
  let rests = Atomic<UInt64>(0)
  static let restMilliseconds: UInt64 = 100

  /// - Parameter streamCacheBytes: the memory that the cache of often read streams may take; 0 for no cache.
  init(
    directory: String, disk: any Disk, storeID: StoreID, bases: [UInt64], gaps: Gaps, open: ActiveIndex,
    streamCacheBytes: Int, servesDamaged: Bool = false
  ) {
    self.servesDamaged = servesDamaged
    damageMaps = DamageMaps(disk)
    self.directory = directory
    self.disk = disk
    self.storeID = storeID
    self.gaps = gaps
    cache = streamCacheBytes == 0 ? nil : StreamCache(byteCount: streamCacheBytes)
    let slots = bases.map { $0 == open.segment.baseOffset ? SegmentSlot(open.segment) : SegmentSlot($0) }
    state = Mutex(State(snapshot: Snapshot(bases: bases, slots: slots, open: open, unsealed: [], files: [])))
  }

  /// - Parameter notify: called from any thread when an index file is missing or not sound.
  func whenIndexMissing(_ notify: @escaping @Sendable () -> Void) {
    missing.withLock { $0 = notify }
  }

  // MARK: - Segments

  /// The snapshot as it is, whether index files were listed or not.
  var present: Snapshot { state.withLock { $0.snapshot } }

  var bases: [UInt64] { present.bases }
  var open: ActiveIndex { present.open }

  /// The base offset of the segment that holds an offset. The end of the log belongs to the last segment.
  func baseOffset(holding offset: UInt64) -> UInt64 {
    let bases = present.bases
    // Proof for the subtraction: the first base is 0, so at least one is not after the offset.
    return bases[bases.partitionPoint { $0 > offset } - 1]
  }

  /// The base offset of the segment after this one.
  func successor(of baseOffset: UInt64) -> UInt64? {
    let bases = present.bases
    let next = bases.partitionPoint { $0 > baseOffset }
    return next < bases.count ? bases[next] : nil
  }

  /// The offset after the last event of a finished segment; nil for the last.
  func endOffset(of baseOffset: UInt64) -> UInt64? {
    guard let next = successor(of: baseOffset) else { return nil }
    return gaps.gap(before: next)?.lowerBound ?? next
  }

  func segment(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    let snapshot = present
    guard let ordinal = snapshot.ordinal(of: baseOffset) else { return try openSegment(baseOffset) }
    return try segment(ordinal, in: snapshot)
  }

  @inline(__always)
  func segment(_ ordinal: Int, in snapshot: Snapshot) throws(LogStoreError) -> Segment {
    let slot = snapshot.slot(ordinal)
    if let segment = slot.mapped { return segment }
    return try map(slot)
  }

  private func map(_ slot: SegmentSlot) throws(LogStoreError) -> Segment {
    let opened = try openSegment(slot.baseOffset)
    // The file may be put back at any time.
    if opened.fileError != nil { return opened }
    let segment = slot.install(opened)
    state.withLock { state in
      state.mappedCount += 1
      if state.mappedCount > Self.segmentsMapped {
        state.snapshot = state.snapshot.withoutMappings()
        state.mappedCount = 0
      }
    }
    return segment
  }

  private func openSegment(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    let segment = try openSegmentToScan(baseOffset)
    segment.mapping.expectRandomAccess()
    return segment
  }

  private func openSegmentToScan(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    if servesDamaged, let known = faultySegment(baseOffset) { return known }
    let path = join(directory, FileName.segment(baseOffset))
    let segment: Segment
    do throws(LogStoreError) {
      segment = try Segment.open(path, baseOffset: baseOffset, storeID: storeID, disk: disk)
    } catch {
      guard servesDamaged, error.isOfTheFile, successor(of: baseOffset) != nil else { throw error }
      let opened = try Segment.openDamaged(path, baseOffset: baseOffset, storeID: storeID, disk: disk)
      if opened.fileError != nil { keepFaulty(opened) }
      return opened
    }
    try checkEnd(of: segment)
    return segment
  }

  /// A segment that could not be read, kept for a short time. After that it is mapped again, since the file may be
  /// repaired. It is not mapped again for each query: each mapping raises new faults for the unreadable pages, and a query
  /// that starts over after a fault would never end.
  private func faultySegment(_ baseOffset: UInt64) -> Segment? {
    state.withLock { state in
      if state.faulty.isEmpty { return nil }
      let now = disk.monotonicMilliseconds()
      state.faulty.removeAll { now > $0.untilMilliseconds }
      return state.faulty.first { $0.segment.baseOffset == baseOffset }?.segment
    }
  }

  private func keepFaulty(_ segment: Segment) {
    state.withLock { state in
      if state.faulty.count == Self.segmentsScanned { state.faulty.removeFirst() }
      state.faulty.append((segment, disk.monotonicMilliseconds() + DamageMaps.fileMilliseconds))
    }
  }

  /// Returns a segment for sequential reading. It has its own mapping, because the other mappings ask the kernel not to read
  /// ahead.
  func segmentToScan(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    let faults = faultCount()
    if faults != 0 { try remapUnreadable(faults) }
    let known = state.withLock { state in
      let open = state.snapshot.open.segment
      return open.baseOffset == baseOffset ? open : state.scanned.first { $0.baseOffset == baseOffset }
    }
    if let known { return known }
    let segment = try openSegmentToScan(baseOffset)
    if segment.fileError != nil { return segment }
    state.withLock { state in
      if state.scanned.count == Self.segmentsScanned { state.scanned.removeFirst() }
      state.scanned.append(segment)
    }
    return segment
  }

  /// The end of a finished segment, by the header of the next one; nil for the last segment.
  func end(of baseOffset: UInt64) throws(LogStoreError) -> (offset: UInt64, chain: UInt32)? {
    guard let next = successor(of: baseOffset) else { return nil }
    let header = try header(of: next)
    return (header.previousEndOffset, header.chain)
  }

  /// Adds a new last segment. The one before keeps its index in memory until ``install(_:)`` or ``discardIndex(of:)``. If
  /// it had no event, and so the same name, it is replaced.
  func append(_ open: ActiveIndex) {
    let finished = state.withLock { state -> Segment? in
      let old = state.snapshot
      if old.open.segment.baseOffset == open.segment.baseOffset {
        state.snapshot = old.with(slots: old.slotsReplacingLast(by: open), open: open)
        return nil
      }
      state.mappedCount += 1
      state.snapshot = old.with(
        bases: old.bases + [open.segment.baseOffset],
        slots: old.slots(adding: [open.segment.baseOffset], open: open), open: open,
        unsealed: [old.open] + old.unsealed)
      return old.open.segment
    }
    finished?.mapping.expectRandomAccess()
  }

  /// Continues with a later segment than the last one known: for a follower, which learns of several at once.
  func advance(over newBases: [UInt64], to open: ActiveIndex) {
    let finished = state.withLock { state in
      let old = state.snapshot
      state.mappedCount += 1
      if newBases.isEmpty {
        state.snapshot = old.with(slots: old.slotsReplacingLast(by: open), open: open)
      } else {
        // The last segment may have been replaced by another file of the same name, if it had no event.
        state.snapshot = old.with(
          bases: old.bases + newBases, slots: old.slotsForgettingLast(adding: newBases, open: open), open: open)
      }
      state.isListed = false
      return old.open.segment
    }
    finished.mapping.expectRandomAccess()
  }
}
