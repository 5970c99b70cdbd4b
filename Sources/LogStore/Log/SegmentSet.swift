import Glibc
import Synchronization

/// A store's segments in order, with their indexes. May be used from any thread.
///
/// Opened segments and index files are kept. Over ``segmentsMapped`` all segments are let go, to be mapped anew as they are
/// needed. Whoever still reads one holds it.
final class SegmentSet: Sendable {
  /// Mapped at a time. A mapping costs no memory of its own, but the kernel allows a process 65,530.
  static let segmentsMapped = 4096
  /// Bytes of indexes that had to be built in memory, since there was no sound file.
  static let builtByteCount = 64 << 20
  /// Mapped a second time, for reading in order.
  static let segmentsScanned = 64
  /// How often a directory is listed anew whose index files go while they are opened.
  private static let listingAttempts = 16

  struct State {
    var snapshot: Snapshot
    /// The directory has been looked through for index files since that was last asked for.
    var isListed = false
    /// Grows with every change to the index files.
    var generation = 0
    var mappedCount = 0
    /// Oldest first.
    var scanned: [Segment] = []
    /// Segments whose files as a whole are not what they should be, and when they are looked at again.
    var faulty: [(segment: Segment, untilMilliseconds: UInt64)] = []
    var built = BuiltIndexes()
    /// Paths of files that led astray.
    var distrusted: Set<String> = []
  }

  let directory: String
  let disk: any Disk
  let storeID: StoreID
  let gaps: Gaps
  /// Finished segments are opened whatever their state, and what is sound in them is served.
  let servesDamaged: Bool
  /// Of segments that were found damaged.
  let damageMaps: DamageMaps
  /// Nil: nothing is kept.
  let cache: StreamCache?
  private let state: Mutex<State>
  /// Told when there is something to do for whoever makes index files. Reading never writes one: it must go on when the
  /// disk is full or not ours to write.
  private let missing: Mutex<(@Sendable () -> Void)?> = Mutex(nil)
  /// The number of faults of the process at which nothing of what is mapped here was left unreadable.
  private let wellAt = Atomic<UInt64>(0)
  /// Milliseconds of the monotonic clock until which unreadable pages are left alone.
  private let rests = Atomic<UInt64>(0)
  private static let restMilliseconds: UInt64 = 100

  /// - Parameter streamCacheBytes: how much memory streams that are read again and again may take; 0 for none.
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

  /// - Parameter tell: called from any thread when an index file is missing or not sound.
  func whenIndexIsMissing(_ tell: @escaping @Sendable () -> Void) {
    missing.withLock { $0 = tell }
  }

  // MARK: - Segments

  /// As it is, whether index files were looked for or not.
  var present: Snapshot { state.withLock { $0.snapshot } }

  var bases: [UInt64] { present.bases }
  var open: ActiveIndex { present.open }

  /// The segment that an offset is in, or is to be in, if it is at the end of the log.
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
    // It may be put back at any time.
    if opened.fileError != nil { return opened }
    let segment = slot.keep(opened)
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

  /// A segment that could not be read, kept for a short time. After that it is mapped again, since the file may be repaired. It
  /// is not mapped again for each look-up: each mapping raises new faults for the unreadable pages, and a look-up that starts
  /// over after a fault would never end.
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

  /// A segment to be read in order: in a mapping of its own, since the kernel is told of the others that look-ups jump
  /// about in them.
  func segmentToScan(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    let faults = faultCount()
    if faults != 0 { try lookAtFaults(faults) }
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

  /// Where a finished segment ends, by the header of the one after it; nil for the last.
  func end(of baseOffset: UInt64) throws(LogStoreError) -> (offset: UInt64, chain: UInt32)? {
    guard let next = successor(of: baseOffset) else { return nil }
    let header = try header(of: next)
    return (header.previousEndOffset, header.chain)
  }

  /// Makes a new last segment known. The one before keeps its index in memory until ``install(_:)`` or
  /// ``giveUp(_:)``, or is gone if it had no event and so the same name.
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

  /// Goes on at a later segment than the last one known: for a follower, which learns of several at once.
  func advance(over newBases: [UInt64], to open: ActiveIndex) {
    let finished = state.withLock { state in
      let old = state.snapshot
      state.mappedCount += 1
      if newBases.isEmpty {
        state.snapshot = old.with(slots: old.slotsReplacingLast(by: open), open: open)
      } else {
        // What was the last segment may have been replaced by another file of the same name, if it had no event.
        state.snapshot = old.with(
          bases: old.bases + newBases, slots: old.slotsForgettingLast(adding: newBases, open: open), open: open)
      }
      state.isListed = false
      return old.open.segment
    }
    finished.mapping.expectRandomAccess()
  }

  // MARK: - Index files

  /// The store as it is now, index files and all.
  @inline(__always)
  func current() throws(LogStoreError) -> Snapshot {
    let (snapshot, isListed) = state.withLock { ($0.snapshot, $0.isListed) }
    return isListed ? snapshot : try listForReading()
  }

  private func listForReading() throws(LogStoreError) -> Snapshot {
    let listing = try list()
    if !listing.useless.isEmpty || listing.snapshot.sources.contains(where: { $0.kind == .missing }) { tellMissing() }
    return listing.snapshot
  }

  struct Listing {
    var snapshot: Snapshot
    /// Names of index files that are of no use: inside larger ones, of segments that there are not, or not sound and
    /// replaced by others.
    var useless: [String] = []
    /// Names of index files that are damaged or can't be read, and that no sound files replace. They stay until then: an
    /// error of the disk may pass, and of a damaged segment nothing else tells what is lost there.
    var suspects: [String] = []
  }

  /// Looks through the directory for index files and takes up those that are sound, the larger ones first.
  func list() throws(LogStoreError) -> Listing {
    var attempts = 0
    while true {
      attempts += 1
      let (known, generation, distrusted) = state.withLock { ($0.snapshot, $0.generation, $0.distrusted) }
      let names = try disk.list(directory)
      var listing = Listing(snapshot: known)
      var ranges: [Range<UInt64>] = []
      var suspects: [Range<UInt64>] = []
      for name in names where name.hasSuffix(FileName.indexSuffix) {
        guard let range = FileName.indexRange(name), let first = known.ordinal(of: range.lowerBound),
          let last = known.ordinal(of: range.upperBound), first < last
        else {
          listing.useless.append(name)
          continue
        }
        if distrusted.contains(join(directory, name)) { suspects.append(range) } else { ranges.append(range) }
      }
      ranges.sort { ($0.lowerBound, $1.upperBound) < ($1.lowerBound, $0.upperBound) }
      var files: [IndexFile] = []
      var isGone = false
      for range in ranges {
        if let last = files.last, range.lowerBound < last.endOffset {
          listing.useless.append(FileName.index(range))
          continue
        }
        if let file = known.files.first(where: { $0.baseOffset..<$0.endOffset == range }) {
          files.append(file)
          continue
        }
        switch try openIndex(range, known) {
        case .sound(let file): files.append(file)
        case .damaged: suspects.append(range)
        case .gone: isGone = true
        }
      }
      for range in suspects {
        let name = FileName.index(range)
        if Self.covers(files, range) { listing.useless.append(name) } else { listing.suspects.append(name) }
      }
      // The writer has merged it meanwhile: what it became is there.
      if isGone, attempts < Self.listingAttempts { continue }
      let taken = state.withLock { state -> Snapshot? in
        guard state.generation == generation else { return nil }
        state.snapshot = state.snapshot.with(files: files)
        state.isListed = true
        let paths = Set(names.map { join(directory, $0) })
        state.distrusted.formIntersection(paths)
        return state.snapshot
      }
      guard let taken else { continue }
      listing.snapshot = taken
      return listing
    }
  }

  /// - Parameter files: in order, none inside another.
  private static func covers(_ files: [IndexFile], _ range: Range<UInt64>) -> Bool {
    var covered = range.lowerBound
    for file in files where file.baseOffset <= covered { covered = max(covered, file.endOffset) }
    return covered >= range.upperBound
  }

  private enum Opened {
    case sound(IndexFile)
    case damaged
    case gone
  }

  private func openIndex(_ range: Range<UInt64>, _ snapshot: Snapshot) throws(LogStoreError) -> Opened {
    let path = join(directory, FileName.index(range))
    let mapping: Mapping
    do throws(LogStoreError) {
      let file = try disk.open(path, .read)
      mapping = try file.map(byteCount: Int(clamping: try file.byteCount()))
    } catch .inputOutput(_, _, ENOENT) {
      return .gone
    } catch  where error.finding != nil {
      return .damaged
    }
    mapping.expectRandomAccess()
    guard
      let index = try? IndexFile(
        mapping, path: path, storeID: storeID, baseOffset: range.lowerBound, endOffset: range.upperBound),
      index.header.segments.map(\.baseOffset) == snapshot.bases.filter({ range.contains($0) })
    else { return .damaged }
    // It belongs to the content that the next segment follows on from. If that can't be opened, whoever reads it will say so.
    if let next = try? header(of: range.upperBound), next.chain != index.header.segments.last?.chain {
      return .damaged
    }
    return .sound(index)
  }

  /// Bytes of the index files that are in use.
  func indexByteCount() throws(LogStoreError) -> UInt64 {
    try current().files.reduce(0) { $0 + UInt64($1.bytes.count) }
  }

  /// A file is there and durable, and takes the place of all that it covers.
  func install(_ file: IndexFile) {
    state.withLock { state in
      let old = state.snapshot
      let range = file.baseOffset..<file.endOffset
      state.snapshot = old.with(
        unsealed: old.unsealed.filter { !range.contains($0.segment.baseOffset) },
        files: old.files.filter { !range.contains($0.baseOffset) } + [file])
      state.generation += 1
      for segment in file.header.segments { state.built.forget(segment.baseOffset) }
      state.distrusted.remove(file.path)
    }
  }

  /// All index files were removed: what was taken up of them goes.
  func forgetIndexes() {
    state.withLock { state in
      state.snapshot = state.snapshot.with(files: [])
      state.generation += 1
      state.isListed = false
    }
  }

  /// The index file of a segment can't be made: its index in memory goes all the same, since memory is bounded.
  func giveUp(_ baseOffset: UInt64) {
    state.withLock { state in
      state.snapshot = state.snapshot.with(
        unsealed: state.snapshot.unsealed.filter { $0.segment.baseOffset != baseOffset })
    }
  }

  /// A file was not what it should be. If it led astray in a segment, it is first made sure that the log itself is sound
  /// there: if not, that is thrown, and the file stays.
  func distrust(_ file: IndexFile, _ fault: Fault, segment: Int?) throws(LogStoreError) {
    if file.isBuilt { throw file.damage(fault) }
    if let segment { try checkLog(file.header.segments[segment].baseOffset) }
    state.withLock { state in
      guard state.snapshot.files.contains(where: { $0 === file }) else { return }
      state.snapshot = state.snapshot.with(files: state.snapshot.files.filter { $0 !== file })
      state.distrusted.insert(file.path)
      state.generation += 1
      // Smaller ones inside it may still be there.
      state.isListed = false
    }
    tellMissing()
  }

  // MARK: - What the disk could not read

  /// Maps again what can be read again, and does without index files that are not all there.
  ///
  /// - Parameter count: faults of the process until now.
  func lookAtFaults(_ count: UInt64) throws(LogStoreError) {
    guard wellAt.load(ordering: .acquiring) != count else { return }
    let now = disk.monotonicMilliseconds()
    let due = rests.load(ordering: .relaxed)
    guard now >= due,
      rests.compareExchange(expected: due, desired: now + Self.restMilliseconds, ordering: .relaxed).exchanged
    else { return }
    let (snapshot, scanned) = state.withLock { ($0.snapshot, $0.scanned) }
    var isWell = true
    for segment in snapshot.mappedSegments + scanned where segment.mapping.faultCount > 0 {
      if segment.mapping.heal() { continue }
      isWell = false
      if segment.mapping.isOfOtherFile { unmap(segment.baseOffset) }
    }
    for file in snapshot.files where file.hasFaults {
      try distrust(file, Fault(position: 0, reason: "the index can't be read"), segment: nil)
    }
    if isWell { wellAt.store(count, ordering: .releasing) }
  }

  /// The file of a finished segment is not what was mapped any more: the next reader opens the file as it is now, as after a
  /// restart.
  func unmap(_ baseOffset: UInt64) {
    state.withLock { state in
      guard baseOffset != state.snapshot.open.segment.baseOffset else { return }
      state.scanned.removeAll { $0.baseOffset == baseOffset }
      state.faulty.removeAll { $0.segment.baseOffset == baseOffset }
      guard let ordinal = state.snapshot.ordinal(of: baseOffset), state.snapshot.slot(ordinal).mapped != nil
      else { return }
      state.snapshot = state.snapshot.withoutMappings()
      state.mappedCount = 0
    }
  }

  private func tellMissing() {
    missing.withLock { $0 }?()
  }

  /// The index of a finished segment that has no sound file, made in memory from the segment.
  func builtIndex(_ segment: Segment, anew: Bool = false) throws(LogStoreError) -> IndexFile {
    if !anew, let known = state.withLock({ $0.built.value(segment.baseOffset) }) { return known }
    // Not read again and again to find the same: who looks for anything may come by here.
    if let error = damageMaps[segment.baseOffset]?.worst { throw error }
    tellMissing()
    let scanned = try segmentToScan(segment.baseOffset)
    let faults = (scanned: scanned.mapping.faultCount, own: segment.mapping.faultCount)
    let (index, end) = try readThrough(scanned)
    let input = index.state.withLock { $0.sealingInput() }
    let output = IndexOutput(nil)
    let path = join(directory, FileName.index(segment.baseOffset..<end.offset))
    do {
      _ = try IndexEncoding.encode(input, of: segment, end: end, to: output)
      let built = try IndexFile(
        output.takeMemory(), path: path, storeID: storeID, baseOffset: segment.baseOffset, endOffset: end.offset,
        isBuilt: true)
      // What was read for the index may be zeros that are not the file's.
      try scanned.checkReadable(0..<end.position, since: faults.scanned)
      try segment.checkReadable(0..<end.position, since: faults.own)
      state.withLock { $0.built.keep(built) }
      return built
    } catch let error as LogStoreError {
      throw error
    } catch {
      // Nothing is read or written on the way but memory.
      preconditionFailure("an index that was just made is not sound: \(error)")
    }
  }

  /// Reads all of a finished segment, and finds where its events are.
  ///
  /// - Returns: as the end's offset that of the next segment, though there be a gap before it.
  func readThrough(_ segment: Segment) throws(LogStoreError) -> (index: ActiveIndex, end: FrameExpectation) {
    guard let successor = successor(of: segment.baseOffset) else {
      preconditionFailure("the last segment's index is the open one")
    }
    if let error = segment.fileError { throw error }
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    let next = try self.segment(successor)
    guard next.hasOwnHeader else {
      // What the segment ends with is lost with that header. All that is there has to come to where the next one begins.
      let fault = scan.go(to: .firstInvalid, in: segment, adding: index)
      if scan.next.offset != successor, let fault { throw segment.damage(fault) }
      return (index, scan.next)
    }
    let end = RecoveryScan.End.successor(endOffset: next.header.previousEndOffset, chain: next.header.chain)
    if let fault = scan.go(to: end, in: segment, adding: index) { throw segment.damage(fault) }
    scan.next.offset = successor
    return (index, scan.next)
  }
}

/// Indexes in memory of segments without a file; over the limit the one used longest ago goes.
struct BuiltIndexes {
  private var entries: [UInt64: (index: IndexFile, lastUse: UInt64)] = [:]
  private var uses: UInt64 = 0
  private var byteCount = 0

  mutating func value(_ baseOffset: UInt64) -> IndexFile? {
    guard let entry = entries[baseOffset] else { return nil }
    uses += 1
    entries[baseOffset] = (entry.index, uses)
    return entry.index
  }

  mutating func keep(_ index: IndexFile) {
    forget(index.baseOffset)
    uses += 1
    entries[index.baseOffset] = (index, uses)
    byteCount += index.bytes.count
    while byteCount > SegmentSet.builtByteCount, entries.count > 1,
      let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse })
    {
      forget(oldest.key)
    }
  }

  mutating func forget(_ baseOffset: UInt64) {
    if let entry = entries.removeValue(forKey: baseOffset) { byteCount -= entry.index.bytes.count }
  }
}
