import CLinux
import Synchronization

/// A store's segments and index files at one moment. A query takes a snapshot and needs no further lock. Every change
/// replaces the whole snapshot.
final class Snapshot: Sendable {
  /// A source of index entries for a part of the log.
  struct Source: Sendable {
    enum Kind: Sendable {
      /// The segment that is being written.
      case open
      /// A finished segment whose index file is being written: an index in ``Snapshot/unsealed``.
      case unsealed
      /// An index in ``Snapshot/files``.
      case file
      /// A finished segment without a sound index file.
      case missing
    }

    var kind: Kind
    var index: Int
    /// The first segment's ordinal.
    var ordinal: Int
  }

  /// The base offsets of the segments, ascending. The last one is the open segment's.
  let bases: [UInt64]
  private let slots: [SegmentSlot]
  let open: ActiveIndex
  /// Newest first.
  let unsealed: [ActiveIndex]
  /// Newest first; none overlaps another.
  let files: [IndexFile]
  /// Newest first; they cover the whole log.
  let sources: [Source]
  /// The oldest segments, all of which have an index file or can be read to build one: the first of their ``sources``, and
  /// the base offset of the first segment behind them.
  let sealed: (firstSource: Int, end: UInt64)
  private let streamFilters: ContiguousArray<FilterProbe>
  private let idFilters: ContiguousArray<FilterProbe>

  /// - Parameter files: in any order, not overlapping, each from one base offset to another.
  /// - Parameter unsealed: finished segments. Those that a file covers are left out.
  init(bases: [UInt64], slots: [SegmentSlot], open: ActiveIndex, unsealed: [ActiveIndex], files: [IndexFile]) {
    self.bases = bases
    self.slots = slots
    self.open = open
    let files = files.sorted { $0.baseOffset > $1.baseOffset }
    var remaining: [ActiveIndex] = []
    var sources = [Source(kind: .open, index: 0, ordinal: bases.count - 1)]
    var number = 0
    var ordinal = bases.count - 2
    while ordinal >= 0 {
      let base = bases[ordinal]
      if number < files.count, files[number].header.segments.last?.baseOffset == base {
        ordinal -= files[number].segmentCount
        sources.append(Source(kind: .file, index: number, ordinal: ordinal + 1))
        number += 1
        continue
      }
      if let index = unsealed.first(where: { $0.segment.baseOffset == base }) {
        sources.append(Source(kind: .unsealed, index: remaining.count, ordinal: ordinal))
        remaining.append(index)
      } else {
        sources.append(Source(kind: .missing, index: 0, ordinal: ordinal))
      }
      ordinal -= 1
    }
    precondition(number == files.count, "an index file that does not fit the segments")
    self.files = files
    self.unsealed = remaining
    self.sources = sources
    // Proof: the first source is the open segment's.
    let newest = sources.lastIndex { $0.kind == .open || $0.kind == .unsealed }!
    sealed = (newest + 1, bases[sources[newest].ordinal])
    streamFilters = ContiguousArray(files.map { $0.filter(.streams) })
    idFilters = ContiguousArray(files.map { $0.filter(.eventIDs) })
  }

  /// A copy with some parts replaced.
  func with(
    bases: [UInt64]? = nil, slots: [SegmentSlot]? = nil, open: ActiveIndex? = nil, unsealed: [ActiveIndex]? = nil,
    files: [IndexFile]? = nil
  ) -> Snapshot {
    Snapshot(
      bases: bases ?? self.bases, slots: slots ?? self.slots, open: open ?? self.open,
      unsealed: unsealed ?? self.unsealed, files: files ?? self.files)
  }

  /// The ordinal of the segment with this base offset.
  func ordinal(of baseOffset: UInt64) -> Int? {
    let next = bases.partitionPoint { $0 > baseOffset }
    return next > 0 && bases[next - 1] == baseOffset ? next - 1 : nil
  }

  /// The source of a segment.
  func source(of ordinal: Int) -> Source {
    // Proof: the last source begins with the first segment.
    sources[sources.firstIndex { $0.ordinal <= ordinal } ?? sources.count - 1]
  }

  func slot(_ ordinal: Int) -> SegmentSlot { slots[ordinal] }

  /// The index files from the oldest on, in runs without a gap between two files. Each run is merged by itself.
  var fileRuns: [[IndexFile]] {
    var runs: [[IndexFile]] = []
    for file in files.reversed() {
      if let last = runs.last?.last, last.endOffset == file.baseOffset {
        runs[runs.count - 1].append(file)
      } else {
        runs.append([file])
      }
    }
    return runs
  }

  /// The number of the newest sources that cover segments beginning at or behind an offset; at least one, the open
  /// segment's.
  ///
  /// - Parameter coveredEnd: the base offset of a segment.
  @inline(__always)
  func sourceCount(behind coveredEnd: UInt64) -> Int {
    if coveredEnd == 0 { return sources.count }
    var count = 1
    while count < sources.count, bases[sources[count - 1].ordinal] > coveredEnd { count += 1 }
    return count
  }

  /// Prefetches a record, if its segment is mapped already.
  @inline(__always)
  func prefetchRecord(ordinal: Int, at position: Int) {
    slots[ordinal].prefetchRecord(at: position)
  }

  /// Prefetches the header of a record's frame, if its segment is mapped already. Waits for the record.
  @inline(__always)
  func prefetchHeader(ordinal: Int, ofRecordAt position: Int) {
    slots[ordinal].prefetchHeader(ofRecordAt: position)
  }

  /// The segments that are mapped for queries, and those that are indexed in memory.
  var mappedSegments: [Segment] { slots.compactMap(\.mapped) + [open.segment] + unsealed.map(\.segment) }

  /// Empties every slot but the open segment's. A mapping ends with its last reader.
  func withoutMappings() -> Snapshot {
    with(slots: bases.map { $0 == open.segment.baseOffset ? SegmentSlot(open.segment) : SegmentSlot($0) })
  }

  func slots(adding newBases: [UInt64], open: ActiveIndex) -> [SegmentSlot] {
    slots + newBases.map { $0 == open.segment.baseOffset ? SegmentSlot(open.segment) : SegmentSlot($0) }
  }

  func slotsForgettingLast(adding newBases: [UInt64], open: ActiveIndex) -> [SegmentSlot] {
    slots.dropLast() + [SegmentSlot(self.open.segment.baseOffset)]
      + newBases.map { $0 == open.segment.baseOffset ? SegmentSlot(open.segment) : SegmentSlot($0) }
  }

  func slotsReplacingLast(by open: ActiveIndex) -> [SegmentSlot] {
    slots.dropLast() + [SegmentSlot(open.segment)]
  }

  /// The files, among the 64 newest, that may have a key, as bits. All filters are probed at once, without a branch in
  /// between, so that the processor waits for their memory at the same time.
  ///
  /// - Parameter sourceCount: only files among this many of the newest sources are probed.
  @inline(__always)
  func candidates(
    _ section: IndexSection, _ key: UInt64, sourceCount: Int? = nil
  ) throws(IndexFailure) -> UInt64 {
    let filters = section == .streams ? streamFilters : idFilters
    var count = min(filters.count, 64)
    if let sourceCount, sourceCount < sources.count {
      count = min(count, sources[..<sourceCount].last { $0.kind == .file }.map { $0.index + 1 } ?? 0)
    }
    // A probe has too many instructions for more than a few of them to wait for memory at the same time.
    for number in 0..<count { filters[number].prefetch(key) }
    var maybe: UInt64 = 0
    var damaged: UInt64 = 0
    for number in 0..<count {
      let outcome = filters[number].probe(key)
      maybe |= (outcome == .maybe ? 1 : 0) << UInt64(truncatingIfNeeded: number)
      damaged |= (outcome == .damaged ? 1 : 0) << UInt64(truncatingIfNeeded: number)
    }
    if damaged != 0 { throw filterDamage(damaged.trailingZeroBitCount, section, key) }
    return maybe
  }

  /// Whether a file may have a key.
  /// - Parameter candidates: the result of ``candidates(_:_:sourceCount:)``.
  @inline(__always)
  func isCandidate(
    _ number: Int, _ candidates: UInt64, _ section: IndexSection, _ key: UInt64
  ) throws(IndexFailure) -> Bool {
    if number < 64 { return candidates >> UInt64(truncatingIfNeeded: number) & 1 != 0 }
    switch (section == .streams ? streamFilters : idFilters)[number].probe(key) {
    case .absent: return false
    case .maybe: return true
    case .damaged: throw filterDamage(number, section, key)
    }
  }

  private func filterDamage(_ number: Int, _ section: IndexSection, _ key: UInt64) -> IndexFailure {
    .index(files[number], files[number].filterFault(section, key: key), segment: nil)
  }
}

/// The slot of a segment in a ``Snapshot``. The segment is mapped when it is first needed, and stays mapped while the
/// snapshot has the slot.
final class SegmentSlot: Sendable {
  let baseOffset: UInt64
  /// The slot's own reference to a ``Segment``, set once. Not `AtomicLazyReference`, whose `load` is not specialised and
  /// asks the runtime for metadata each time.
  private let reference = Atomic<UInt>(0)
  /// The address of the segment's memory, for prefetches that don't go through three objects; 0 before it is mapped.
  private let start = Atomic<UInt>(0)

  init(_ baseOffset: UInt64) {
    self.baseOffset = baseOffset
  }

  init(_ segment: Segment) {
    baseOffset = segment.baseOffset
    _ = install(segment)
  }

  deinit {
    Self.segment(reference.load(ordering: .acquiring))?.release()
  }

  // Proof for the next three functions: `reference` holds a segment retained in `install` and released only in `deinit`, so
  // it is alive while the caller holds the slot.

  @inline(__always)
  var mapped: Segment? {
    Self.segment(reference.load(ordering: .acquiring))?.takeUnretainedValue()
  }

  /// Prefetches the first bytes of an event of usual size.
  @inline(__always)
  func prefetchRecord(at position: Int) {
    // The address is not read, so it need not be in the mapping.
    guard let start = UnsafeRawPointer(bitPattern: start.load(ordering: .relaxed)) else { return }
    for line in stride(from: 0, to: 320, by: 64) { clinux_prefetch(start + position + line) }
  }

  /// See ``Segment/prefetchHeader(ofRecordAt:)``. Counts no reference, which would wait for the memory.
  @inline(__always)
  func prefetchHeader(ofRecordAt position: Int) {
    guard let known = Self.segment(reference.load(ordering: .acquiring)) else { return }
    known._withUnsafeGuaranteedRef { $0.prefetchHeader(ofRecordAt: position) }
  }

  /// Stores the segment, unless another was stored before. Returns the stored one.
  func install(_ segment: Segment) -> Segment {
    let retained = Unmanaged.passRetained(segment)
    let (isFirst, known) = reference.compareExchange(
      expected: 0, desired: UInt(bitPattern: retained.toOpaque()), ordering: .acquiringAndReleasing)
    guard !isFirst, let known = Self.segment(known) else {
      start.store(UInt(bitPattern: segment.bytes.baseAddress), ordering: .relaxed)
      return segment
    }
    retained.release()
    return known.takeUnretainedValue()
  }

  @inline(__always)
  private static func segment(_ reference: UInt) -> Unmanaged<Segment>? {
    UnsafeRawPointer(bitPattern: reference).map(Unmanaged.fromOpaque)
  }
}
