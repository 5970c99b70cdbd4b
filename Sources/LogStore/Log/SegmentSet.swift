import Synchronization

/// A store's segments in order, with their indexes. May be used from any thread.
///
/// Opened segments and index files are kept, up to a number: the ones used longest ago are let go. Whoever still reads
/// one holds it.
final class SegmentSet: Sendable {
  static let segmentsKept = 64
  static let indexesKept = 512
  /// Indexes that had to be built in memory, since there was no sound file and none could be written.
  static let builtIndexesKept = 4

  struct State {
    /// Base offsets, ascending.
    var bases: [UInt64]
    /// The last segment's.
    var open: OpenIndex
    /// Of finished segments whose file is being written.
    var unsealed: [UInt64: OpenIndex] = [:]
    var segments = RecentlyUsed<Segment>(limit: segmentsKept)
    var indexes = RecentlyUsed<SealedIndex>(limit: indexesKept)
    var builtIndexes = RecentlyUsed<SealedIndex>(limit: builtIndexesKept)
  }

  let directory: String
  let disk: any Disk
  let storeID: StoreID
  private let state: Mutex<State>
  /// Told of a finished segment that has no sound index file. Reading never writes one: it must go on when the disk is
  /// full or not ours to write.
  private let missing: Mutex<(@Sendable (UInt64) -> Void)?> = Mutex(nil)

  init(directory: String, disk: any Disk, storeID: StoreID, bases: [UInt64], open: OpenIndex) {
    self.directory = directory
    self.disk = disk
    self.storeID = storeID
    state = Mutex(State(bases: bases, open: open))
  }

  func whenIndexIsMissing(_ tell: @escaping @Sendable (UInt64) -> Void) {
    missing.withLock { $0 = tell }
  }

  var bases: [UInt64] { state.withLock { $0.bases } }
  var open: OpenIndex { state.withLock { $0.open } }

  /// The segment that an offset is in, or is to be in, if it is at the end of the log.
  func baseOffset(holding offset: UInt64) -> UInt64 {
    state.withLock { state in
      // Proof for the subtraction: the first base is 0, so at least one is not after the offset.
      state.bases[state.bases.partitionPoint { $0 > offset } - 1]
    }
  }

  /// The base offset of the segment after this one.
  func successor(of baseOffset: UInt64) -> UInt64? {
    state.withLock { state in
      let next = state.bases.partitionPoint { $0 > baseOffset }
      return next < state.bases.count ? state.bases[next] : nil
    }
  }

  func segment(_ baseOffset: UInt64) throws(LogStoreError) -> Segment {
    let known = state.withLock { state in
      state.open.segment.baseOffset == baseOffset ? state.open.segment : state.segments.value(baseOffset)
    }
    if let known { return known }
    let segment = try Segment.open(
      join(directory, FileName.segment(baseOffset)), baseOffset: baseOffset, storeID: storeID, disk: disk)
    state.withLock { $0.segments.keep(segment, baseOffset) }
    return segment
  }

  /// Where a finished segment ends, by the header of the one after it; nil for the last.
  func end(of baseOffset: UInt64) throws(LogStoreError) -> (offset: UInt64, chain: UInt32)? {
    guard let next = successor(of: baseOffset) else { return nil }
    return (next, try segment(next).header.chain)
  }

  /// A segment's index; built anew where its file is missing or damaged.
  ///
  /// - Parameter distrustingFile: the file has led astray: build anew whatever it looks like.
  func index(_ baseOffset: UInt64, distrustingFile: Bool = false) throws(LogStoreError) -> any SegmentIndex {
    let known: (any SegmentIndex)? = state.withLock { state in
      if distrustingFile { state.indexes.forget(baseOffset) }
      if state.open.segment.baseOffset == baseOffset { return state.open }
      return state.unsealed[baseOffset] ?? state.indexes.value(baseOffset) ?? state.builtIndexes.value(baseOffset)
    }
    if let known { return known }
    let segment = try segment(baseOffset)
    if !distrustingFile, let sealed = try readIndex(of: segment) {
      state.withLock { $0.indexes.keep(sealed, baseOffset) }
      return sealed
    }
    missing.withLock { $0 }?(baseOffset)
    return try buildIndex(of: segment).index
  }

  /// Does what `look` does with a segment's index, and once more with an index built anew if the first one was damaged
  /// or led astray: the log is the truth.
  func withIndex<Value>(
    _ baseOffset: UInt64, _ look: (any SegmentIndex, Segment) throws(LogStoreError) -> Value
  ) throws(LogStoreError) -> Value {
    // Both are known as a rule: one lock for the two.
    let known: (segment: Segment, index: any SegmentIndex)? = state.withLock { state in
      if state.open.segment.baseOffset == baseOffset { return (state.open.segment, state.open) }
      guard let segment = state.segments.value(baseOffset), let index = state.indexes.value(baseOffset) else {
        return nil
      }
      return (segment, index)
    }
    let segment: Segment
    let index: any SegmentIndex
    if let known {
      (segment, index) = known
    } else {
      segment = try self.segment(baseOffset)
      index = try self.index(baseOffset)
    }
    do throws(LogStoreError) {
      return try look(index, segment)
    } catch .damaged(let damage) {
      guard let sealed = index as? SealedIndex, sealed.path == damage.file else { throw .damaged(damage) }
      return try look(try self.index(baseOffset, distrustingFile: true), segment)
    }
  }

  /// nil if there is no file, or none that is sound.
  private func readIndex(of segment: Segment) throws(LogStoreError) -> SealedIndex? {
    let path = join(directory, FileName.index(segment.baseOffset))
    guard try disk.exists(path) else { return nil }
    let file = try disk.open(path, .read)
    let mapping = try file.map(byteCount: Int(clamping: try file.byteCount()))
    return try? SealedIndex(
      mapping, path: path, segment: segment, endOffset: successor(of: segment.baseOffset))
  }

  /// Whether a segment has an index file that opens; its blocks are checked as they are read.
  func hasIndexFile(_ baseOffset: UInt64) throws(LogStoreError) -> Bool {
    try readIndex(of: try segment(baseOffset)) != nil
  }

  /// Writes the index file of a finished segment, from the segment alone; gives back its length in bytes. One thread at
  /// a time, and only the writer's process.
  func writeIndex(of baseOffset: UInt64) throws(LogStoreError) -> Int {
    let bytes = try buildIndex(of: try segment(baseOffset)).bytes
    try disk.replace(join(directory, FileName.index(baseOffset)), with: bytes)
    state.withLock { state in
      state.indexes.forget(baseOffset)
      state.builtIndexes.forget(baseOffset)
    }
    return bytes.count
  }

  /// Reads all of a finished segment and makes its index in memory.
  private func buildIndex(of segment: Segment) throws(LogStoreError) -> (index: SealedIndex, bytes: [UInt8]) {
    guard let end = try end(of: segment.baseOffset) else {
      preconditionFailure("the last segment's index is the open one")
    }
    let index = OpenIndex(segment)
    var walk = Walk(segment)
    if let fault = walk.go(
      to: .successor(baseOffset: end.offset, chain: end.chain), in: segment, adding: index)
    {
      throw segment.damage(fault)
    }
    let bytes = index.state.withLock { IndexFile.encode($0, of: segment, end: walk.next) }
    let sealed: SealedIndex
    do throws(Fault) {
      sealed = try SealedIndex(
        Mapping(copying: bytes), path: join(directory, FileName.index(segment.baseOffset)), segment: segment,
        endOffset: end.offset, isBuilt: true)
    } catch {
      preconditionFailure("an index that was just made is not sound: \(error.reason)")
    }
    state.withLock { $0.builtIndexes.keep(sealed, segment.baseOffset) }
    return (sealed, bytes)
  }

  /// Makes a new last segment known. The one before keeps its index in memory until ``sealed(_:)``, or is gone if it had
  /// no event and so the same name.
  func append(_ open: OpenIndex) {
    state.withLock { state in
      if state.open.segment.baseOffset == open.segment.baseOffset {
        state.open = open
        return
      }
      state.unsealed[state.open.segment.baseOffset] = state.open
      state.segments.keep(state.open.segment, state.open.segment.baseOffset)
      state.bases.append(open.segment.baseOffset)
      state.open = open
    }
  }

  /// Goes on at a later segment than the last one known: for a follower, which learns of several at once.
  func advance(over newBases: [UInt64], to open: OpenIndex) {
    state.withLock { state in
      if state.open.segment.baseOffset != open.segment.baseOffset {
        state.segments.keep(state.open.segment, state.open.segment.baseOffset)
      }
      state.bases.append(contentsOf: newBases)
      state.open = open
    }
  }

  /// The index file of a segment is there, or can't be made: its index in memory may go.
  func sealed(_ baseOffset: UInt64) {
    state.withLock { $0.unsealed[baseOffset] = nil }
  }
}

/// Values by base offset; over the limit the one used longest ago goes.
struct RecentlyUsed<Value> {
  private var entries: [UInt64: (value: Value, lastUse: UInt64)] = [:]
  private var uses: UInt64 = 0
  private let limit: Int

  init(limit: Int) {
    self.limit = limit
  }

  mutating func value(_ key: UInt64) -> Value? {
    guard let entry = entries[key] else { return nil }
    uses += 1
    entries[key] = (entry.value, uses)
    return entry.value
  }

  mutating func keep(_ value: Value, _ key: UInt64) {
    uses += 1
    entries[key] = (value, uses)
    if entries.count > limit, let oldest = entries.min(by: { $0.value.lastUse < $1.value.lastUse }) {
      entries[oldest.key] = nil
    }
  }

  mutating func forget(_ key: UInt64) {
    entries[key] = nil
  }
}
